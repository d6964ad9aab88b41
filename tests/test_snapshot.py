"""The copy of the code that jobs run from."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from mac_bench.errors import UserError
from slurm import snapshot

AGENT = "VERSION = 1\n"


@pytest.fixture
def checkout(tmp_path, monkeypatch) -> Path:
    """A small checkout with a commit, in the place of ours."""
    source = tmp_path / "checkout"
    for package in snapshot.PACKAGES:
        (source / package).mkdir(parents=True)
        (source / package / "__init__.py").write_text(f"WHO = '{package}'\n")
    (source / "suites" / "quick.yaml").write_text("name: quick\n")
    (source / "mac_bench" / "__pycache__").mkdir()
    (source / "mac_bench" / "__pycache__" / "x.pyc").write_text("")
    (source / "mac_bench" / ".hidden").write_text("")
    (source / "mac_bench" / "huge.bin").write_bytes(b"")
    os.truncate(source / "mac_bench" / "huge.bin", snapshot.LARGEST + 1)
    (source / "notes.txt").write_text("not code")
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@b"]
    for command in (["init", "-q"], ["add", "."], ["commit", "-qm", "first"]):
        subprocess.run([*git, *command], cwd=source, check=True)
    monkeypatch.setattr(snapshot, "SOURCE", source)
    return source


def names(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_it_holds_the_project_and_nothing_else(checkout, root):
    taken = snapshot.take(root)
    packages = {f"{package}/__init__.py" for package in snapshot.PACKAGES}
    assert names(taken) == {*packages, "suites/quick.yaml", "snapshot.json"}
    assert not any(os.stat(taken / name).st_mode & 0o222 for name in packages), "nobody edits what results came from"
    assert list((root / "code").iterdir()) == [taken], "nothing is left half-done"


def test_editing_goes_on_without_changing_it_and_the_same_code_is_copied_once(checkout, root):
    first = snapshot.take(root)
    assert snapshot.take(root) == first
    (checkout / "mac_bench" / "__init__.py").write_text("WHO = 'edited'\n")
    second = snapshot.take(root)
    assert second != first
    assert (first / "mac_bench" / "__init__.py").read_text() == "WHO = 'mac_bench'\n"
    assert (second / "mac_bench" / "__init__.py").read_text() == "WHO = 'edited'\n"
    assert "+WHO = 'edited'" in json.loads((second / "snapshot.json").read_text())["changes"]
    assert json.loads((first / "snapshot.json").read_text())["changes"] == ""
    (checkout / "baselines" / "__init__.py").rename(checkout / "baselines" / "other.py")
    assert snapshot.take(root) not in (first, second), "names count as well"


def test_jobs_import_it_although_they_start_in_the_checkout(checkout, root):
    taken = snapshot.take(root)
    (checkout / "mac_bench" / "who.py").write_text("import mac_bench; print(mac_bench.WHO, mac_bench.__file__)\n")
    (checkout / "mine.py").write_text("import mac_bench; print(mac_bench.__file__)\n")
    environment = {**os.environ, "PYTHONSAFEPATH": "1", "PYTHONPATH": f"{taken}{os.pathsep}{checkout}"}
    done = subprocess.run([sys.executable, "-m", "mine"], cwd=checkout, env=environment, capture_output=True, text=True)
    assert done.stdout.strip() == str(taken / "mac_bench" / "__init__.py"), done.stderr


@pytest.mark.parametrize("inside", [True, False])
def test_a_users_own_agents_are_copied(checkout, root, monkeypatch, tmp_path, inside):
    place = checkout if inside else tmp_path / "elsewhere"
    (place / "my_lab" / "agents").mkdir(parents=True)
    (place / "my_lab" / "agents" / "better.py").write_text(AGENT)
    (place / "my_lab" / "settings.json").write_text("{}")
    (place / "single_file.py").write_text(AGENT)
    monkeypatch.syspath_prepend(str(place))
    taken = snapshot.take(root, ["my_lab.agents.better", "single_file.it", "bc", "numpy.agent", "no.such"])
    own = names(taken) - names(snapshot.take(root))
    assert own == {"my_lab/agents/better.py", "my_lab/settings.json", "single_file.py"}


def test_without_a_repository_there_is_no_commit(checkout, root, monkeypatch):
    (checkout / ".git").rename(checkout.parent / "git")
    said = json.loads((snapshot.take(root) / "snapshot.json").read_text())
    assert said["changes"] == "" and said["packages"]["numpy"]


def test_the_commit_reaches_the_runs(tmp_path):
    """`provenance.commit` of a copy is that of the checkout, for there is no .git beside it."""
    taken = snapshot.take(tmp_path)
    code = "from mac_bench import provenance; print(provenance.commit(), provenance.__file__)"
    environment = {**os.environ, "PYTHONSAFEPATH": "1", "PYTHONPATH": str(taken)}
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True)
    commit, file = done.stdout.split()
    assert file == str(taken / "mac_bench" / "provenance.py")
    assert commit == json.loads((taken / "snapshot.json").read_text())["git"] and not (taken / ".git").exists()


def test_a_disk_that_is_full_is_one_line(checkout, tmp_path):
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "code").write_text("")
    with pytest.raises(UserError, match="the code cannot be copied there"):
        snapshot.take(tmp_path / "runs")
