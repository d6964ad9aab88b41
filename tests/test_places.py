"""Shares of a machine: cores and GPUs for so many runs at a time."""

import os

import pytest

from slurm import places


@pytest.fixture
def machine(monkeypatch):
    """A machine with 8 cores and two GPUs."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    monkeypatch.delenv("XLA_CLIENT_MEM_FRACTION", raising=False)
    monkeypatch.delenv("XLA_PYTHON_CLIENT_MEM_FRACTION", raising=False)


def test_each_run_gets_twice_its_share_of_cores(machine):
    assert [place.cores for place in places.places(1)] == [None]
    assert [place.cores for place in places.places(2)] == [None, None]
    assert [sorted(place.cores or ()) for place in places.places(4)] == [
        [0, 1, 2, 3],
        [2, 3, 4, 5],
        [4, 5, 6, 7],
        [0, 1, 6, 7],
    ]
    use = [sum(core in (place.cores or ()) for place in places.places(16)) for core in range(8)]
    assert use == [2] * 8, "more runs than cores are spread evenly"


def test_runs_are_spread_over_gpus_and_share_their_memory(machine):
    found = [place.environment for place in places.places(4)]
    assert [environment["CUDA_VISIBLE_DEVICES"] for environment in found] == ["0", "1", "0", "1"]
    assert {environment["XLA_CLIENT_MEM_FRACTION"] for environment in found} == {"0.450"}
    assert "XLA_CLIENT_MEM_FRACTION" not in places.places(2)[0].environment, "alone on a GPU, nothing is limited"


@pytest.mark.parametrize("users", [{}, {"XLA_CLIENT_MEM_FRACTION": "0.3"}, {"XLA_PYTHON_CLIENT_MEM_FRACTION": "0.3"}])
def test_jax_takes_the_share_of_memory_that_it_is_given(machine, monkeypatch, users):
    from jaxlib import xla_client

    for name, value in users.items():
        monkeypatch.setenv(name, value)
    for name, value in places.places(4)[0].environment.items():
        monkeypatch.setenv(name, value)
    # it raises where both of its names are set
    assert xla_client.generate_pjrt_gpu_plugin_options()["memory_fraction"] == (0.3 if users else 0.45)


def test_a_machine_without_gpus(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert places.gpus() == []
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    monkeypatch.setenv("PATH", "")
    assert places.gpus() == []


@pytest.fixture(autouse=True)
def no_job(monkeypatch):
    """Whatever runs these tests, be it a cluster's job."""
    for name in ("SLURM_CPUS_PER_TASK", "SLURM_CPUS_ON_NODE", "OMP_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)


def test_the_user_has_the_last_word_on_a_gpus_memory(machine, monkeypatch):
    monkeypatch.setenv("XLA_PYTHON_CLIENT_MEM_FRACTION", "0.2")
    assert not any(name in places.places(4)[0].environment for name in places.MEMORY_NAMES), "JAX refuses two names"


@pytest.mark.parametrize(("jobs", "share"), [(1, None), (2, None), (3, "0.450"), (4, "0.450"), (5, "0.300")])
def test_the_share_of_a_gpu_is_that_of_the_fullest(machine, jobs, share):
    assert {place.environment.get("XLA_CLIENT_MEM_FRACTION") for place in places.places(jobs)} == {share}


def test_a_job_that_is_confined_shares_out_what_it_was_given(machine, monkeypatch):
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", "8")
    assert sorted(places.places(4)[1].cores or ()) == [2, 3, 4, 5]


def test_a_job_that_is_not_confined_pins_nothing(machine, monkeypatch):
    """Two such jobs on a node would otherwise take the same cores."""
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", "4")
    found = places.places(4)
    assert [place.cores for place in found] == [None] * 4
    assert {place.environment["OMP_NUM_THREADS"] for place in found} == {"1"}, "but no more threads than it was given"


@pytest.mark.parametrize(
    ("variables", "threads"),
    [
        ({"SLURM_CPUS_PER_TASK": "6"}, "3"),
        ({"SLURM_CPUS_ON_NODE": "4"}, "2"),
        ({"SLURM_CPUS_PER_TASK": "6", "SLURM_CPUS_ON_NODE": "64"}, "3"),
        ({"SLURM_CPUS_PER_TASK": "1"}, "1"),
        ({"SLURM_CPUS_PER_TASK": "6", "OMP_NUM_THREADS": "5"}, "5"),
    ],
)
def test_threads_are_those_of_the_job(machine, monkeypatch, variables, threads):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert {place.environment["OMP_NUM_THREADS"] for place in places.places(2)} == {threads}


def test_gpus_are_those_that_nvidia_smi_lists(monkeypatch, tmp_path):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=None)
    smi = tmp_path / "nvidia-smi"
    smi.write_text("#!/bin/sh\necho 0; echo 1\n")
    smi.chmod(0o755)
    assert places.gpus() == ["0", "1"]
    smi.write_text("#!/bin/sh\necho 0; exit 9\n")
    assert places.gpus() == [], "a driver that does not work"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-a,GPU-b")
    assert places.gpus() == ["GPU-a", "GPU-b"]
