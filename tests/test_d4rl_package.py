"""D4RL's own package is used where it is asked for, nowhere else, and says so. (A stand-in: tests/old_d4rl.py.)"""

import re
import sys
from pathlib import Path

import numpy as np
import old_d4rl
import pandas as pd
import pytest
from runs import Constant, small_run, stop_before_evaluation
from test_d4rl_data import hopper_file
from test_published import joined, own, their
from test_report import run

from mac_bench import cli, d4rl_package, report, tasks, video
from mac_bench.config import EvalConfig
from mac_bench.errors import UserError
from mac_bench.evaluate import Evaluator
from mac_bench.record import RunFolder
from mac_bench.train import train

HOPPER, MAZE = "hopper-medium-v2", "antmaze-umaze-v2"
LABEL = "d4rl-package (d4rl 1.1, gym 0.23.1, mujoco_py 2.1.2.14)"


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Puts the package on the path, and asks for it; other contents of its modules may be given."""

    def forget():
        for name in [name for name in sys.modules if name.partition(".")[0] in d4rl_package.MODULES]:
            del sys.modules[name]

    def install(**other: str) -> None:
        old_d4rl.install(tmp_path / "site", **other)
        monkeypatch.syspath_prepend(tmp_path / "site")
        monkeypatch.setenv(d4rl_package.VARIABLE, "package")
        forget()

    forget()
    yield install
    forget()


class Walker(Constant):
    """Walks to the goal, which the stand-in shows."""

    def act(self, obs, goal, *, seed):
        way = np.clip(obs[:, 2:4] - obs[:, :2], -1, 1)
        return np.concatenate([way, np.zeros((len(obs), 6))], axis=1)[:, None]


def evaluated(name: str, agent: Constant) -> dict:
    with Evaluator(tasks.find(name), EvalConfig(every=1, episodes=4, parallel=2), seed=0) as evaluator:
        (result,), _ = evaluator(agent, 1)
    return result


def test_a_robot_is_scored_by_the_same_references(install):
    install()
    result = evaluated(HOPPER, Constant(1, 0, 0))
    # it begins with less than 1, and falls above 3
    assert (result["length"], result["return"]) == (3, 6)
    assert result["success"] == pytest.approx((6 + 20.272305) / (3234.3 + 20.272305))
    assert evaluated(HOPPER, Constant(0, 0, 0))["length"] == 1000
    assert tasks.find(HOPPER).world() == {"simulator": LABEL, "measure": "normalised score"}
    step = tasks.Env(tasks.find(HOPPER)).step(np.zeros(3))
    assert (step.reward, step.done, step.success) == (2, False, False)


def test_a_maze_is_solved_where_it_pays(install):
    install()
    still = evaluated(MAZE, Constant(*[0] * 8))
    assert (still["success"], still["length"]) == (0, 700)
    solved = evaluated("antmaze-umaze-unshifted-v2", Walker())
    assert (solved["success"], solved["return"]) == (1, 1) and 8 <= solved["length"] <= 10
    assert tasks.find(MAZE).world() == {"simulator": LABEL, "measure": "success"}


def test_the_end_of_time_is_no_end_of_the_task(install):
    install()
    env = d4rl_package.Env(MAZE)
    obs, _ = env.reset(seed=0)
    ends = [env.step(np.zeros(8, np.float32))[2:4] for _ in range(700)]
    assert ends == [(False, False)] * 699 + [(False, True)]
    obs, _ = env.reset(seed=0)
    way = (obs[2:4] - obs[:2]) / 10
    ends = [env.step(np.float32([*way, *[0.0] * 6]))[2:4] for _ in range(10)]
    assert (True, False) in ends and (False, True) not in ends


@pytest.mark.parametrize("name", [HOPPER, MAZE])
def test_an_episode_is_a_function_of_the_seed(install, name):
    install()

    def start(env, seed, others):
        np.random.seed(others)
        return env.reset(1, seed)[0]

    one, other = tasks.Env(tasks.find(name)), tasks.Env(tasks.find(name))
    first = start(one, 7, 0)
    differs = start(one, 8, 1) != first
    assert differs[:2].all() and (name == HOPPER or differs[2:4].all())
    np.testing.assert_array_equal(start(one, 7, 2), first)
    np.testing.assert_array_equal(start(other, 7, 3), first)


def test_it_is_never_used_unasked(install, monkeypatch):
    install()
    monkeypatch.delenv(d4rl_package.VARIABLE)
    assert tasks.find(HOPPER).world()["simulator"].startswith("d4rl-legacy-inertia")
    assert tasks.Env(tasks.find(HOPPER)).raw.model.nq == 6
    assert "d4rl" not in sys.modules and "gym" not in sys.modules
    monkeypatch.setenv(d4rl_package.VARIABLE, "yes")
    with pytest.raises(UserError, match="MAC_BENCH_D4RL is 'yes'; valid: package, or nothing for the simulators of"):
        tasks.find(HOPPER)
    assert tasks.find("cube-single-play-v0").world()["simulator"] == "ogbench"


SUITE = f"""\
name: hop
about: x
steps: 20
seeds: [0]
tasks: [{HOPPER}]
evaluation: {{every: 10, episodes: 1}}
agents: {{bc: {{settings: {{hidden: [8], batch_size: 16}}}}}}
"""
MISSING = "raise Exception('You appear to be missing MuJoCo.\\nSee the page')"


@pytest.mark.parametrize(
    "other, reason",
    [
        ({"d4rl": "import nowhere"}, "ModuleNotFoundError: No module named 'nowhere'"),
        ({"mujoco_py": MISSING}, "Exception: You appear to be missing MuJoCo."),
        # the package swallows this one
        ({"d4rl/locomotion": "import dm_nowhere"}, "ModuleNotFoundError: No module named 'dm_nowhere'"),
    ],
)
def test_where_it_does_not_work_one_line_says_why_before_training(
    install, tmp_path, monkeypatch, capsys, other, reason
):
    install(**other)
    hopper_file(tmp_path)
    monkeypatch.chdir(tmp_path)
    Path("hop.yaml").write_text(SUITE)
    line = f"mac-bench: hop.yaml: tasks: MAC_BENCH_D4RL=package, but it does not work here ({reason}); without it the"
    for verb in ("plan", "run", "train"):
        monkeypatch.setattr(sys, "argv", ["mac-bench", verb, "hop.yaml", "--data", "."])
        with pytest.raises(SystemExit) as leaving:
            cli.main()
        err = capsys.readouterr().err.splitlines()
        assert leaving.value.code == 2 and err[-1].startswith(line) and not Path("runs").exists()


def test_where_it_is_not_installed_one_line_says_so(monkeypatch):
    monkeypatch.setenv(d4rl_package.VARIABLE, "package")
    # a folder of that name beside the suite is a package without contents
    with pytest.raises(UserError, match=r"\(ModuleNotFoundError: No module named '(d4rl|gym)'\)"):
        tasks.find(HOPPER)


def test_a_gym_of_the_new_kind_is_refused(install):
    install(
        gym=old_d4rl.GYM.replace("return self.env.reset()", "return self.env.reset(), {}").replace("0.23.1", "0.26.2")
    )
    with pytest.raises(UserError, match=re.escape("gym 0.26.2 is too new for d4rl; install gym<0.24")):
        tasks.Env(tasks.find(HOPPER))


def test_nothing_is_filmed(install, tmp_path):
    install()
    states = [tasks.Env(tasks.find(HOPPER)).state()]
    assert "nothing to draw" in (video.render(HOPPER, states, tmp_path / "a.gif") or "")


# results


def test_a_run_says_where_it_was_evaluated_and_stays_there(install, tmp_path, root, monkeypatch):
    hopper_file(tmp_path)
    config = small_run(task=HOPPER).model_copy(update={"dataset": HOPPER})
    with monkeypatch.context() as once:
        stop_before_evaluation(once)
        assert train(config, root, tmp_path).state == "stopped"
    install()
    began = r"this run began in the simulator d4rl-legacy-inertia \(gymnasium [\d.]+\), but here is "
    with pytest.raises(UserError, match=began + re.escape(LABEL)):
        train(config, root, tmp_path)
    other = config.model_copy(update={"seed": 1})
    assert train(other, root, tmp_path).state == "finished"
    worlds = [
        event["environment"]["simulator"] for event in RunFolder(root / other.id).read() if event["kind"] == "attempt"
    ]
    assert worlds == [LABEL]
    monkeypatch.delenv(d4rl_package.VARIABLE)
    assert train(config, root, tmp_path).state == "finished"


def test_its_numbers_meet_papers_but_never_ours():
    theirs = their(table="d4rl-x", unit="normalised", metric="normalised score", data="default", task=HOPPER)
    ours = own(task=HOPPER, dataset=HOPPER, measure="normalised score", simulator=LABEL)
    row = joined(ours, theirs)
    reason = "other amount of data: every twentieth episode is held out here, theirs trained on all"
    assert (row["difference"], row["not_comparable"]) == (10, reason), "the simulator is theirs"
    legacy = {"simulator": "d4rl-legacy-inertia (gymnasium 1.4.0)", "measure": "normalised score"}
    runs = [run("MAC", HOPPER, 0, 0.5, **legacy), run("MAC", HOPPER, 1, 0.5, **legacy | {"simulator": LABEL})]
    (method,) = report.build(pd.DataFrame(runs)).methods
    assert method.cells[HOPPER].text == "2 simulators" and np.isnan(method.mean.value)
