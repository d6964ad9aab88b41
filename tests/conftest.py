"""Settings and small things that several tests need."""

import os
import tempfile
from importlib.metadata import version
from pathlib import Path

import pytest

# before jax is imported: no test may depend on an accelerator, and a shape that is broadcast by accident is an error
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("JAX_NUMPY_RANK_PROMOTION", "raise")
os.environ.setdefault("MAC_BENCH_TORCH_DEVICE", "cpu")
# nor on what somebody has downloaded
os.environ["MINARI_DATASETS_PATH"] = str(Path(__file__).parent / "nothing")
# several tests run at a time, and threads that wait for each other are slower than one
os.environ.setdefault("OMP_NUM_THREADS", "1")
if version("jax").startswith("0.10."):  # a compiler that does not know a flag ends the process
    # most of the time goes into compiling what then runs for a moment
    FLAGS = "--xla_cpu_multi_thread_eigen=false --xla_backend_optimization_level=1 --xla_cpu_use_fusion_emitters=false"
    os.environ.setdefault("XLA_FLAGS", FLAGS)

TASK = "pointmaze-medium-navigate-singletask-v0"
GOAL_TASK = "pointmaze-medium-navigate-oraclerep-v0"
DATA = "pointmaze-medium-navigate-v0"


@pytest.fixture(scope="session", autouse=True)
def compiled(tmp_path_factory) -> None:
    """What this process compiles, those that it starts need not compile again. They only read: one that is killed would
    leave half a program behind, and of two that write at a time one would read what the other has half written."""
    import jax
    from jax.experimental.compilation_cache import compilation_cache

    folder = str(tmp_path_factory.mktemp("compiled"))
    os.environ["JAX_COMPILATION_CACHE_DIR"] = folder
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "inf"
    jax.config.update("jax_compilation_cache_dir", folder)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    compilation_cache.reset_cache()  # it may have been looked for, and not found, while tests were collected


@pytest.fixture(scope="session")
def data_root(tmp_path_factory) -> Path:
    """A data folder with a few short episodes of a real task."""
    from mac_bench.generate import generate

    root = tmp_path_factory.mktemp("data")
    generate(DATA, root, episodes=3, length=100, seed=0)
    return root


@pytest.fixture
def root(tmp_path) -> Path:
    """An empty folder of runs."""
    (tmp_path / "runs").mkdir()
    return tmp_path / "runs"


@pytest.fixture
def database(tmp_path) -> Path:
    """Where a database may be made."""
    return tmp_path / "results.db"


@pytest.fixture(scope="session")
def cluster():
    """A real SLURM for all tests of a process: 3 nodes with 2 GPUs that are not there, no accounting."""
    from slurm_cluster import require_slurm

    from slurm.one_machine.cluster import started

    require_slurm()
    # not pytest's folder, whose name can be too long for the names of sockets
    with tempfile.TemporaryDirectory() as folder, started(Path(folder) / "cluster", nodes=3, gpus=2) as running:
        yield running
