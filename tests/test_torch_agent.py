"""The shell of torch methods and their networks: against flax, optax and scipy, and bit for bit against themselves."""

import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch
from scipy import stats
from test_architecture import loaded_by
from torch import Tensor, nn

from mac_bench import contract, registry
from mac_bench import nn as flax_nn
from mac_bench.config import GoalMix
from mac_bench.data import Scaling, Scalings
from mac_bench.errors import UserError
from mac_bench.files import read_arrays
from mac_bench.torch_agent import Learner, TorchAgent, choose_device, descend, follow, generator, tensors
from mac_bench.torch_nn import MLP, gaussian, log_density, tanh_sample
from mac_bench.types import Batch, Forecast, Goals, GoalSampling, Sampling

CPU = torch.device("cpu")


def random(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def numbers(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=random(seed))


# -- networks --------------------------------------------------------------------------------------------------------


def scrambled(net: MLP) -> MLP:
    """With biases, gains and shifts that matter."""
    for number, p in enumerate((*net.biases, *net.gains, *net.shifts)):
        p.data += 0.3 * numbers(*p.shape, seed=number)
    return net


def as_flax(net: MLP) -> dict:
    """The parameters of a single network as flax lays them out."""
    found = {}
    for layer, (weight, bias) in enumerate(zip(net.weights, net.biases, strict=True)):
        found[f"Dense_{layer}"] = {"kernel": weight[0], "bias": bias[0, 0]}
    for layer, (gain, shift) in enumerate(zip(net.gains, net.shifts, strict=True)):
        found[f"LayerNorm_{layer}"] = {"scale": gain[0, 0], "bias": shift[0, 0]}
    return {"params": jax.tree.map(lambda x: jnp.asarray(x.detach().numpy()), found)}


@pytest.mark.parametrize("layer_norm", [True, False])
def test_the_network_equals_the_flax_one_on_the_same_parameters(layer_norm):
    net = scrambled(MLP([3, 2], [16, 12], 4, random(), layer_norm=layer_norm))
    x, y = numbers(50, 3), numbers(50, 2, seed=1)
    twin = flax_nn.MLP((16, 12), 4, layer_norm)
    params = as_flax(net)
    shapes = jax.tree.map(jnp.shape, twin.init(jax.random.key(0), x.numpy(), y.numpy()))
    assert jax.tree.map(jnp.shape, params) == shapes, "some parameters of the one are not in the other"
    expected = flax_nn.apply(twin, params, x.numpy(), None, y.numpy())
    np.testing.assert_allclose(net(x, None, y).detach(), expected, rtol=1e-6, atol=1e-6)


def test_stacked_members_equal_separate_networks():
    together = scrambled(MLP([3], [8, 8], 2, random(), members=3))
    x, own = numbers(2, 5, 3), numbers(3, 5, 3, seed=1)
    everyone, each = together(x), together.each(own)
    assert everyone.shape == (3, 2, 5, 2) and each.shape == (3, 5, 2)
    for member in range(3):
        alone = MLP([3], [8, 8], 2, random())
        alone.load_state_dict({name: p[member : member + 1] for name, p in together.state_dict().items()})
        assert alone(x).shape == (2, 5, 2)
        torch.testing.assert_close(everyone[member], alone(x), rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(each[member], alone(own[member]), rtol=1e-6, atol=1e-6)


def test_initial_weights_are_uniform_within_flax_s_bounds():
    net = MLP([30, 20], [70], 50, random(), members=4, last_scale=0.01)
    assert not torch.equal(net.weights[0][0], net.weights[0][1]), "all members begin alike"
    # sqrt(6 / (in + out)), and a tenth of it where the variance is a hundredth
    for weight, bound in zip(net.weights, (np.sqrt(6 / 120), 0.1 * np.sqrt(6 / 120)), strict=True):
        assert weight.abs().max() <= bound
        spread = weight.detach().numpy().ravel() / bound
        assert stats.kstest(spread, stats.uniform(-1, 2).cdf).pvalue > 1e-3
    assert all((p == 0).all() for p in (*net.biases, *net.shifts)) and (net.gains[0] == 1).all()


def test_the_density_of_a_tanh_gaussian_is_right_up_to_the_edge():
    mean = torch.tensor([0.0, 0.7, -3.0, 3.0, -6.0, 6.0, -20.0, 20.0])
    log_std = torch.tensor([0.0, -1.0, 0.5, -2.0, 1.0, -4.0, 0.0, 1.5])
    output = torch.cat([mean, log_std]).expand(1000, -1)
    action, density = tanh_sample(output, random())
    raw = (mean + log_std.exp() * torch.randn(1000, 8, generator=random())).double().numpy()
    normal = stats.norm.logpdf(raw, mean.numpy(), np.exp(log_std.double().numpy()))
    squash = -2 * (np.logaddexp(raw, -raw) - np.log(2))  # log(1 - tanh^2) = -2 log cosh
    np.testing.assert_allclose(action, np.tanh(raw), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(density, (normal - squash).sum(axis=1), rtol=1e-4)
    assert (action.abs() <= 1).all() and (action[:, 6:].abs() == 1).any(), "the edge is not reached: nothing is shown"


def test_the_gradient_passes_through_sampled_actions():
    output = torch.zeros(10, 4, requires_grad=True)
    tanh_sample(output, random())[0].sum().backward()
    assert output.grad is not None and (output.grad[:, :2] > 0).all() and (output.grad[:, 2:] != 0).all()


def test_a_policy_s_log_deviation_stays_between_its_bounds():
    mean, log_std = gaussian(torch.tensor([[-9.0, 9.0, 0.0, -9.0, 9.0, 0.5]]))
    assert mean.tolist() == [[-9, 9, 0]] and log_std.tolist() == [[-5, 2, 0.5]]


def test_the_density_of_a_gaussian_is_scipy_s():
    x, mean, log_std = (numbers(20, 3, seed=seed) for seed in range(3))
    expected = stats.norm.logpdf(x, mean, log_std.exp()).sum(axis=-1)
    np.testing.assert_allclose(log_density(x, mean, log_std), expected, rtol=1e-5)


# -- learning --------------------------------------------------------------------------------------------------------


class Number(nn.Module):
    """A network of one parameter."""

    def __init__(self, value: float):
        super().__init__()
        self.value = nn.Parameter(torch.tensor(value))

    def forward(self) -> Tensor:
        return self.value


def test_all_gradients_are_taken_at_the_old_parameters_and_each_of_its_own_loss():
    a, b = Learner(Number(3.0), 0.1), Learner(Number(2.0), 0.1)
    metrics = descend({"a": (a, (a() - 1) ** 2), "b": (b, a() * b())})
    # Adam's first moment is a tenth of the gradient: 2 (a - 1) = 4 and a = 3
    moments = [learner.optimizer.state[learner.network.value]["exp_avg"].item() for learner in (a, b)]
    assert moments == pytest.approx([0.4, 0.3])
    assert {name: value.item() for name, value in metrics.items()} == {"loss/a": 4, "loss/b": 6}
    assert not any(value.requires_grad for value in metrics.values())
    # a first step of Adam has the size of the learning rate
    assert [a().item(), b().item()] == pytest.approx([2.9, 1.9])
    assert a().grad is None and b().grad is None


def test_adam_equals_optax():
    learner = Learner(MLP([3], [4], 2, random(), members=2), 1e-2)
    params = [jnp.asarray(p.detach().numpy()) for p in learner.parameters()]
    optimizer = optax.adam(1e-2)
    state = optimizer.init(params)
    for step in range(30):
        # gradients of many sizes, down to where Adam's epsilon of 1e-8 is felt
        gradients = [numbers(*p.shape, seed=step) * 0.01**i for i, p in enumerate(learner.parameters())]
        products = [(p * g).sum() for p, g in zip(learner.parameters(), gradients, strict=True)]
        descend({"linear": (learner, torch.stack(products).sum())})
        change, state = optimizer.update([jnp.asarray(g.numpy()) for g in gradients], state, params)
        params = optax.apply_updates(params, change)
    for ours, theirs in zip(learner.parameters(), params, strict=True):
        np.testing.assert_allclose(ours.detach(), theirs, rtol=1e-6, atol=1e-6)


def test_a_slow_copy_goes_a_part_of_the_way():
    slow, fast = Number(1.0), Number(5.0)
    follow(slow, fast, 0.25)
    assert slow().item() == 2 and fast().item() == 5


# -- the agent -------------------------------------------------------------------------------------------------------


class Cloning(nn.Module):
    """As small a method as there can be: regression on the actions, with noise; s' = s + (a, 0)."""

    def __init__(self, seed: int, width: int):
        super().__init__()
        self.net = Learner(MLP([4, 3], [width], 2, random(seed)), 1e-2)

    def update(self, batch: Batch, step: int, random: torch.Generator):
        obs = batch.obs + 0.1 * torch.randn(batch.obs.shape, generator=random)
        error = self.net(obs, batch.goals.actor) - batch.actions[:, 0]
        return descend({"clone": (self.net, error.square().mean())})

    def act(self, obs: Tensor, goal: Tensor, random: torch.Generator) -> Tensor:
        mean = self.net(obs, goal)
        return (mean + torch.randn(mean.shape, generator=random)).tanh()[:, None]

    def forecast(self, obs: Tensor, actions: Tensor) -> Forecast:
        states = obs[:, None].repeat(1, actions.shape[1], 1)
        states[..., :2] += actions.cumsum(dim=1)
        return Forecast(states, 1)


DATA = contract.toy(True)
MIX = GoalMix(current=0, future=1, random=0)
SAMPLING = Sampling(32, 1, GoalSampling(MIX, MIX, 0.9))


def agent(seed: int = 0, width: int = 8, shift: float = 0.0) -> TorchAgent:
    scaling = Scaling(np.full(4, shift, np.float32), np.full(4, 2, np.float32))
    goal = Scaling(np.full(3, shift, np.float32), np.full(3, 4, np.float32))
    return TorchAgent(Cloning(seed, width), sampling=SAMPLING, scalings=Scalings(scaling, goal), seed=seed, device=CPU)


def train(agent: TorchAgent, first: int, last: int) -> list[float]:
    return [
        float(agent.update(DATA.sample(agent.sampling, 0, step), step)["loss/clone"]) for step in range(first, last + 1)
    ]


def ask(agent: TorchAgent, seed: int = 7) -> np.ndarray:
    assert DATA.goals is not None
    return agent.act(DATA.observations[:5], DATA.goals[:5], seed=seed)


def saved(agent: TorchAgent, folder, step: int = 0) -> dict[str, np.ndarray]:
    agent.save(folder / "checkpoint.npz", step)
    return read_arrays(folder / "checkpoint.npz")


def test_one_step_after_loading_equals_an_uninterrupted_one_bit_for_bit(tmp_path):
    whole, after = agent(), agent(width=8)
    train(whole, 1, 3)
    train(after, 1, 1)  # moments and parameters that must all go
    checkpoint = saved(whole, tmp_path, 3)
    moments = [name for name in checkpoint if "exp_avg" in name]
    assert len(moments) == 2 * len(list(whole.method.parameters())) and all(checkpoint[name].any() for name in moments)
    assert after.load(tmp_path / "checkpoint.npz") == 3
    assert train(whole, 4, 4) == train(after, 4, 4)
    expected, found = saved(whole, tmp_path), saved(after, tmp_path)
    assert expected.keys() == found.keys()
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value, name)
        assert name.startswith(("scalings", "step")) or (value != checkpoint[name]).any(), f"{name} did not move"


def test_a_checkpoint_is_plain_arrays(tmp_path):
    saved(agent(), tmp_path, 3)
    with np.load(tmp_path / "checkpoint.npz", allow_pickle=False) as archive:
        assert {archive[name].dtype.kind for name in archive.files} == {"f", "i"}
        assert "net.network.weights.0" in archive.files and "scalings/obs/shift" in archive.files


def test_a_checkpoint_of_another_shape_is_refused_and_changes_nothing(tmp_path):
    wide, narrow = agent(width=9), agent(width=8)
    wide.save(tmp_path / "wide.npz", 1)
    before = saved(narrow, tmp_path)
    with pytest.raises(UserError, match=r"has shape \(1, 7, 9\) there and \(1, 7, 8\) here"):
        narrow.load(tmp_path / "wide.npz")
    for name, value in saved(narrow, tmp_path).items():
        np.testing.assert_array_equal(value, before[name])


def test_scalings_come_back_with_the_checkpoint(tmp_path):
    one, other = agent(shift=0.5), agent(shift=-1.0)
    assert (ask(one) != ask(other)).any()
    one.save(tmp_path / "checkpoint.npz", 1)
    other.load(tmp_path / "checkpoint.npz")
    np.testing.assert_array_equal(ask(one), ask(other))
    assert train(one, 2, 3) == train(other, 2, 3)


def test_batches_are_scaled_goals_too():
    scalings = agent(shift=1.0).scalings
    two, three = np.full((6, 4), 5, np.float32), np.full((6, 3), 9, np.float32)
    goals = Goals(three, -three, np.ones(6, np.float32), np.zeros(6, np.float32))
    ones = np.ones((6, 2), np.float32)
    batch = Batch(two, ones[:, :, None], ones, -two, ones, np.arange(6), goals, two[:, None].repeat(3, axis=1))
    found = tensors(batch, scalings, CPU)
    assert (found.obs == 2).all() and (found.next_obs == -3).all() and (found.path == 2).all()
    assert found.path.shape == (6, 3, 4)
    assert (found.goals.value == 2).all() and (found.goals.actor == -2.5).all() and (found.goals.reached == 1).all()
    assert (found.actions == 1).all() and found.index.tolist() == list(range(6))


def test_forecasts_are_in_the_units_of_the_data():
    # a step of 1 in scaled states is one of 2 in the data's
    found = agent(shift=1.0).forecast(np.full((1, 4), 5, np.float32), np.ones((1, 3, 2), np.float32))
    np.testing.assert_allclose(found.states[0], [[7, 7, 5, 5], [9, 9, 5, 5], [11, 11, 5, 5]])
    assert found.stride == 1 and isinstance(found.states, np.ndarray)


def test_memory_mapped_observations_are_taken():
    obs, goal = DATA.observations[:5].copy(), DATA.goals[:5].copy()
    obs.flags.writeable = goal.flags.writeable = False
    np.testing.assert_array_equal(agent().act(obs, goal, seed=7), ask(agent()))


def test_streams_are_functions_of_their_arguments_alone():
    def draw(*arguments: int) -> list[float]:
        return torch.rand(4, generator=generator(*arguments, CPU)).tolist()

    before, first = torch.get_rng_state(), draw(1, 2, 3)
    torch.rand(5)
    assert draw(1, 2, 3) == first
    assert len({tuple(draw(*each)) for each in ((1, 2, 3), (0, 2, 3), (1, 0, 3), (1, 2, 0), (3, 2, 1))}) == 5
    torch.set_rng_state(before)
    draw(1, 2, 3)
    assert torch.equal(torch.get_rng_state(), before), "the global stream is used"


def test_actions_depend_on_the_seed_of_the_question_alone():
    one = agent()
    np.testing.assert_array_equal(ask(one), ask(one))
    assert (ask(one) != ask(one, seed=8)).any()


@pytest.mark.parametrize("name", ["nonsense", "cuda:99", "meta", "hpu"])
def test_a_device_that_cannot_be_used_is_one_line(monkeypatch, name):
    monkeypatch.setenv("MAC_BENCH_TORCH_DEVICE", name)
    with pytest.raises(UserError, match=rf"^torch cannot use '{name}' \(.*\); set MAC_BENCH_TORCH_DEVICE") as told:
        registry.make("mopo", contract.small("mopo"), DATA, 0)
    assert "\n" not in str(told.value)


def test_the_device_is_the_one_that_is_asked_for(monkeypatch):
    monkeypatch.setenv("MAC_BENCH_TORCH_DEVICE", "cpu")
    assert choose_device() == CPU
    monkeypatch.delenv("MAC_BENCH_TORCH_DEVICE")
    assert choose_device().type == ("cuda" if torch.cuda.is_available() else "cpu")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no NVIDIA GPU here")
def test_updates_on_a_gpu_equal_those_on_the_cpu(monkeypatch, tmp_path):
    agents = {}
    for device in ("cpu", "cuda"):
        monkeypatch.setenv("MAC_BENCH_TORCH_DEVICE", device)
        agents[device] = registry.make("mopo", contract.small("mopo"), DATA, 0)
    agents["cpu"].save(tmp_path / "checkpoint.npz", 0)
    agents["cuda"].load(tmp_path / "checkpoint.npz")  # random streams differ between devices, so begin alike
    for step in range(1, 6):
        for each in agents.values():
            # the model's losses draw nothing in joint training
            batch = tensors(DATA.sample(each.sampling, 0, step), each.scalings, each.device)
            descend(each.method.model.losses(batch, generator(0, 0, 0, each.device)))
    here, there = (saved(each, tmp_path) for each in agents.values())
    for name, value in here.items():
        np.testing.assert_allclose(there[name], value, rtol=1e-3, atol=1e-4, err_msg=name)
    metrics = agents["cuda"].update(DATA.sample(SAMPLING, 0, 6), 6)
    assert all(np.isfinite(float(value)) for value in metrics.values())
    assert {p.device.type for p in agents["cuda"].method.parameters()} == {"cuda"}
    assert len(agents["cuda"].method.ring) > 0 and ask(agents["cuda"]).shape == (5, 1, 2)


# -- what is loaded, and what is not there -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("agent", "others"), [("baselines.mopo", {"jax", "flax", "optax"}), ("mac_bench.mac", {"torch"})]
)
def test_an_agent_loads_its_own_framework_alone(agent, others):
    assert not loaded_by(f"import {agent}") & others


WITHOUT_TORCH = """
import sys
sys.modules["torch"] = None  # importing it fails as if it were not installed
from mac_bench.cli import main
for words in (["agents"], ["plan", "quickstart", "--runs", sys.argv[1]], ["agents", "mopo"]):
    sys.argv[1:], root = words, sys.argv[1]
    try:
        main()
        print("left with 0", flush=True)
    except SystemExit as leaving:
        print("left with", leaving.code or 0, flush=True)
    sys.argv[1:] = [root]
"""


def test_without_torch_all_but_its_agents_work(tmp_path):
    arguments = [sys.executable, "-c", WITHOUT_TORCH, str(tmp_path)]
    done = subprocess.run(arguments, capture_output=True, text=True, check=True)
    assert [line for line in done.stdout.splitlines() if line.startswith("left")] == [
        "left with 0",
        "left with 0",
        "left with 2",
    ]
    assert "mopo" in done.stdout and "GCIQL" in done.stdout
    error = "mac-bench: agent 'mopo' needs the package 'torch', which is not installed; `make torch` installs it"
    assert done.stderr.strip() == error
