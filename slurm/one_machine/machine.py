"""What a SLURM on one machine needs of it: packages, a host name on loopback, and free ports."""

import os
import random
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from mac_bench.errors import UserError

PROGRAMS = {
    "slurmctld": ["slurmctld"],
    "slurmd": ["slurmd"],
    "slurm-client": ["sbatch", "srun", "squeue", "scancel", "scontrol", "sinfo", "sacct"],
    "munge": ["munged"],
}
"""Debian's package -> what of it is used"""
DATABASE = {
    "slurmdbd": ["slurmdbd"],
    "mariadb-server-core": ["mariadbd", "mariadb-install-db"],
    "mariadb-client-core": ["mariadb"],
}
"""what accounting with a database needs besides"""
SYSTEM_FOLDERS = ("/usr/local/sbin", "/usr/sbin", "/sbin")
"""where daemons are, which is not on everybody's PATH"""
PORTS = range(20_000, 32_000)
"""ports are chosen here: below those that the kernel hands out by itself"""
POLICY = Path("/usr/sbin/policy-rc.d")
HOSTS = Path("/etc/hosts")


def daemon_path(path: str) -> str:
    """A PATH, and where daemons are."""
    return os.pathsep.join([path, *SYSTEM_FOLDERS])


def missing_packages(database: bool = False) -> list[str]:
    """Names of Debian's packages that are not here, by the programs that are not."""
    path = daemon_path(os.environ.get("PATH", os.defpath))
    wanted = PROGRAMS | (DATABASE if database else {})
    return [name for name, programs in wanted.items() if not all(shutil.which(one, path=path) for one in programs)]


def install(packages: list[str]) -> None:
    """Install Debian's packages without starting their services. Raises UserError where that cannot be."""
    if not packages:
        return
    if not shutil.which("apt-get") or os.geteuid():
        raise UserError(f"installing needs root and Debian or Ubuntu; ask for the packages {' '.join(packages)}")
    environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    with _no_services():
        for arguments in (["update"], ["install", "--yes", "--no-install-recommends", *packages]):
            command = ["apt-get", "-qq", *arguments]
            done = subprocess.run(command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True)
            if done.returncode:
                last = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
                raise UserError(f"`{' '.join(command)}` failed: {last}")


@contextmanager
def _no_services() -> Iterator[None]:
    """Debian's packages start their services, unless this file says no."""
    made = not POLICY.exists()
    if made:
        POLICY.write_text("#!/bin/sh\nexit 101\n")
        POLICY.chmod(0o755)
    try:
        yield
    finally:
        if made:
            POLICY.unlink()


def host() -> str:
    """This machine's short name, by which SLURM knows it."""
    return socket.gethostname().split(".")[0]


def loopback_address() -> str:
    """What the host's name stands for. SLURM listens there: raises UserError where it is not on loopback."""
    try:
        address = socket.gethostbyname(host())
    except OSError:
        address = "nothing"
    if not address.startswith("127."):
        raise UserError(
            f"the host name {host()} stands for {address}, and SLURM would listen there; "
            f"begin /etc/hosts with the line '127.0.0.1 {host()}' (--hosts does)"
        )
    return address


def name_on_loopback() -> None:
    """Put the host's name first into /etc/hosts, unless it is on loopback already. Raises UserError without root."""
    with suppress(UserError):
        loopback_address()
        return
    try:
        HOSTS.write_text(f"127.0.0.1 {host()}\n{HOSTS.read_text()}")  # in place: in a container it is a mount
    except PermissionError:
        raise UserError(f"only root may write {HOSTS}") from None


def is_free(address: str, port: int) -> bool:
    """Whether nobody listens at a port."""
    with socket.socket() as one:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as SLURM does: what has just ended is no obstacle
        try:
            one.bind((address, port))
        except OSError:
            return False
    return True


def free_port(address: str, count: int) -> int:
    """The first of `count` free ports in a row; by chance, so that two who look at once find different ones."""
    for _ in range(1000):
        first = random.randrange(PORTS.start, PORTS.stop - count)
        if all(is_free(address, port) for port in range(first, first + count)):
            return first
    raise UserError(f"no {count} free ports in a row between {PORTS.start} and {PORTS.stop}")
