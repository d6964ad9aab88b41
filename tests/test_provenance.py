"""What is recorded beside a result."""

import json
import subprocess
import sys

from runs import small_run

from mac_bench import queries, registry, store
from mac_bench.train import train


def test_peak_memory_grows_by_what_is_used_and_stays():
    code = (
        "import numpy; from mac_bench.provenance import peak_memory as peak; before = peak()['memory_mb']\n"
        "x = numpy.ones(40 * 2**20); during = peak()['memory_mb']; del x\n"  # 320 MB, written to
        "print(during - before, peak()['memory_mb'] - during)"
    )
    grown, after = map(float, subprocess.check_output([sys.executable, "-c", code], text=True).split())
    assert 300 < grown < 340 and -1 < after < 10  # the kernel counts in batches


def test_a_run_says_its_defaults_and_its_memory(tmp_path, data_root):
    run = small_run("bc", learning_rate=0.002)
    train(run, tmp_path / "runs", data_root)
    store.collect(tmp_path / "runs", tmp_path / "results.db")
    environment = queries.attempts(tmp_path / "results.db", run.id)["environment"][0]
    defaults = json.loads(environment["defaults"])
    assert defaults == registry.settings("bc", {}, "test").model_dump(mode="json")
    assert {name for name in run.settings if run.settings[name] != defaults[name]} == {
        "learning_rate", "hidden", "batch_size",
    }  # fmt: skip
    found = queries.metrics(tmp_path / "results.db", run.id)
    memory = found[found["name"] == "memory_mb"]
    assert memory["step"].tolist() == [run.steps // 2, run.steps]
    assert memory["value"].between(50, 50_000).all()
