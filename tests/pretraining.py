"""What methods with a pretrained model in JAX have in common, after seven updates of which four were the model's."""

from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np

from mac_bench.data import Dataset
from mac_bench.files import read_arrays


def same(a, b) -> bool:
    """Whether two trees are equal, bit for bit."""
    return all(
        (np.asarray(x) == np.asarray(y)).all() for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    )


def check_pretrained(make: Callable, data: Dataset, folder: Path) -> None:
    """`folder` has a checkpoint of each update: the model stays as it was after the fourth, and whoever goes on from
    before, at or after it ends the same."""
    after = [read_arrays(folder / f"{step}.npz") for step in (4, 7)]
    frozen = [name for name in after[0] if "world/" in name]
    assert len(frozen) > 20 and all((after[0][name] == after[1][name]).all() for name in frozen)
    for stop in (3, 4, 5):
        again = make()
        assert again.load(folder / f"{stop}.npz") == stop
        for step in range(stop + 1, 8):
            again.update(data.sample(again.sampling, 0, step), step)
        again.save(folder / "again.npz", 7)
        for name, value in read_arrays(folder / "again.npz").items():
            np.testing.assert_array_equal(after[1][name], value, f"{name}, resumed at {stop}")
    states, stride = again.forecast(data.observations[:5], np.zeros((5, 4, 2), np.float32))
    assert states.shape == (5, 4, 4) and stride == 1
