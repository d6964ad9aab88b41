"""Settings of all tests."""

import os

# before jax is imported: no test may depend on an accelerator, and a shape that is broadcast by accident is an error
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("JAX_NUMPY_RANK_PROMOTION", "raise")
