import json
from pathlib import Path

import pytest

from mac_bench import needs, suite
from mac_bench.config import Residency, RunConfig
from mac_bench.errors import UserError

MEDIUM = "pointmaze-medium-navigate-singletask-v0"
LARGE = "pointmaze-large-navigate-singletask-v0"
GOOD = """\
name: small
about: two mazes
steps: 1_000
seeds: [3, 1]
tasks: [pointmaze-medium-navigate-singletask-v0, pointmaze-large-navigate-singletask-v0]
evaluation: {every: 400, episodes: 2}
agents:
  BC: {agent: bc, settings: {hidden: [8], learning_rate: 1e-3}, per_task: {LARGE: {chunk: 5}}}
  random_actions:
""".replace("LARGE", LARGE)


BOTH = ("BC", "random_actions")


def write(folder: Path, text: str = GOOD, name: str = "small.yaml") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def expand(folder: Path, text: str = GOOD) -> list[suite.Member]:
    return suite.expand(suite.load(write(folder, text)))


def test_runs_come_seed_by_seed_and_in_the_order_of_the_file(tmp_path):
    found = [(member.run.seed, member.run.task, member.label) for member in expand(tmp_path)]
    assert found == [(seed, task, label) for seed in (3, 1) for task in (MEDIUM, LARGE) for label in BOTH]


def test_a_run_holds_all_that_decides_its_result(tmp_path):
    first, _, large, *_ = expand(tmp_path)
    assert first.run.agent == "bc" and first.run.dataset == "pointmaze-medium-navigate-v0"
    assert first.run.steps == 1000 and first.run.evaluation.every == 400
    assert first.run.settings["hidden"] == [8] and first.run.settings["learning_rate"] == 0.001
    assert first.run.settings["batch_size"] == 1024, "defaults must be written out"
    assert first.run.settings["chunk"] == 1 and large.run.settings["chunk"] == 5


def test_ids_depend_on_content_alone(tmp_path):
    ids = [member.run.id for member in expand(tmp_path)]
    assert len(set(ids)) == 8
    assert [member.run.id for member in expand(tmp_path)] == ids
    same = GOOD.replace("about: two mazes", "about: something else").replace("BC:", "cloning:")
    assert [member.run.id for member in expand(tmp_path, same)] == ids
    other = expand(tmp_path, GOOD.replace("hidden: [8]", "hidden: [9]"))
    assert [a == member.run.id for a, member in zip(ids, other, strict=True)] == [False, True] * 4


def test_the_narrower_word_counts(tmp_path):
    text = GOOD.replace(
        "tasks: [pointmaze-medium-navigate-singletask-v0, pointmaze-large-navigate-singletask-v0]",
        f"tasks:\n  {MEDIUM}: {{dataset: mine, steps: 500}}\n  {LARGE}:",
    ).replace("  random_actions:", f"  random_actions: {{steps: 1, tasks: [{MEDIUM}]}}")
    found = {(m.label, m.run.task): (m.run.dataset, m.run.steps) for m in expand(tmp_path, text)}
    assert found == {
        ("BC", MEDIUM): ("mine", 500),
        ("BC", LARGE): ("pointmaze-large-navigate-v0", 1000),
        ("random_actions", MEDIUM): ("mine", 1),
    }


def test_a_pattern_stands_for_all_names_that_fit(tmp_path):
    text = GOOD.replace(
        f"[{MEDIUM}, {LARGE}]", "['cube-single-play-singletask-task?-v0', pointmaze-medium-navigate-v0]"
    )
    text = text.replace(
        f"per_task: {{{LARGE}: {{chunk: 5}}}}",
        "per_task: {cube-*: {chunk: 5, execute: 2}, '*-task[45]-v0': {chunk: 3}}, tasks: [cube-*]",
    )
    members = [member for member in expand(tmp_path, text) if member.run.seed == 3]
    five = [f"cube-single-play-singletask-task{i}-v0" for i in range(1, 6)]
    assert [m.run.task for m in members if m.label != "BC"] == [*five, "pointmaze-medium-navigate-v0"]
    assert [m.run.task for m in members if m.label == "BC"] == five
    chunks = [(m.run.settings["chunk"], m.run.settings["execute"]) for m in members if m.label == "BC"]
    assert chunks == [(5, 2)] * 3 + [(3, 2)] * 2, "the last that fits counts, setting by setting"


def test_a_task_may_be_drawn_from_in_blocks_by_all_its_agents(tmp_path):
    plain = {(m.label, m.run.task, m.run.seed): m.run for m in expand(tmp_path)}
    text = GOOD.replace(
        "tasks: [pointmaze-medium-navigate-singletask-v0, pointmaze-large-navigate-singletask-v0]",
        f"tasks: {{{MEDIUM}: {{resident: {{blocks: 4, every: 100}}}}, {LARGE}: }}",
    )
    for label, run, *_ in expand(tmp_path, text):
        before = plain[label, run.task, run.seed]
        if run.task == LARGE:
            assert run == before and run.id == before.id
        else:
            assert run.resident == Residency(blocks=4, rows=1_000_000, every=100) and run.id != before.id
    with pytest.raises(UserError, match=r"resident\.blocks: Input should be greater than 0, not 0"):
        expand(tmp_path, text.replace("blocks: 4", "blocks: 0"))


BAD = {
    "steps: 1_000": {
        "steps: many": "small.yaml: steps: Input should be a valid integer, not 'many'",
        "steps: 0": "small.yaml: steps: Input should be greater than 0, not 0",
        "": "small.yaml: 'steps' is missing",
        "steps: 1_000\nstep: 3": "small.yaml: no setting 'step'; there are: about, agents, average_last, checkpoints, "
        "evaluation, name, reproduces, seeds, steps, tasks",
        "steps: 1_000\nsteps: 3": "small.yaml: line 4: 'steps' is there twice",
        "steps: [1": "small.yaml: line 4: not YAML (expected ',' or ']', but got ':')",
        "steps: 1_000\naverage_last: 4": "small.yaml: average_last is 4, but 3 evaluations follow 1000 updates of BC "
        f"on {MEDIUM}",
        "steps: 1_000\ncheckpoints: [600]": "small.yaml: checkpoints: 600 is no multiple of 400, the updates between "
        "evaluations",
        "steps: 1_000\ncheckpoints: [400, 1200]": "small.yaml: checkpoints: 1200 lies beyond the last update, 1000",
        "steps: 1_000\naverage_last: 2\ncheckpoints: [400]": "small.yaml: checkpoints: 400 comes after 1 evaluations, "
        "but average_last is 2",
        "steps: 1_000\nreproduces: {mac-goal: 100M}": "small.yaml: reproduces: no published table 'mac-goal'; "
        "there are: TABLES",
        "steps: 1_000\nreproduces: {mac-singletask-1m: 1X}": "small.yaml: reproduces.mac-singletask-1m: no number is "
        "of '1X' transitions; there are: 1M",
        "steps: 1_000\nreproduces: {horizon-reduction-final: ''}": "small.yaml: reproduces.horizon-reduction-final: no "
        "number is of '' transitions; there are: 100M, 10M, 1B, 1M",
        "steps: 1_000\nreproduces: {d4rl-antmaze: 1M}": "small.yaml: reproduces.d4rl-antmaze: no number is of '1M' "
        "transitions; amounts are not known, leave it empty",
        "steps: 2026-01-01": "small.yaml: Object of type date is not JSON serializable",
    },
    "seeds: [3, 1]": {
        "seeds: []": "small.yaml: seeds: must not be empty",
        "seeds: 3": "small.yaml: seeds: Input should be a valid array, not 3",
        "seeds: [0, 1, 0]": "small.yaml: seeds: 0 is there twice",
        "seeds: [0, -1]": "small.yaml: seeds.1: Input should be greater than or equal to 0, not -1",
        "seeds: [0, one]": "small.yaml: seeds.1: Input should be a valid integer, not 'one'",
    },
    "name: small": {
        "name: big": "small.yaml: name is 'big', but must be 'small' like the file's",
        "name: 3": "small.yaml: name: Input should be a valid string, not 3",
    },
    f"tasks: [{MEDIUM}, {LARGE}]": {
        "tasks: []": "small.yaml: tasks: must not be empty",
        "tasks: {}": "small.yaml: tasks: must not be empty",
        f"tasks: {MEDIUM}": f"small.yaml: tasks: must be a list of names, or a mapping task: {{...}}, not '{MEDIUM}'",
        f"tasks: [{LARGE}, {LARGE}]": f"small.yaml: tasks: {LARGE} is there twice",
        f"tasks: [{{{LARGE}: }}]": f"small.yaml: tasks: {{'{LARGE}': None}} is no name; write `task: {{...}}` without "
        "a dash",
        f"tasks: {{{LARGE}: here}}": f"small.yaml: tasks.{LARGE}: must be a mapping, not 'here'",
        f"tasks: {{{LARGE}: {{data: x}}}}": f"small.yaml: tasks.{LARGE}: no setting 'data'; there are: "
        "dataset, optional, resident, resources, steps, tags",
        f"tasks: [{MEDIUM}, pointmaze-*-navigate-singletask-v0]": f"small.yaml: tasks: {MEDIUM} is there twice, "
        "once by 'pointmaze-*-navigate-singletask-v0'",
        f"tasks: [{MEDIUM}, {LARGE}, {LARGE.replace('-v0', '-task1-v0')}]": f"small.yaml: tasks: {LARGE} and "
        f"{LARGE.replace('-v0', '-task1-v0')} are the same task; remove one",
        "tasks: [pointmaze-*-v9]": "small.yaml: tasks: no task's name fits 'pointmaze-*-v9'",
        f"tasks: [{MEDIUM}]": f"small.yaml: agents.BC.per_task: {LARGE} is not among its tasks; there are: {MEDIUM}",
        f"tasks: {{{MEDIUM}: , {LARGE}: {{dataset: pointmaze-medium-navigate-v0}}}}": "small.yaml: tasks: data "
        f"'pointmaze-medium-navigate-v0' are of pointmaze-medium, but {LARGE} is a task of pointmaze-large",
        f"tasks: {{{MEDIUM}: , {LARGE}: {{optional: true}}}}": f"small.yaml: tasks.{LARGE}: optional: Input should be "
        "a valid string, not True",
        "": "small.yaml: 'tasks' is missing",
    },
    "evaluation: {every: 400, episodes: 2}": {
        "evaluation: {episodes: 2}": "small.yaml: evaluation: 'every' is missing",
        "evaluation: 400": "small.yaml: evaluation: Input should be an object, not 400",
        "evaluation: {every: 400, runs: 2}": "small.yaml: evaluation: no setting 'runs'; there are: episodes, every, "
        "parallel",
    },
    "  random_actions:": {
        "  bcc:": "small.yaml: agents.bcc: no agent 'bcc'; there are: AGENTS",
        "  x: {agent: no.such}": "small.yaml: agents.x: no module 'no.such' for an agent; is its folder on the "
        "PYTHONPATH?",
        "  x: {agent: json.tool}": "small.yaml: agents.x: json.tool is no agent: it lacks Config, make, VERSION; an "
        "agent has Config, make and VERSION",
        "  bc: {setings: {}}": "small.yaml: agents.bc: no setting 'setings'; there are: agent, per_task, resources, "
        "settings, steps, tags, tasks",
        "  bc: {settings: {chunks: 3}}": "small.yaml: agents.bc, settings: no setting 'chunks'; there are: batch_size, "
        "chunk, discount, execute, goals, hidden, layer_norm, learning_rate, scaling",
        "  bc: {settings: {chunk: '3'}}": "small.yaml: agents.bc, settings: chunk: Input should be a valid integer, "
        "not '3'",
        "  bc: {settings: {execute: 3}}": "small.yaml: agents.bc, settings: execute is 3, but a chunk has 1 actions",
        f"  bc: {{per_task: {{{LARGE}: {{chunk: 0}}}}}}": "small.yaml: agents.bc, settings: chunk: Input should be "
        "greater than 0, not 0",
        "  bc: {tasks: []}": "small.yaml: agents.bc.tasks: must not be empty; leave it out for all tasks",
        "  bc: {tasks: [x]}": f"small.yaml: agents.bc.tasks: x is not among its tasks; there are: {MEDIUM}, {LARGE}",
        "  bc: {tasks: [cube-*]}": f"small.yaml: agents.bc.tasks: cube-* fits none of its tasks; there are: {MEDIUM}, "
        f"{LARGE}",
        f"  bc: {{tasks: ['*large*'], per_task: {{{MEDIUM}: {{chunk: 2}}}}}}": "small.yaml: agents.bc.per_task: "
        f"{MEDIUM} is not among its tasks; there are: {LARGE}",
        "  bc: bc": "small.yaml: agents.bc: must be a mapping, not 'bc'",
        "  again: {agent: bc, settings: {learning_rate: 0.001, hidden: [8]}}": "small.yaml: agents BC and again are "
        f"the same run on {MEDIUM}; remove one, or change its settings",
    },
}


@pytest.mark.parametrize(
    ("right", "wrong", "message"),
    [(right, wrong, message) for right, cases in BAD.items() for wrong, message in cases.items()],
)
def test_what_is_wrong_is_refused_in_one_line_that_says_what_would_be_right(tmp_path, right, wrong, message):
    assert right in GOOD
    with pytest.raises(UserError) as error:
        expand(tmp_path, GOOD.replace(right, wrong))
    agents = ", ".join(suite.registry.names())
    tables = ", ".join(sorted(path.stem for path in suite.PUBLISHED.glob("*.csv")))
    assert str(error.value) == message.replace("AGENTS", agents).replace("TABLES", tables)


def test_a_checkpoint_may_be_the_last_update_of_some_run(tmp_path):
    """Which an evaluation follows, though it is no multiple of those before."""
    more = "checkpoints: [400, 1000, 1300]\n"
    text = GOOD.replace("  random_actions:", "  random_actions: {steps: 1300}") + more
    assert suite.load(write(tmp_path, text)).checkpoints == (400, 1000, 1300)


def test_a_task_under_its_two_names_is_two_where_the_data_are(tmp_path):
    text = GOOD.replace(
        f"[{MEDIUM}, {LARGE}]", f"{{{LARGE}: , {LARGE.replace('-v0', '-task1-v0')}: {{dataset: mine}}}}"
    )
    assert len(expand(tmp_path, text)) == 8


def test_an_agent_refuses_a_task_that_it_cannot_do_before_any_run(tmp_path):
    text = GOOD.replace(f"[{MEDIUM}, {LARGE}]", f"[{LARGE}, hopper-medium-v2]").replace("random_actions:", "oracle:")
    with pytest.raises(UserError) as error:
        expand(tmp_path, text)
    assert str(error.value) == (
        "small.yaml: agents.oracle: no oracle for hopper-medium-v2: there are scripts for pointmaze, cube, puzzle; "
        "leave it out by its `tasks`"
    )
    expand(tmp_path, text.replace("oracle:", "oracle: {tasks: [pointmaze-*]}"))


def test_an_unknown_task_is_refused_with_what_comes_close(tmp_path):
    with pytest.raises(UserError, match=f"^small.yaml: tasks: no task .*did you mean .*{MEDIUM}"):
        expand(tmp_path, GOOD.replace(MEDIUM, MEDIUM.replace("medium", "medum")))


@pytest.mark.parametrize("text", ["", "- a\n- b\n", "just words\n"])
def test_a_file_that_is_no_mapping(tmp_path, text):
    with pytest.raises(UserError) as error:
        expand(tmp_path, text)
    assert str(error.value) == (
        "small.yaml: not a suite; it needs name, about, steps, seeds, tasks, evaluation, agents"
    )


def test_files_that_are_not_there_or_not_text(tmp_path, monkeypatch):
    monkeypatch.setattr(suite, "SUITES", tmp_path / "suites")
    (tmp_path / "suites").mkdir()
    for name in ("one", "two"):
        write(tmp_path / "suites", GOOD.replace("small", name), f"{name}.yaml")
    assert suite.load(Path("two")).name == "two"
    with pytest.raises(UserError) as error:
        suite.load(Path("three"))
    assert str(error.value) == "no suite 'three'; give a .yaml file, or one of: one, two"
    other = write(tmp_path, GOOD, "small.txt")
    with pytest.raises(UserError) as error:
        suite.load(other)
    assert str(error.value) == f"{other}: a suite is a file that ends in .yaml"
    (tmp_path / "small.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match=r"^small.yaml: cannot be read"):
        suite.load(tmp_path / "small.yaml")


def test_membership_can_be_read_back(tmp_path):
    more = "checkpoints: [400]\nreproduces: {mac-singletask-1m: 1M, d4rl-antmaze: }\n"
    loaded = suite.load(write(tmp_path, GOOD + more))
    members = suite.expand(loaded)
    content = json.loads(suite.write_membership(tmp_path / "runs", loaded, members).read_text())
    assert {key: value for key, value in content.items() if key != "members"} == {
        "name": "small",
        "about": "two mazes",
        "average_last": 1,
        "checkpoints": [400],
        "reproduces": {"mac-singletask-1m": "1M", "d4rl-antmaze": None},
    }
    assert [(m["label"], m["run"]) for m in content["members"]] == [(m.label, m.run.id) for m in members]
    for member in content["members"]:
        assert RunConfig.model_validate_json(json.dumps(member["config"])).id == member["run"]


def test_tags_are_of_agent_and_task_and_change_no_run(tmp_path):
    tagged = GOOD.replace(f"[{MEDIUM}, {LARGE}]", f"{{{MEDIUM}: , {LARGE}: {{tags: [far, maze]}}}}")
    tagged = tagged.replace("  random_actions:", "  random_actions: {tags: [chance, maze]}")
    plain, members = expand(tmp_path, GOOD), expand(tmp_path, tagged)
    assert [member.run.id for member in members] == [member.run.id for member in plain]
    found = {(member.label, member.run.task): member.tags for member in members}
    assert found["random_actions", LARGE] == ("chance", "maze", "far")
    assert (found["random_actions", MEDIUM], found["BC", LARGE]) == (("chance", "maze"), ("far", "maze"))
    written = suite.write_membership(tmp_path / "runs", suite.load(tmp_path / "small.yaml"), members)
    assert [tuple(member["tags"]) for member in json.loads(written.read_text())["members"]] == [
        member.tags for member in members
    ]


def test_one_run_is_named_by_what_leaves_no_choice(tmp_path):
    loaded = suite.load(write(tmp_path))
    members = suite.expand(loaded)
    assert suite.only(loaded, members, "BC", LARGE, 1).run == members[6].run
    with pytest.raises(UserError, match=r"^small has 8 such runs; give --agent, one of: BC, random_actions$"):
        suite.only(loaded, members, None, LARGE, 1)
    with pytest.raises(UserError, match=r"^small has no such run with --seed 2; there are: 3, 1$"):
        suite.only(loaded, members, "BC", LARGE, 2)


def test_missing_data_comes_with_advice(tmp_path):
    text = GOOD.replace(f"[{MEDIUM}, {LARGE}]", f"{{{MEDIUM}: , {LARGE}: {{dataset: mine}}}}")
    missing = needs.missing(needs.of(expand(tmp_path, text)), tmp_path, Path("small"))
    assert list(missing) == ["pointmaze-medium-navigate-v0", "mine"]
    assert "`mac-bench data generate pointmaze-medium-navigate-v0`" in missing["pointmaze-medium-navigate-v0"]
    assert "`mac-bench data generate pointmaze-large-navigate-v0 --name mine" in missing["mine"]


def test_the_suites_of_the_project_are_right():
    assert "quickstart" in suite.names()
    for name in suite.names():
        assert suite.expand(suite.load(Path(name)))
