"""The model error: laws and hand numbers on fake models, and what a run records of it."""

import math
import signal
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from runs import STEPS, numbers, small_run, stop_before_evaluation

from mac_bench import events, registry
from mac_bench.config import Settings
from mac_bench.contract import toy
from mac_bench.data import SCALE_FLOOR, Dataset, fit
from mac_bench.dynamics import open_loop, predict, prediction_loss
from mac_bench.errors import UserError
from mac_bench.jax_agent import JaxAgent, Method, descend, learner
from mac_bench.model_error import Pieces, errors, forecasts, held_out, recorded, shown
from mac_bench.nn import MLP, initial
from mac_bench.record import RunFolder
from mac_bench.train import Options, train
from mac_bench.types import Forecast, Sampling

SPEED = np.array([0.4, 1.0], np.float32)
"""how far an action of (1, 1) moves the state"""


def walks(*lengths: int, start: float = 0.0) -> Dataset:
    """Episodes of so many transitions, each SPEED times its action; the first number of a state tells the episode."""
    rng = np.random.default_rng(len(lengths))
    obs, actions = [], []
    for number, length in enumerate(lengths):
        action = rng.uniform(-0.9, 0.9, (length + 1, 2)).astype(np.float32)
        moves = np.concatenate([np.zeros((1, 2)), np.cumsum(action[:-1] * SPEED, axis=0)])
        obs.append((start + 1000 * number + moves).astype(np.float32))
        actions.append(action)
    ends = np.cumsum([length + 1 for length in lengths]) - 1
    return Dataset(np.concatenate(obs), np.concatenate(actions), ends)


def steady(length: int = 10, count: int = 3) -> Pieces:
    """Pieces that move by SPEED at every step, on a scale of (2, 5)."""
    moves = np.arange(length + 1, dtype=np.float32)[:, None] * SPEED
    states = np.arange(count, dtype=np.float32)[:, None, None] + moves
    return Pieces(states, np.ones((count, length, 2), np.float32), np.array([2, 5], np.float32))


def model(offset=(0.0, 0.0), stride: int = 1, spoil=lambda states: states):
    """An agent that knows the dynamics of `walks` and `steady` but for an error of `offset` at every step."""

    def forecast(obs, actions):
        states = obs[:, None] + np.cumsum(actions * SPEED + np.float32(offset), axis=1)
        return Forecast(spoil(states[:, stride - 1 :: stride]), stride)

    return SimpleNamespace(forecast=forecast)


def test_exact_dynamics_have_no_error():
    training, validation = walks(30, 40), walks(12, 15, start=3.0)
    pieces = held_out(Dataset(*_columns(training), validation=validation), horizon=12, pieces=20, seed=0)
    curve = errors(model(), pieces)
    assert curve.steps.tolist() == list(range(1, 13))
    np.testing.assert_allclose(curve.error, 0, atol=1e-9)
    assert (curve.still > 1e-9).all()


def test_a_constant_offset_gives_the_curve_by_hand():
    # (0.2 k / 2)^2 = (0.5 k / 5)^2 = 0.01 k^2; of offsets 0.2 and 0 the mean over the two dimensions is half of that
    k = np.arange(1, 11)
    np.testing.assert_allclose(errors(model((0.2, 0.5)), steady()).error, 0.01 * k**2, rtol=1e-4)
    np.testing.assert_allclose(errors(model((0.2, 0.0)), steady()).error, 0.005 * k**2, rtol=1e-4)


def test_nothing_moves_by_hand():
    # (0.4 k / 2)^2 = (1.0 k / 5)^2 = 0.04 k^2
    np.testing.assert_allclose(errors(model(), steady()).still, 0.04 * np.arange(1, 11) ** 2, rtol=1e-4)


def test_a_mean_over_pieces_and_not_over_the_first():
    pieces = steady(count=2)
    pieces.states[1, 1:] += np.float32([2, 5])  # one unit off in each dimension
    np.testing.assert_allclose(errors(model(), pieces).error, 0.5, rtol=1e-4)


def test_a_model_of_chunks_has_errors_at_multiples_of_its_stride_only():
    curve = errors(model((0.2, 0.5), stride=3), steady())
    assert curve.steps.tolist() == [3, 6, 9]
    np.testing.assert_allclose(curve.error, [0.09, 0.36, 0.81], rtol=1e-4)
    np.testing.assert_allclose(curve.still, [0.36, 1.44, 3.24], rtol=1e-4)
    assert len(errors(model(stride=11), steady()).steps) == 0


def test_a_forecast_of_another_shape_is_refused():
    transposed = model(spoil=lambda states: states.transpose(0, 2, 1))
    with pytest.raises(UserError, match=r"gives states \(3, 2, 10\), but \(3, 10, 2\) were logged"):
        errors(transposed, steady())


def _columns(data: Dataset) -> tuple:
    return data.observations, data.actions, data.ends


def test_pieces_are_held_out_and_lie_inside_one_episode():
    training, validation = walks(30, start=-500.0), walks(5, 12, 9)
    data = Dataset(*_columns(training), validation=validation)
    pieces = held_out(data, horizon=8, pieces=200, seed=0)
    # of episodes of 5, 12 and 9 transitions the last two have 5 and 2 pieces of 8
    assert pieces.states.shape == (7, 9, 2) and pieces.actions.shape == (7, 8, 2)
    np.testing.assert_allclose(np.diff(pieces.states, axis=1), pieces.actions * SPEED, atol=1e-3)
    assert len(np.unique(pieces.states[:, 0], axis=0)) == 7, "a piece that is drawn twice counts once"
    assert set(np.round(pieces.states[:, 0, 0] / 1000)) == {1, 2}


def test_the_scale_is_half_the_range_of_the_training_data():
    data = Dataset(*_columns(walks(30)), validation=walks(12))
    low, high = data.observations.min(axis=0), data.observations.max(axis=0)
    np.testing.assert_allclose(held_out(data, 5, 3, 0).scale, (high - low) / 2 + SCALE_FLOOR, rtol=1e-6)


def test_pieces_are_as_long_as_there_are_episodes():
    data = Dataset(*_columns(walks(30)), validation=walks(5, 12, 9))
    assert held_out(data, horizon=100, pieces=9, seed=0).actions.shape == (1, 12, 2)
    assert held_out(data, horizon=12, pieces=9, seed=0).actions.shape == (1, 12, 2)
    assert held_out(data, horizon=11, pieces=9, seed=0).actions.shape == (2, 11, 2)


def test_without_a_validation_split_there_is_nothing():
    assert held_out(walks(30)) is None


def test_pieces_are_a_function_of_the_seed():
    data = Dataset(*_columns(walks(30)), validation=walks(200))
    first, again, other = (held_out(data, 10, 5, seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first.states, again.states)
    np.testing.assert_array_equal(first.actions, again.actions)
    assert first.states[:, 0].tolist() != other.states[:, 0].tolist()


@pytest.mark.parametrize(
    "stride, length, horizon, expected",
    [
        (1, 100, 100, [10, 50, 100]),
        (10, 100, 100, [10, 50, 100]),
        (25, 100, 100, [50, 100]),
        (3, 100, 100, [9, 48, 99]),
        (1, 60, 100, [10, 50, 60]),
        (1, 7, 7, [7]),
        (1, 200, 200, [10, 50, 100, 200]),
        (60, 100, 100, [60]),
        (101, 100, 100, []),
    ],
)
def test_the_few_points_of_a_curve_are_the_last_before_each_mark(stride, length, horizon, expected):
    steps = np.arange(stride, length + 1, stride)
    assert steps[shown(steps, horizon)].tolist() == expected


def diverging(states: np.ndarray) -> np.ndarray:
    """Large after 8 actions, infinite after 9, nonsense after 10."""
    states[0, 7:8], states[0, 8:9], states[0, 9:10] = 1e30, np.inf, np.nan
    return states


def test_what_diverges_is_shown_and_recorded_as_null():
    curve = errors(model(spoil=diverging), steady())
    assert np.isfinite(curve.error[:8]).all() and curve.error[7] > 1e58, "float32 would have overflowed"
    assert curve.error[8] == np.inf and math.isnan(curve.error[9])
    assert recorded(model(spoil=diverging), steady(9)) == {"model_error/9": None}
    assert recorded(model(spoil=diverging), steady(10)) == {"model_error/10": None}
    assert recorded(model((0.2, 0.5)), steady()) == {"model_error/10": pytest.approx(1.0, rel=1e-4)}


class Speed(Settings):
    """Settings of the world model below."""

    stride: int = 1


def scaled_model(c, nets, state, obs, actions):
    """s + the sum of actions, in scaled units."""
    states = obs[:, None] + state * jnp.cumsum(actions, axis=1)
    return Forecast(states[:, c.stride - 1 :: c.stride], c.stride)


def jax_agent(data: Dataset, forecast=scaled_model, stride: int = 1) -> JaxAgent:
    def nothing(*_):
        raise NotImplementedError

    return JaxAgent(
        Method(nothing, nothing, forecast),
        Speed(stride=stride),
        None,
        jnp.float32(0.5),
        sampling=Sampling(1),
        scalings=fit("minmax", "train", data),
        seed=0,
    )


@pytest.mark.parametrize("stride", [1, 4])
def test_the_shell_of_jax_agents_speaks_the_units_of_the_data(stride):
    data = walks(20, 30, start=5.0)
    obs, actions = data.observations[:6], np.random.default_rng(0).normal(size=(6, 10, 2)).astype(np.float32)
    agent = jax_agent(data, stride=stride)
    forecast = agent.forecast(obs, actions)
    # a scaled step of 0.5 a is one of 0.5 a times the scale
    expected = obs[:, None] + np.cumsum(0.5 * actions * agent.scalings.obs.scale, axis=1)
    np.testing.assert_allclose(forecast.states, expected[:, stride - 1 :: stride], rtol=1e-4)
    assert isinstance(forecast.states, np.ndarray) and forecast.states.dtype == np.float32
    assert type(forecast.stride) is int and forecast.stride == stride


NET = MLP((32, 32), 4)


def learn_dynamics(c, nets, state, batch, key):
    """The dynamics loss of MAC alone."""
    chunk = batch.actions.reshape(len(batch.obs), -1)
    state, loss = descend(state, 3e-3, lambda p: prediction_loss(nets, p, batch.obs, chunk, batch.next_obs))
    return state, {"loss/dynamics": loss}


def forecast_chunks(c, nets, state, obs, actions):
    """As MAC does it."""
    return open_loop(lambda s, a: predict(nets, state.params, s, a), obs, actions, c.stride)


def world_model(data: Dataset, chunk: int) -> JaxAgent:
    """An agent that is nothing but MAC's model of chunks, for observations [4] and actions [2]."""
    state = learner(initial(NET, jax.random.key(0), jnp.zeros((1, 4)), jnp.zeros((1, 2 * chunk))), 3e-3)
    method = Method(learn_dynamics, lambda *_: None, forecast_chunks)
    scalings = fit("minmax", "train", data)
    return JaxAgent(method, Speed(stride=chunk), NET, state, sampling=Sampling(64, chunk), scalings=scalings, seed=0)


def test_a_model_of_chunks_sees_further_than_one_of_single_actions():
    """The figure of the paper, on the toy: 24 walks are trained on, 6 held out."""
    walks, rows = toy(goals=True), 24 * 61
    validation = Dataset(walks.observations[rows:], walks.actions[rows:], walks.ends[24:] - rows)
    data = Dataset(walks.observations[:rows], walks.actions[:rows], walks.ends[:24], validation=validation)
    pieces, last = held_out(data), {}
    for chunk in (1, 10):
        agent = world_model(data, chunk)
        before = errors(agent, pieces)
        for step in range(1, 301):
            agent.update(data.sample(agent.sampling, 0, step), step)
        after = errors(agent, pieces)
        assert after.steps.tolist() == list(range(chunk, 61, chunk))
        assert after.error[0] < before.error[0] / 5, "it has learned"
        last[chunk] = after.error[-1]
    assert last[10] < after.still[-1] < last[1] / 10


def test_who_has_no_world_model_can_be_told():
    data = toy(goals=False)
    assert forecasts(jax_agent(data)) and not forecasts(jax_agent(data, forecast=None))
    assert not forecasts(registry.make("random_actions", {}, data, 0)), "one that has never heard of forecasts"


FORESEER = """
import numpy as np
from baselines.random_actions import Config, RandomActions, VERSION
from mac_bench.types import Forecast

class Foreseer(RandomActions):
    def forecast(self, obs, actions):
        return Forecast(obs[:, None] + GAIN * np.cumsum(actions, axis=1), 1)

def make(c, data, seed):
    return Foreseer(data.actions.shape[1])
"""


@pytest.fixture
def foreseer(tmp_path, monkeypatch):
    """Makes an agent of a user's own whose world model moves by `gain` times the action; returns its name."""
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "seers").mkdir()

    def write(name: str, gain: str) -> str:
        (tmp_path / "seers" / f"{name}.py").write_text(FORESEER.replace("GAIN", gain))
        return f"seers.{name}"

    return write


def model_errors(folder) -> list[tuple[int, dict]]:
    """(step, values) of each time that a run wrote its model error."""
    found = [event for event in RunFolder(folder).read() if event["kind"] == "metrics"]
    return [(e["step"], e["values"]) for e in found if any(name.startswith("model_error/") for name in e["values"])]


def test_a_run_records_the_model_error_at_each_evaluation(tmp_path, data_root, foreseer):
    run = small_run(foreseer("good", "0.2"))
    train(run, tmp_path, data_root)
    found = model_errors(tmp_path / run.id)
    assert [step for step, _ in found] == [STEPS // 2, STEPS]
    assert list(found[0][1]) == ["model_error/10", "model_error/50", "model_error/100"]
    assert 0 < found[0][1]["model_error/10"] < 1 and found[0] == (STEPS // 2, found[1][1]), "it learns nothing"
    text = (tmp_path / run.id / "events.jsonl").read_bytes()
    rows = [row for row in events.read_log(run.id, text).metrics if row["name"] == "model_error/50"]
    assert [(row["step"], row["value"]) for row in rows] == [(s, v["model_error/50"]) for s, v in found]


def test_one_that_diverges_does_not_stop_the_run(tmp_path, data_root, foreseer):
    run = small_run(foreseer("bad", "np.inf"))
    assert train(run, tmp_path, data_root).state == "finished"
    assert model_errors(tmp_path / run.id)[-1] == (STEPS, {f"model_error/{k}": None for k in (10, 50, 100)})
    log = events.read_log(run.id, (tmp_path / run.id / "events.jsonl").read_bytes())
    assert log.damaged == []
    assert all(math.isnan(row["value"]) for row in log.metrics if row["name"] == "model_error/50")


def test_an_agent_without_a_world_model_records_none(tmp_path, data_root):
    run = small_run("random_actions")
    train(run, tmp_path, data_root)
    assert model_errors(tmp_path / run.id) == []


def test_stopped_between_its_model_error_and_its_evaluation_both_are_there_in_the_end(
    tmp_path, data_root, monkeypatch, foreseer
):
    run = small_run(foreseer("stopped", "0.2"))
    train(run, tmp_path / "whole", data_root)
    stop_before_evaluation(monkeypatch)
    assert train(run, tmp_path / "cut", data_root) == ("stopped", signal.SIGTERM)
    assert [step for step, _ in model_errors(tmp_path / "cut" / run.id)] == [STEPS // 2]
    assert train(run, tmp_path / "cut", data_root, Options(checkpoint_minutes=0)).state == "finished"
    assert dict(model_errors(tmp_path / "cut" / run.id)) == dict(model_errors(tmp_path / "whole" / run.id))
    assert numbers(tmp_path / "cut" / run.id) == numbers(tmp_path / "whole" / run.id)
