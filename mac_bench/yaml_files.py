"""YAML that people write: suites and profiles. What is wrong is named with its line."""

import re
from pathlib import Path
from typing import Any

import yaml

from mac_bench.config import Settings
from mac_bench.errors import UserError

SUITES = Path(__file__).parent.parent / "suites"
"""what comes with the project, beside the package: suites, which can be named without their folder, and tables"""


class _Loader(yaml.SafeLoader):
    """YAML that refuses a key twice, and reads 1e-3 as the number that everybody means."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        seen = set()
        for key in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode)):
            if key.value in seen:
                raise UserError(f"line {key.start_mark.line + 1}: '{key.value}' is there twice")
            seen.add(key.value)
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?[0-9][0-9_]*(\.[0-9_]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
)


def read_yaml(path: Path, kind: type[Settings]) -> dict[str, Any]:
    """The mapping in a file that describes one of this kind. Raises UserError with the file and the line."""
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), _Loader)
    except UserError as error:
        raise UserError(f"{path.name}: {error}") from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f"line {mark.line + 1}: " if mark else ""
        raise UserError(f"{path.name}: {line}not YAML ({error.problem or error.context})") from None
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise UserError(f"{path.name}: cannot be read ({str(error).splitlines()[0]})") from None
    if not isinstance(content, dict):
        needed = (name for name, field in kind.model_fields.items() if field.is_required())
        raise UserError(f"{path.name}: not a {kind.__name__.lower()}; it needs {', '.join(needed)}")
    return content
