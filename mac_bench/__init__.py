"""mac-bench: model-based offline RL with action chunks, its baselines, and honest comparisons."""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mac_bench.queries import Results

__version__ = "0.1.0"


def results(database: Path | str = "runs/results.db") -> "Results":
    """The results in a database that `mac-bench collect` made, as tidy pandas frames; for notebooks.

    `mac_bench.results().runs(suite="quickstart", label=["MAC", "BC"])` is one row per run; see `queries.Results`.
    """
    from mac_bench.queries import Results  # here, as jobs import this package and need no pandas

    return Results(Path(database))
