"""Success against the horizon, on the lane of `mac_bench/toy.py`: do one-step models fall behind chunks?

    python benchmarks/horizon.py [--horizons 10 20 40 80] [--seeds 2] [--updates 3000] [--only MAC BC] [--out FOLDER]

Every method gets the same data, networks, batch and number of updates; `horizon.yaml` has the settings. Each finished
run is one line of FOLDER/horizon.csv, so that it can be stopped and called again. At the end a table, and a figure with
the methods as lines and the seeds as bands (lowest to highest), as horizon.svg and horizon.png.
"""

import argparse
import csv
import os
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import yaml

HERE = Path(__file__).parent
COLUMNS = ["method", "horizon", "seed", "updates", "success", "regret", "seconds"]
STYLES = {"chunk model": "-", "one-step model": "--", "planner": "-.", "model-free": ":"}


class Run(NamedTuple):
    """One line of the results."""

    method: str
    horizon: int
    seed: int
    updates: int


def method(name: str) -> dict[str, Any]:
    """Agent, kind and settings of a method of `horizon.yaml`, the common settings among them where it has them."""
    from mac_bench import registry

    content = yaml.safe_load((HERE / "horizon.yaml").read_text())
    found = content["methods"][name]
    fields = registry.module(found["agent"]).Config.model_fields
    common = {key: value for key, value in content["everywhere"].items() if key in fields}
    return {**found, "settings": {**common, **found["settings"]}}


def train(run: Run, goals: bool = False) -> dict[str, Any]:
    """Train one method on a lane of one length, and walk it."""
    from mac_bench import registry, toy

    found, data = method(run.method), toy.logged(run.horizon, goals)
    began = time.perf_counter()
    agent = registry.make(found["agent"], found["settings"], data, run.seed)
    for step in range(1, run.updates + 1):
        agent.update(data.sample(agent.sampling, run.seed, step), step)
    score = toy.evaluate(agent, run.horizon, goals, episodes=100, seed=run.seed)
    return {**run._asdict(), **score._asdict(), "seconds": round(time.perf_counter() - began, 1)}


def draw(results: Any, folder: Path) -> None:  # a data frame; pandas' own types know less than its users
    """The figure."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    content = yaml.safe_load((HERE / "horizon.yaml").read_text())["methods"]
    figure, axes = pyplot.subplots(figsize=(8, 4.5), layout="constrained")
    colours = pyplot.get_cmap("tab20").colors  # pyright: ignore[reportAttributeAccessIssue]
    for colour, (name, about) in zip(colours, content.items(), strict=False):
        rows = results[results["method"] == name].groupby("horizon")["success"]
        if not len(rows):
            continue
        mean, low, high = rows.mean(), rows.min(), rows.max()
        style = STYLES[about["kind"]]
        axes.plot(mean.index, 100 * mean, style, color=colour, marker="o", markersize=3, label=name)
        axes.fill_between(mean.index, 100 * low, 100 * high, color=colour, alpha=0.12, linewidth=0)
    seeds, updates = results["seed"].nunique(), ", ".join(f"{n:,}" for n in sorted(results["updates"].unique()))
    axes.set(
        xscale="log",
        xlabel="horizon: steps of the shortest way",
        ylabel="success in %",
        title=f"The lane, {updates} updates, mean of {seeds} seeds, bands from lowest to highest",
    )
    axes.set_xticks(sorted(results["horizon"].unique()), [str(h) for h in sorted(results["horizon"].unique())])
    axes.minorticks_off()
    axes.grid(alpha=0.3)
    figure.legend(loc="outside right center", frameon=False, title="- chunk  -- one-step\n-. planner  : model-free")
    for kind in ("svg", "png"):
        figure.savefig(folder / f"horizon.{kind}", dpi=150)


def main() -> None:
    """Run what is not there yet, and show all of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--horizons", type=int, nargs="+", default=[10, 20, 40, 80])
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--updates", type=int, default=3000)
    parser.add_argument("--only", nargs="+", help="methods of horizon.yaml; all where not given")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path("horizon"))
    options = parser.parse_args()
    methods = list(yaml.safe_load((HERE / "horizon.yaml").read_text())["methods"])
    if unknown := set(options.only or []) - set(methods):
        parser.error(f"no method {', '.join(sorted(unknown))}; there are: {', '.join(methods)}")
    options.out.mkdir(parents=True, exist_ok=True)
    path = options.out / "horizon.csv"
    if not path.exists():
        path.write_text(",".join(COLUMNS) + "\n")
    done = {Run(*row) for row in pd.read_csv(path)[list(Run._fields)].itertuples(index=False, name=None)}
    wanted = [
        Run(name, horizon, seed, options.updates)
        for seed in range(options.seeds)
        for horizon in options.horizons
        for name in options.only or methods
    ]
    # one core for each run: the networks are small, and two runs side by side gain more than two cores for one
    os.environ |= {"OMP_NUM_THREADS": "1", "XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false", "JAX_PLATFORMS": "cpu"}
    os.environ["MAC_BENCH_TORCH_DEVICE"] = "cpu"
    with ProcessPoolExecutor(options.jobs) as pool, path.open("a") as file:
        writer = csv.DictWriter(file, COLUMNS)
        for future in as_completed([pool.submit(train, run) for run in wanted if run not in done]):
            row = future.result()
            writer.writerow(row)
            file.flush()
            print(
                "{method:>14} {horizon:4d} seed {seed}: success {success:.2f} in {seconds:.0f} s".format(**row),
                flush=True,
            )
    results: Any = pd.read_csv(path)
    results = results[results["updates"] == options.updates]
    table = 100 * results.pivot_table(index="method", columns="horizon", values="success").reindex(methods).dropna()
    print(f"\nsuccess in %, mean of {options.seeds} seeds, {options.updates} updates\n{table.round(0).to_string()}")
    draw(results, options.out)


if __name__ == "__main__":
    main()
