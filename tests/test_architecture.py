"""The house rules, held against the source: who may import whom, and what importing may cost."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

FLOORS = {
    "nouns": ["errors", "config", "types", "files", "yaml_files", "states"],
    "data": [
        "data",
        "workers",
        "resident",
        "prepared",
        "prepare",
        "d4rl",
        "d4rl_package",
        "minari_data",
        "generate",
        "inventory",
        "manifest",
        "npz",
        "sources",
        "download",
        "fetch",
        "collectors",
        "oracles",
        "tasks",
        "toy",
        "video",
    ],
    "tools": [
        "returns",
        "flow",
        "dynamics",
        "nn",
        "policies",
        "gaussian",
        "ensemble",
        "jax_agent",
        "torch_agent",
        "torch_nn",
        "ring",
        "world_model",
        "sac",
        "dyna",
    ],
    "algorithms": ["mac", "baselines"],
    "lab": [
        "registry",
        "provenance",
        "evaluate",
        "record",
        "trackers",
        "signals",
        "suite",
        "needs",
        "model_error",
        "train",
        "contract",
    ],
    "results": [
        "store",
        "queries",
        "events",
        "stats",
        "compare",
        "published",
        "reasons",
        "ran",
        "charts",
        "figures",
        "report",
        "export",
        "reproduction",
    ],
    "edges": [
        *("cli", "cli_data", "cli_jobs", "doctor", "handbook", "overview", "cost", "foresight", "browse", "__main__"),
        *("slurm", "dashboard"),
    ],
}
MAY_IMPORT = {
    "nouns": {"nouns"},
    "data": {"nouns", "data"},
    "tools": {"nouns", "data", "tools"},
    "algorithms": {"nouns", "data", "tools"},
    "lab": {"nouns", "data", "lab"},
    "results": {"nouns", "results"},
    "edges": {"nouns", "data", "lab", "results", "edges"},
}
FLOOR_OF = {room: floor for floor, rooms in FLOORS.items() for room in rooms}
ONLY_IN = {
    "ogbench": {"tasks", "d4rl", "generate", "collectors", "oracles", "video"},
    "mujoco": {"tasks", "d4rl", "generate", "collectors", "oracles", "video"},
    "gymnasium": {"tasks", "d4rl", "minari_data", "generate", "collectors", "oracles", "video"},
    "h5py": {"d4rl"},
    "submitit": {"slurm"},
    "sqlalchemy": {"store", "queries"},
    "streamlit": {"dashboard"},
    "tensorboard": {"trackers"},
    "wandb": {"trackers"},
}
NETWORK = {"urllib", "http", "ftplib", "smtplib", "xmlrpc", "ssl", "asyncio", "requests", "httpx", "aiohttp", "urllib3"}
FRAMEWORKS = {"jax", "flax", "optax", "torch"}
WITHOUT_FRAMEWORK = FLOORS["nouns"] + FLOORS["data"] + FLOORS["lab"] + FLOORS["results"] + FLOORS["edges"]


def sources() -> list[Path]:
    return sorted(
        path for folder in ("mac_bench", "baselines", "slurm", "dashboard") for path in (ROOT / folder).rglob("*.py")
    )


def room(path: Path) -> str:
    """The name of a file's room: its module in mac_bench, else its folder."""
    parts = path.relative_to(ROOT).parts
    return path.stem if parts[0] == "mac_bench" else parts[0]


def imports(path: Path) -> set[str]:
    """Everything that a file imports, anywhere in it, as full dotted names."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def rooms_imported(path: Path) -> set[str]:
    found = set()
    for name in imports(path):
        first, *rest = name.split(".")
        if first == "mac_bench" and rest and rest[0] != "__version__":
            found.add(rest[0])
        elif first in ("baselines", "slurm", "dashboard"):
            found.add(first)
    return found


FILES = pytest.mark.parametrize(
    "path", [p for p in sources() if p.name != "__init__.py"], ids=lambda p: str(p.relative_to(ROOT))
)


@FILES
def test_every_file_imports_only_what_its_floor_may(path):
    floor = FLOOR_OF[room(path)]
    for other in rooms_imported(path) - {room(path)}:
        if room(path) == "registry" and other == "baselines":
            continue  # the registry lists the folder
        assert FLOOR_OF[other] in MAY_IMPORT[floor], f"{room(path)} ({floor}) imports {other} ({FLOOR_OF[other]})"


@FILES
def test_algorithms_never_import_each_other(path):
    if FLOOR_OF[room(path)] == "algorithms":
        assert not [name for name in imports(path) if name.startswith(("baselines", "mac_bench.mac"))]


@FILES
def test_third_parties_stay_in_their_rooms(path):
    for name in imports(path):
        package = name.split(".")[0]
        if package in ONLY_IN:
            assert room(path) in ONLY_IN[package], f"only {ONLY_IN[package]} may say {package}"


@FILES
def test_one_benchmark_s_name_stays_in_its_rooms(path):
    for name, rooms in {
        "d4rl": {"d4rl", "d4rl_package", "sources", "tasks", "inventory", "reasons"},
        "minari": {"minari_data", "tasks", "inventory", "cli_data"},
    }.items():
        assert room(path) in rooms or name not in path.read_text(), f"only {rooms} may say {name}"


@FILES
def test_only_one_room_opens_connections(path):
    used = {name.split(".")[0] for name in imports(path)}
    assert room(path) == "download" or not used & NETWORK
    # a host's name, and whether a port of this machine is free
    assert "socket" not in used or room(path) in {"download", "fetch", "record", "browse", "slurm"}
    if room(path) in {"fetch", "record"}:
        assert set(re.findall(r"\bsocket\.\w+", path.read_text())) == {"socket.gethostname"}


@FILES
def test_frameworks_stay_with_the_algorithms(path):
    used = {name.split(".")[0] for name in imports(path)} & FRAMEWORKS
    if room(path) == "doctor":
        return  # it looks at what is there
    if room(path) in WITHOUT_FRAMEWORK:
        assert not used
    assert not ("torch" in used and used - {"torch"}), "an agent uses torch or jax, not both"


@FILES
def test_nothing_unpickles(path):
    names = imports(path)
    assert not [name for name in names if name.split(".")[0] in ("pickle", "cloudpickle", "joblib", "dill", "shelve")]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.keyword) and node.arg == "allow_pickle":
            assert isinstance(node.value, ast.Constant) and node.value.value is False
        if isinstance(node, ast.keyword) and node.arg == "shell":
            assert isinstance(node.value, ast.Constant) and node.value.value is False


def test_every_module_has_a_floor_and_a_docstring():
    for path in sources():
        if path.name != "__init__.py":
            assert room(path) in FLOOR_OF, f"{path.name} stands on no floor; add it to FLOORS"
            assert ast.get_docstring(ast.parse(path.read_text())), f"{path} does not say what it is"
    for name in FLOOR_OF:
        assert (ROOT / "mac_bench" / f"{name}.py").exists() or (ROOT / name).is_dir(), f"no room {name}"


def loaded_by(statement: str) -> set[str]:
    """Top-level packages that a fresh interpreter has loaded after a statement."""
    code = f"import sys; {statement}; print(*{{name.split('.')[0] for name in sys.modules}})"
    return set(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split())


HEAVY = FRAMEWORKS | {
    "h5py",
    "ogbench",
    "mujoco",
    "gymnasium",
    "minari",
    "dm_control",
    "streamlit",
    "tensorboard",
    "wandb",
}


@pytest.mark.parametrize("name", WITHOUT_FRAMEWORK)
def test_light_modules_load_no_framework_and_no_simulator(name):
    if name in ("slurm", "dashboard", "__main__"):
        return
    assert not loaded_by(f"import mac_bench.{name}") & HEAVY


def test_help_and_status_load_nothing_heavy(tmp_path):
    for arguments in (["--help"], ["status", "--runs", str(tmp_path)]):
        statement = (
            "from contextlib import suppress\nfrom mac_bench.cli import main\n"
            f"sys.argv = ['mac-bench', *{arguments!r}]\nwith suppress(SystemExit): main()\npass"
        )
        assert not loaded_by(statement) & (HEAVY | {"sqlalchemy", "pandas", "scipy"})
