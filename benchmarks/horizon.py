"""Success against the horizon, on the lane of `mac_bench/toy.py`: do one-step models fall behind chunks?

    python benchmarks/horizon.py [--horizons 10 20 40 80] [--seeds 2] [--updates 3000] [--only MAC BC] [--out FOLDER]

Every method gets the same data, networks, batch and number of updates; `horizon.yaml` has the settings. Each finished
run is one line of FOLDER/horizon.csv, so that it can be stopped and called again; what was run with other settings or
another VERSION of an agent is run anew. At the end a table, and a figure with seeds as bands, horizon.svg.
"""

import argparse
import csv
import hashlib
import json
import os
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import yaml

HERE = Path(__file__).parent
KEY = ["method", "horizon", "seed", "updates", "settings"]
COLUMNS = [*KEY, "success", "regret", "seconds"]


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
    return {
        **run._asdict(),
        "settings": settings_hash(run),
        **score._asdict(),
        "seconds": round(time.perf_counter() - began, 1),
    }


def settings_hash(run: Run) -> str:
    """What a result depends on beside the Run: a row of other settings, or of another VERSION, is not this one's."""
    from mac_bench import registry

    found = method(run.method)
    content = json.dumps([found["settings"], registry.module(found["agent"]).VERSION], sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()[:8]


def read(path: Path) -> Any:  # a data frame; pandas' own types know less than its users
    """What there is so far."""
    return pd.read_csv(path, dtype={"settings": str})


def draw(results: Any, folder: Path) -> None:
    """The figure, with a panel for each method, because lines at 0 and 100 % would hide one another."""
    import altair

    content = yaml.safe_load((HERE / "horizon.yaml").read_text())["methods"]
    rows = results.assign(percent=100 * results["success"], kind=[content[name]["kind"] for name in results["method"]])
    shown = [name for name in content if name in set(rows["method"])]
    horizons = [int(horizon) for horizon in sorted(rows["horizon"].unique())]
    x = altair.X("horizon:Q", title="horizon in steps").scale(type="log", base=2, nice=False)
    y = altair.Y("mean(percent):Q", title="success in %").scale(domain=[0, 100])
    colour = altair.Color("kind:N", title=None).scale(scheme="dark2").legend(orient="top")
    chart = altair.Chart(rows).encode(x.axis(values=horizons, format="d"), color=colour)
    band = chart.mark_area(opacity=0.2).encode(altair.Y("min(percent):Q"), altair.Y2("max(percent):Q"))
    panel = altair.layer(band, chart.mark_line(point=True, clip=False).encode(y)).properties(width=140, height=90)
    seeds, updates = rows["seed"].nunique(), ", ".join(f"{n:,}" for n in sorted(rows["updates"].unique()))
    figure = panel.facet(altair.Facet("method:N", sort=shown, title=None), columns=4).properties(
        title=f"The lane, after {updates} updates: mean of {seeds} seeds, bands from the lowest to the highest"
    )
    figure.save(folder / "horizon.svg")


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
    # one core for each run: the networks are small, and two runs side by side gain more than two cores for one
    os.environ |= {"OMP_NUM_THREADS": "1", "XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false", "JAX_PLATFORMS": "cpu"}
    os.environ["MAC_BENCH_TORCH_DEVICE"] = "cpu"
    path = options.out / "horizon.csv"
    if not path.exists():
        path.write_text(",".join(COLUMNS) + "\n")
    wanted = [
        Run(name, horizon, seed, options.updates)
        for seed in range(options.seeds)
        for horizon in options.horizons
        for name in options.only or methods
    ]
    asked = pd.DataFrame([(*run, settings_hash(run)) for run in wanted], columns=KEY)
    todo = asked.merge(read(path), how="left", on=KEY)["success"].isna()
    with ProcessPoolExecutor(options.jobs, get_context("spawn")) as pool, path.open("a") as file:
        writer = csv.DictWriter(file, COLUMNS)
        for future in as_completed([pool.submit(train, run) for run, new in zip(wanted, todo, strict=True) if new]):
            row = future.result()
            writer.writerow(row)
            file.flush()
            print(
                "{method:>14} {horizon:4d} seed {seed}: success {success:.2f} in {seconds:.0f} s".format(**row),
                flush=True,
            )
    results = asked.merge(read(path), on=KEY)
    table = 100 * results.pivot_table(index="method", columns="horizon", values="success")
    table = table.reindex([name for name in methods if name in table.index])
    print(f"\nsuccess in %, mean of {options.seeds} seeds, {options.updates} updates\n{table.round(0).to_string()}")
    draw(results, options.out)


if __name__ == "__main__":
    main()
