"""Reads the golden numbers in `tests/reference/`: tiny, complete computations of the official agents."""

from pathlib import Path

import jax
import numpy as np

from mac_bench.files import read_arrays

REFERENCE = Path(__file__).parent / "reference"


class Golden:
    """One golden file: groups of arrays by prefix, parameters in our layout."""

    def __init__(self, name: str):
        self.arrays = read_arrays(REFERENCE / f"{name}.npz")

    def __getitem__(self, key: str) -> np.ndarray:
        return self.arrays[key]

    def group(self, prefix: str) -> dict[str, np.ndarray]:
        """All arrays under `prefix/`, in the order of the file."""
        return {key[len(prefix) + 1 :]: x for key, x in self.arrays.items() if key.startswith(prefix + "/")}

    def network(self, group: str, name: str) -> dict:
        """Parameters (or gradients) of one network as flax lays out our MLP."""
        layers: dict = {}
        for path, x in self.group(f"{group}/modules_{name}").items():
            layer, leaf = path.split("/")[-2:]
            layers.setdefault(layer, {})[leaf] = x
        if "mean_net" in layers:  # the reference's Gaussian policy keeps its last layer apart
            layers[f"Dense_{sum(key.startswith('Dense') for key in layers)}"] = layers.pop("mean_net")
        return {"params": layers}


def assert_close(ours, reference, what: str, relative: float = 1e-5):
    """Every leaf agrees within `relative` of the largest entry of its array; names and shapes agree exactly."""
    assert jax.tree.structure(ours) == jax.tree.structure(reference), what
    for (path, x), y in zip(jax.tree_util.tree_leaves_with_path(ours), jax.tree.leaves(reference), strict=True):
        name = f"{what}{jax.tree_util.keystr(path)}"
        np.testing.assert_equal(np.shape(x), np.shape(y), name)
        np.testing.assert_allclose(x, y, rtol=relative, atol=relative * max(float(np.abs(y).max()), 1e-8), err_msg=name)
