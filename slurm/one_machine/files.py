"""The files that a cluster on one machine is made of: SLURM's settings, GPUs that are not there, a key, a database."""

import getpass
import json
import secrets
import shlex
import string
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from mac_bench.errors import UserError
from mac_bench.files import write_text
from slurm.one_machine.machine import free_port, host, is_free

if TYPE_CHECKING:
    from slurm.one_machine.cluster import Cluster

TEMPLATE = Path(__file__).with_name("slurm.conf")
SHIM = Path(__file__).with_name("sacct_by_squeue.py")
FOLDERS = ("etc", "run", "log", "state", "munge", "spool", "dev", "bin")
FIRST_JOBS = 60_000_000
"""a first job's number is below; SLURM's end at 67 million"""

WITHOUT_ACCOUNTING = "AccountingStorageType=accounting_storage/none"
WITH_DATABASE = """\
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=$address
AccountingStoragePort=$database_port
AccountingStoragePass=$dir/munge/socket"""
DATABASE_DAEMON = """\
AuthType=auth/munge
AuthInfo=socket=$dir/munge/socket
DbdHost=$host
DbdAddr=$address
DbdPort=$database_port
CommunicationParameters=NoInAddrAny
SlurmUser=$user
PidFile=$dir/run/slurmdbd.pid
LogFile=$dir/log/slurmdbd.log
StorageType=accounting_storage/mysql
StorageHost=localhost
StorageUser=root
StorageLoc=slurm
"""
"""of slurmdbd.conf; it finds the database's socket by a variable"""


def write(cluster: "Cluster", address: str) -> None:
    """Everything that the daemons read. Raises UserError where the port is taken, or no ports are free."""
    ports = _ports(cluster, address)
    for name in (*FOLDERS, *(f"spool/{node}" for node in cluster.node_names)):
        (cluster.dir / name).mkdir(exist_ok=True)
    settings = {key: value for key, value in asdict(cluster).items() if key != "dir"}
    write_text(cluster.dir / "cluster.json", json.dumps(settings, indent=1))
    nodes = _range("n", 1, cluster.nodes)
    names = settings | {
        "name": cluster.name,
        "dir": cluster.dir,
        "host": host(),
        "address": address,
        "user": getpass.getuser(),
        "controller_port": ports[0],
        "database_port": ports[1],
        "node_names": nodes,
        "node_ports": _range("", ports[2], ports[-1]),
        "gres": f"Gres=gpu:{cluster.gpus}" if cluster.gpus else "",
        "first_job_id": int(time.time()) % FIRST_JOBS,
        "job_requeue": int(cluster.job_requeue),
    }
    accounting = WITH_DATABASE if cluster.accounting == "dbd" else WITHOUT_ACCOUNTING
    names["accounting"] = string.Template(accounting).substitute(names)
    write_text(cluster.dir / "etc/slurm.conf", string.Template(TEMPLATE.read_text()).substitute(names))
    _write_private(cluster.dir / "etc/slurmdbd.conf", string.Template(DATABASE_DAEMON).substitute(names).encode())
    _write_gpus(cluster, nodes)
    if not (cluster.dir / "munge/key").exists():
        _write_private(cluster.dir / "munge/key", secrets.token_bytes(128))
    # called by its name, as SLURM's own: PATH leads to it where it is to be used
    shim = cluster.dir / "bin/sacct"
    write_text(shim, f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -I -S {shlex.quote(str(SHIM))} "$@"\n')
    shim.chmod(0o755)


def _ports(cluster: "Cluster", address: str) -> range:
    """Of the controller, the database's daemon and the nodes."""
    count = cluster.nodes + 2
    first = free_port(address, count) if cluster.port is None else cluster.port
    ports = range(first, first + count)
    if taken := [port for port in ports if not is_free(address, port)]:
        raise UserError(f"port {taken[0]} is taken; {count} in a row are needed from --port on")
    return ports


def _write_gpus(cluster: "Cluster", nodes: str) -> None:
    for number in range(cluster.gpus):
        gpu = cluster.dir / f"dev/gpu{number}"
        gpu.unlink(missing_ok=True)
        # a character device, or SLURM sets no CUDA_VISIBLE_DEVICES; a link to one needs no root
        gpu.symlink_to("/dev/null")
    files = _range(f"{cluster.dir}/dev/gpu", 0, cluster.gpus - 1)
    write_text(cluster.dir / "etc/gres.conf", f"NodeName={nodes} Name=gpu File={files}\n" if cluster.gpus else "")


def _write_private(path: Path, content: bytes) -> None:
    path.touch(mode=0o600)
    path.write_bytes(content)


def _range(prefix: str, first: int, last: int) -> str:
    """n[1-3], as SLURM writes it; it takes no range of one."""
    return f"{prefix}{first}" if first == last else f"{prefix}[{first}-{last}]"
