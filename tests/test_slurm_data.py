"""Data that are made by many jobs are those of one machine, whatever dies, and their parts never fight."""

import json
import subprocess

import pytest
from cluster_runs import Bench
from conftest import DATA

from mac_bench import tasks
from mac_bench.errors import UserError
from mac_bench.files import sha256
from mac_bench.generate import PARTS, generate, make_part, missing
from mac_bench.inventory import listing, verify
from mac_bench.manifest import MANIFEST

SETTINGS = {"dataset": DATA, "episodes": 5, "length": 20, "shards": 4, "seed": 3, "name": "mine"}


def contents(folder) -> dict[str, str]:
    """Every file and its hash."""
    return {path.name: sha256(path) for path in folder.iterdir()}


def test_parts_in_any_order_are_what_one_call_makes(tmp_path):
    whole = contents(generate(root=tmp_path / "whole", **SETTINGS))
    assert missing(root=tmp_path, **SETTINGS) == [0, 1, 2, 3]
    for number in (2, 0):
        make_part(tmp_path, SETTINGS, number)
    assert missing(root=tmp_path, **SETTINGS) == [1, 3]
    with pytest.raises(UserError, match="not finished"):
        tasks.load(tasks.find(DATA), "mine", tmp_path)
    with pytest.raises(UserError, match="was made with other parameters"):
        missing(root=tmp_path, **SETTINGS | {"seed": 4})
    kept = (tmp_path / "mine" / f"{DATA}-002.npz").stat().st_mtime_ns
    assert contents(generate(root=tmp_path, **SETTINGS)) == whole
    assert (tmp_path / "mine" / f"{DATA}-002.npz").stat().st_mtime_ns == kept, "what is there is not made again"
    assert missing(root=tmp_path, **SETTINGS) == []


def test_a_part_of_other_physics_or_with_another_file_does_not_count(tmp_path):
    missing(root=tmp_path, **SETTINGS)
    for number in (0, 1, 2):
        make_part(tmp_path, SETTINGS, number)
    part = tmp_path / "mine" / PARTS / f"{DATA}-000.json"
    content = json.loads(part.read_text())
    content["versions"]["mujoco"] = "1.0"
    part.write_text(json.dumps(content))
    (tmp_path / "mine" / f"{DATA}-001-val.npz").write_bytes(b"damaged")
    assert missing(root=tmp_path, **SETTINGS) == [0, 1, 3]


def test_shards_are_made_by_jobs_and_what_dies_by_the_same_call(tmp_path, data_root, cluster):
    bench = Bench(tmp_path / "a bench", data_root, cluster)
    folder = bench.folder / "data" / "mine"
    whole = contents(generate(root=tmp_path / "whole", **SETTINGS))

    def call(**profile: object) -> str:
        path = bench.profile(cpus=1, memory_gb=0.7, **profile)
        options = ["--episodes", 5, "--length", 20, "--shards", 4, "--seed", 3, "--name", "mine", "--profile", path]
        command = bench.command("data", "generate", DATA, *options, "--data", folder.parent)
        done = subprocess.run(command, cwd=bench.folder, env=bench.environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def queue() -> str:
        return cluster.run("squeue", "--noheader", "--name=mac-bench-data-mine").stdout

    assert "4 shards submitted" in call(extra={"hold": True})
    assert "0 shards submitted; 4 were in the queue already" in call()
    cluster.run("scancel", "--name=mac-bench-data-mine")
    bench.wait(lambda: not queue(), "the end of the killed jobs")
    assert not listing(folder.parent)[0].complete
    assert "4 shards submitted" in call()
    bench.wait((folder / MANIFEST).exists, "the manifest")
    bench.wait(lambda: not queue(), "the end of the last job")
    assert contents(folder) == whole and verify(folder.parent, "mine") == []
    assert str(folder) in call(), "nothing is left to do"
