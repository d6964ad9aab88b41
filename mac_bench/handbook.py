"""What agents say of themselves in their source: one line each without importing them, and all settings explained."""

import ast
import importlib.util
import inspect
import json
import textwrap
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, NamedTuple, Union, get_args, get_origin

import pydantic
from rich.console import Console
from rich.markup import escape

from mac_bench import contract, registry
from mac_bench.config import Settings
from mac_bench.overview import plain_table

PAGE = """# Methods

One file is one method, and the folder is the registry: a file that is put here is an agent. `bc.py` is the one to copy.
`mac-bench agents NAME` explains every setting, `mac-bench check-agent NAME` holds a method against the contract.

*Golden* means numbers of the official implementation, reproduced within 1e-5; *law* means tests of what makes the
method, each of which fails when the term is taken out; *learning* means that it beats cloning on a toy whose optimum is
known.

<!-- made by `mac-bench agents --page`; a test compares -->

"""


class Introduction(NamedTuple):
    """An agent in one line."""

    name: str
    version: int | None
    about: str


class Setting(NamedTuple):
    """One setting."""

    name: str
    type: str
    default: str
    meaning: str


def show_all(console: Console) -> None:
    """Every agent in one line."""
    table = plain_table("agent", "version:", "")
    for each in introductions():
        table.add_row(each.name, str(each.version), escape(each.about))
    console.print(table)
    console.print("\n[dim]all settings of one: mac-bench agents NAME[/]")


def show(console: Console, name: str) -> None:
    """All settings of an agent. Imports it. Raises UserError where there is none."""
    explained = settings(name)
    console.print(escape(about(name)))
    for title, rows in explained.items():
        console.print("" if title == name else f"\n[bold]{title}[/]")
        table = plain_table("", "", header=False)
        for row in rows:
            meaning = f"\n{escape(row.meaning)}" if row.meaning else ""
            table.add_row(f"[bold]{row.name}[/]", f"{escape(row.default)}  [dim]{escape(row.type)}[/]{meaning}")
        console.print(table)


def methods_page() -> str:
    """`baselines/README.md`: every method and what is known of it, from its own module. Imports them all."""
    rows = [["method", "file", "library", "tasks", "paper", "shown by", "departs from it", "defaults"]]
    rows.append(["---"] * len(rows[0]))
    for name in registry.names():
        module = registry.module(name)
        modes = " and ".join("goals" if goals else "rewards" for goals in contract.modes(name))
        path = f"../mac_bench/{name}.py" if name == "mac" else f"{name}.py"
        paper, parity, defaults, deviations = module.ABOUT
        title = about(name).split(":")[0].split(" (")[0]
        rows.append(
            [title, f"[`{name}`]({path})", _library(name), modes, paper, parity, deviations or "none", defaults]
        )
    return PAGE + "\n".join(f"| {' | '.join(row)} |" for row in rows) + "\n"


def introductions() -> list[Introduction]:
    """All agents that come with the project, by name; read from their source, none is imported."""
    return [_introduction(name) for name in registry.names()]


def settings(name: str) -> dict[str, list[Setting]]:
    """An agent's settings under its name, then those of each kind of mapping among them under the name of its type.

    Imports the agent. Raises UserError where there is none.
    """
    found, todo = {}, {name: registry.module(name).Config}
    while todo:
        title, kind = todo.popitem()
        found[title] = _fields(kind)
        inside = (_part(field.annotation) for field in kind.model_fields.values())
        todo |= {part.__name__: part for part in inside if part and part.__name__ not in found}
    return found


def about(name: str) -> str:
    """The first paragraph of an agent's docstring. Imports the agent."""
    return (inspect.getdoc(registry.module(name)) or "").split("\n\n")[0]


def _library(name: str) -> str:
    """What an agent computes with, by what its source imports."""
    found = {ast.unparse(node) for node in ast.walk(_source(name)) if isinstance(node, ast.Import)}
    return "JAX" if "import jax" in found else "PyTorch" if "import torch" in found else "NumPy"


def _source(name: str) -> ast.Module:
    spec = importlib.util.find_spec("mac_bench.mac" if name == "mac" else f"baselines.{name}")
    assert spec is not None and spec.origin is not None  # the registry has just listed it
    return ast.parse(Path(spec.origin).read_text(encoding="utf-8"))


def _introduction(name: str) -> Introduction:
    tree = _source(name)
    version = None
    for node in tree.body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "VERSION":
            version = ast.literal_eval(node.value)
    first = (ast.get_docstring(tree) or "").split("\n\n")[0]
    return Introduction(name, version, " ".join(first.split()))


def _fields(kind: type[Settings]) -> list[Setting]:
    meanings = _meanings(kind)
    return [
        Setting(name, _type(field.annotation) + _bounds(field), _default(field), meanings.get(name, ""))
        for name, field in kind.model_fields.items()
    ]


def _part(annotation: Any) -> type[Settings] | None:
    found = [kind for kind in (annotation, *get_args(annotation)) if inspect.isclass(kind)]
    return next((kind for kind in found if issubclass(kind, Settings)), None)


def _meanings(kind: type[Settings]) -> dict[str, str]:
    """The docstring under each field, which Python itself does not keep."""
    found = {}
    for parent in reversed(kind.__mro__):
        if issubclass(parent, Settings) and parent is not Settings:
            body = ast.parse(textwrap.dedent(inspect.getsource(parent))).body[0]
            assert isinstance(body, ast.ClassDef)
            for field, text in zip(body.body, body.body[1:], strict=False):
                if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr):
                    found[ast.unparse(field.target)] = " ".join(str(ast.literal_eval(text.value)).split())
    return found


def _default(field: pydantic.fields.FieldInfo) -> str:
    return "required" if field.is_required() else _text(field.get_default(call_default_factory=True))


def _text(value: Any) -> str:
    """As one would write it in YAML."""
    if isinstance(value, Settings):
        return "{" + ", ".join(f"{name}: {_text(part)}" for name, part in value) + "}"
    if isinstance(value, tuple):
        return f"[{', '.join(map(_text, value))}]"
    return value if isinstance(value, str) else json.dumps(value)


def _bounds(field: pydantic.fields.FieldInfo) -> str:
    signs = {"gt": ">", "ge": ">=", "lt": "<", "le": "<="}
    found = [
        f" {sign} {getattr(bound, name)}"
        for bound in field.metadata
        for name, sign in signs.items()
        if getattr(bound, name, None) is not None
    ]
    return ",".join(found)


def _type(annotation: Any) -> str:
    origin, inside = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return " | ".join(str(value) for value in inside)
    if origin is tuple:
        return f"list of {_type(inside[0])}"
    if origin in (Union, UnionType):
        return " | ".join(_type(kind) for kind in inside)
    if annotation is NoneType:
        return "null"
    if inspect.isclass(annotation) and issubclass(annotation, Settings):
        return annotation.__name__
    return getattr(annotation, "__name__", str(annotation))
