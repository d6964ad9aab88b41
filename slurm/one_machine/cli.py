"""The verbs of `mac-bench cluster`: a SLURM on this machine, started and stopped by hand."""

import os
import shlex
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from slurm.one_machine import machine
from slurm.one_machine.cluster import Accounting, Cluster

Dir = Annotated[Path, typer.Option("--dir", envvar="MAC_BENCH_CLUSTER_DIR", help="Folder in which it lives.")]
DIR = Path(tempfile.gettempdir()) / f"mac-bench-cluster-{os.getuid()}"
Node = Annotated[str, typer.Argument(metavar="NODE", help="n1, n2, ...")]

cluster_app = typer.Typer(
    name="cluster",
    help="A real SLURM on this machine alone, with GPUs that are not there: for tests, and to try things.",
    no_args_is_help=True,
)


@cluster_app.command("start")
def start(
    dir: Dir = DIR,
    nodes: Annotated[int | None, typer.Option(help="Number of nodes.")] = None,
    cpus: Annotated[int | None, typer.Option(help="Per node; they need not exist.")] = None,
    gpus: Annotated[int | None, typer.Option(help="Per node; none of them exists.")] = None,
    memory_mb: Annotated[int | None, typer.Option(help="Per node.")] = None,
    accounting: Annotated[
        Accounting | None, typer.Option(help="sacct: none, answered by squeue, or with a database.")
    ] = None,
    port: Annotated[int | None, typer.Option(help="The first of NODES + 2 (default: free ones are found).")] = None,
    max_array_size: Annotated[int | None, typer.Option(help="One more than an array's highest index.")] = None,
    max_job_count: Annotated[int | None, typer.Option(help="Jobs that the controller takes at a time.")] = None,
    min_job_age_s: Annotated[int | None, typer.Option(help="How long squeue knows a job after its end.")] = None,
    job_requeue: Annotated[bool | None, typer.Option(help="Whether a job may be requeued that does not say.")] = None,
    node_timeout_s: Annotated[int | None, typer.Option(help="Silence after which a node counts as lost.")] = None,
    install: Annotated[
        bool, typer.Option("--install", help="First install Debian's packages that are missing.")
    ] = False,
    hosts: Annotated[
        bool, typer.Option("--hosts", help="Put the host's name into /etc/hosts where it must be.")
    ] = False,
) -> None:
    """Start it, or what of it does not run. What is not said stays as it was at the last start in that folder."""
    options = dict(nodes=nodes, cpus=cpus, gpus=gpus, memory_mb=memory_mb, accounting=accounting, port=port)
    options |= dict(max_array_size=max_array_size, max_job_count=max_job_count, min_job_age_s=min_job_age_s)
    options |= dict(job_requeue=job_requeue, node_timeout_s=node_timeout_s)
    cluster = _cluster(dir, {name: value for name, value in options.items() if value is not None})
    if install:
        machine.install(machine.missing_packages(cluster.accounting == "dbd"))
    if hosts:
        machine.name_on_loopback()
    cluster.start()
    print(f'{cluster.nodes} nodes run in {cluster.dir}; to use them: eval "$({_verb("env", dir)})"')


def _cluster(dir: Path, settings: dict[str, Any]) -> Cluster:
    if not (dir / "cluster.json").exists():
        return Cluster(dir, **settings)
    return replace(Cluster.at(dir), **settings)


def _verb(name: str, dir: Path) -> str:
    """How the user may call another verb."""
    where = "" if dir == DIR else f" --dir {shlex.quote(str(dir))}"
    return f"mac-bench cluster {name}{where}"


@cluster_app.command("stop")
def stop(
    dir: Dir = DIR,
    keep: Annotated[bool, typer.Option("--keep", help="Keep the folder: logs, and the numbers of jobs.")] = False,
) -> None:
    """Cancel its jobs, end it, and remove its folder. Nothing happens where nothing runs."""
    killed = Cluster(dir).stop(clean=not keep)
    print(f"stopped{f'; {len(killed)} processes of jobs had to be killed' if killed else ''}")


@cluster_app.command("status")
def status(dir: Dir = DIR) -> None:
    """Show its daemons, nodes and jobs. Leaves with 1 where something does not run."""
    cluster = Cluster.at(dir)
    running = cluster.running()
    for name, pid in running.items():
        print(f"{name:12} process {pid}")
    if "slurmctld" in running:
        print(cluster.run("sinfo", "--Node", "--long").stdout, end="")
        print(cluster.run("squeue", "--all").stdout, end="")
    if missing := [name for name in cluster.daemon_names if name not in running]:
        print(f"not running: {', '.join(missing)}; start them: {_verb('start', dir)}")
        raise typer.Exit(1)


@cluster_app.command("env")
def env(dir: Dir = DIR) -> None:
    """Print the lines that point a shell to it, for `eval`."""
    for name, value in Cluster.at(dir).environment().items():
        print(f"export {name}={shlex.quote(value)}")


@cluster_app.command("kill-node")
def kill_node(
    name: Node,
    dir: Dir = DIR,
    hard: Annotated[bool, typer.Option("--hard", help="With its jobs' processes, as in a power cut.")] = False,
    report: Annotated[
        bool, typer.Option("--report", help="Tell the controller; it needs half a minute to notice.")
    ] = False,
) -> None:
    """Lose a node: only slurmd, or with all that runs there. `restart-node` or `start` brings it back."""
    Cluster.at(dir).kill_node(name, hard, report)


@cluster_app.command("restart-node")
def restart_node(name: Node, dir: Dir = DIR) -> None:
    """Bring a lost node back."""
    Cluster.at(dir).restart_node(name)
