"""Profiles: those that come with the project load, and each mistake is one line that names the field."""

import pytest
import yaml

from mac_bench.config import Resources
from mac_bench.errors import UserError
from slurm import profile


def test_a_warning_must_come_before_the_job_is_over():
    with pytest.raises(ValueError, match="signal_s is 120, as long as the whole job of 2 minutes"):
        profile.Profile(time_minutes=2)
    with pytest.raises(UserError, match="time_minutes is 1, but the profile's signal_s is 120"):
        profile.Profile(time_minutes=10).with_(Resources(time_minutes=1))


@pytest.mark.parametrize("name", profile.names())
def test_each_profile_of_the_project_loads(name):
    asked = profile.load(name)
    assert asked.about and asked.time_minutes > asked.signal_s / 60
    assert profile.load(str(profile.FOLDER / f"{name}.yaml")) == asked


MISTAKES = {
    "partitoin: gpu": "node.yaml: no setting 'partitoin'; there are: about, account",
    "time_minutes: 1h": "time_minutes: Input should be a valid integer",
    "time_minutes: 0": "time_minutes: Input should be greater than 0, not 0",
    "gpus: -1": "gpus: Input should be greater than or equal to 0, not -1",
    "memory_gb: .inf": "memory_gb: Input should be a finite number",
    "runs_per_job: 0": "runs_per_job: Input should be greater than 0",
    "max_jobs: 0": "max_jobs: Input should be greater than 0",
    "requeue: sometimes": "requeue: Input should be a valid boolean",
    "gpu_type: a100": "gpu_type is given, but gpus is 0",
    'partition: "gpu\\nrm -rf x"': "partition: only letters, digits and",
    'account: "a;b"': "account: only letters, digits and",
    'qos: "$(x)"': "qos: only letters, digits and",
    'qos: "`x`"': "qos: only letters, digits and",
    'qos: ""': "qos: only letters, digits and",
    'extra: {constraint: "a\'b"}': "extra.constraint",
    'extra: {comment: "a\\nb"}': "extra.comment",
    "extra: {array: 0-9}": "extra: 'array' cannot be given; mac-bench sets array, chdir",
    "extra: {ntasks: 2}": "extra: 'ntasks' cannot be given",
    "extra: {dependency: singleton}": "extra: 'dependency' cannot be given",
    'extra: {"x --wrap": 1}': "extra: 'x --wrap' cannot be given",
    'setup: ["a\\nb"]': "no line may have a line break",
    'python: "a\\nb"': "no line may have a line break",
    "setup: module load cuda": "setup: Input should be a valid",
}


@pytest.mark.parametrize("line", MISTAKES)
def test_each_mistake_is_one_line(tmp_path, line):
    content = {"time_minutes": 60} | yaml.safe_load(line)
    path = tmp_path / "node.yaml"
    path.write_text(yaml.safe_dump(content))
    with pytest.raises(UserError) as error:
        profile.load(str(path))
    assert MISTAKES[line] in str(error.value) and str(error.value).startswith("node.yaml: ")
    assert len(str(error.value).splitlines()) == 1


def test_a_time_limit_must_be_given(tmp_path):
    path = tmp_path / "node.yaml"
    path.write_text("cpus: 2\n")
    with pytest.raises(UserError, match=r"node\.yaml: 'time_minutes' is missing"):
        profile.load(str(path))


@pytest.mark.parametrize("content", ["- a\n- b\n", "a: [", "", "\x00"])
def test_what_is_no_profile_at_all_is_one_line(tmp_path, content):
    path = tmp_path / "node.yaml"
    path.write_text(content)
    with pytest.raises(UserError) as error:
        profile.load(str(path))
    assert "node.yaml" in str(error.value)


@pytest.mark.parametrize("name", ["gpuu", "nowhere.yaml", "", "../profiles/cpu"])
def test_a_name_that_is_none_is_answered_with_those_that_are(name):
    with pytest.raises(UserError, match="there are: a100-shared, container, cpu, gpu, preemptable"):
        profile.load(name)


def test_what_a_run_asks_for_comes_before_its_profile():
    asked = profile.load("gpu")
    mine = asked.with_(Resources(memory_gb=200, gpus=0))
    assert (mine.memory_gb, mine.gpus, mine.cpus, mine.runs_per_job) == (200, 0, asked.cpus, asked.runs_per_job)
    assert asked.with_(Resources()) == asked
