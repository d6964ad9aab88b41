"""Agent name -> module. The folder is the registry: a file in `baselines/` is an agent, and so is `mac`.

A user's own agent needs no fork: it is named by its module, `package.module`.
"""

import importlib
import pkgutil
from collections.abc import Mapping
from types import ModuleType
from typing import Any

from mac_bench.config import Settings, parse
from mac_bench.data import Dataset
from mac_bench.errors import UserError, unknown
from mac_bench.types import Agent


def names() -> list[str]:
    """Names of all agents that come with the project, sorted. Imports none of them."""
    import baselines

    return sorted(["mac", *(module.name for module in pkgutil.iter_modules(baselines.__path__))])


def module(name: str) -> ModuleType:
    """The module of an agent. Raises UserError for a name that is not there, or a module that is no agent.

    It has Config, make and VERSION, and may have `check_task(name)`: UserError for a task that it cannot do.
    """
    if "." not in name and name not in names():
        raise unknown("agent", name, names())
    if not all(part.isidentifier() for part in name.split(".")):
        raise UserError(f"'{name}' names no agent: one of your own is named by its module, package.module")
    path = name if "." in name else "mac_bench.mac" if name == "mac" else f"baselines.{name}"
    try:
        found = importlib.import_module(path)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{path}.".startswith(f"{error.name}."):
            advice = "; `make torch` installs it" if error.name == "torch" else ""
            raise UserError(
                f"agent '{name}' needs the package '{error.name}', which is not installed{advice}"
            ) from None
        raise UserError(f"no module '{path}' for an agent; is its folder on the PYTHONPATH?") from None
    except (SyntaxError, ImportError) as error:
        raise UserError(f"{path} cannot be imported: {type(error).__name__}: {error}") from error
    missing = [part for part in ("Config", "make", "VERSION") if not hasattr(found, part)]
    if missing:
        raise UserError(f"{path} is no agent: it lacks {', '.join(missing)}; an agent has Config, make and VERSION")
    if not (isinstance(found.Config, type) and issubclass(found.Config, Settings)):
        raise UserError(f"{path} is no agent: its Config must derive from mac_bench.config.Settings")
    return found


def settings(name: str, values: Mapping[str, Any], where: str) -> Settings:
    """All settings of an agent, the given ones checked and the others at their defaults."""
    return parse(module(name).Config, values, where)


def defaults(name: str) -> dict[str, Any]:
    """The settings of an agent that have a default, as a run's config holds them."""
    fields = module(name).Config.model_fields
    found = {
        key: field.get_default(call_default_factory=True) for key, field in fields.items() if not field.is_required()
    }
    return module(name).Config.model_construct(**found).model_dump(mode="json", include=set(found))


def make(name: str, values: Mapping[str, Any], data: Dataset, seed: int) -> Agent:
    """An agent with these settings for these data."""
    return module(name).make(settings(name, values, f"agent {name}"), data, seed)
