"""The SLURM on one machine: what it offers, that it keeps to itself, and that it leaves nothing behind."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

import pytest
from slurm_cluster import require_slurm, state, submit, wait_for

from mac_bench.errors import UserError
from slurm.one_machine import machine, processes
from slurm.one_machine.cluster import MARK, Cluster, started


@pytest.fixture
def place():
    """An empty folder with a short name: those of sockets are added to it."""
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


@pytest.fixture
def small(place):
    """A cluster of one node for one test, answering sacct by squeue, in a folder with the longest name that may be."""
    require_slurm()
    name = "x" * (107 - len(f"{place}//spool/n1/n1_67043328.4294967295"))
    with pytest.raises(UserError, match="1 letters too long"):
        Cluster(place / f"{name}x", nodes=1).start()
    with started(place / name, nodes=1, gpus=0, accounting="shim") as running:
        yield running


def is_running(pid: int) -> bool:
    stat = processes.PROC / str(pid) / "stat"
    return stat.exists() and stat.read_text().rpartition(")")[2].split()[0] not in "ZX"


def listening(pids: set[int]) -> list[str]:
    """Addresses at which these processes listen, from the kernel's tables."""
    addresses = {}
    for table in ("tcp", "tcp6", "udp", "udp6"):
        path = Path("/proc/net") / table
        for line in path.read_text().splitlines()[1:] if path.exists() else []:
            _, local, remote, *rest = line.split()
            if int(remote.split(":")[1], 16) == 0:  # nobody at the other end: it waits for somebody
                words = local.split(":")[0]
                # the kernel writes numbers of 32 bits in its own byte order
                raw = b"".join(
                    bytes.fromhex(words[i : i + 8])[:: -1 if sys.byteorder == "little" else 1]
                    for i in range(0, len(words), 8)
                )
                addresses[f"socket:[{rest[6]}]"] = socket.inet_ntop(
                    socket.AF_INET if len(raw) == 4 else socket.AF_INET6, raw
                )
    found = []
    for pid in pids:
        found += [addresses[path.name] for path in processes.files(pid) if path.name in addresses]
    return found


def pid_in(path: Path) -> int:
    wait_for(lambda: path.exists() and path.read_text().endswith("\n"), path.name)
    return int(path.read_text())


def test_it_offers_its_nodes_gpus_and_partitions(cluster):
    rows = cluster.run("sinfo", "--noheader", "--Node", "--format=%N %P %c %m %G").stdout.split("\n")
    assert sorted(rows[:-1]) == [
        f"n{node} {partition} 4 4000 gpu:2" for node in (1, 2, 3) for partition in ("normal*", "urgent")
    ]


def test_elements_of_an_array_on_one_node_see_different_gpus(cluster, tmp_path):
    job = submit(
        cluster, f"echo $CUDA_VISIBLE_DEVICES > {tmp_path}/$SLURM_ARRAY_TASK_ID; sleep 30",
        "--array=0-1", "--nodelist=n2", "--gpus-per-node=1",
    )  # fmt: skip
    seen = {pid_in(tmp_path / element) for element in ("0", "1")}
    cluster.run("scancel", job)
    assert seen == {0, 1}


def test_a_job_without_gpus_sees_none_and_its_end_is_known(cluster, tmp_path):
    job = submit(cluster, f"echo ${{CUDA_VISIBLE_DEVICES-none}} > {tmp_path}/seen; exit 3")
    wait_for(lambda: state(cluster, job) == "FAILED", "the job's end")
    assert (tmp_path / "seen").read_text() == "none\n"


def test_an_index_above_the_limit_is_refused(cluster):
    refused = cluster.run("sbatch", "--array=1001", "--wrap=true")
    assert refused.returncode and "Invalid job array specification" in refused.stderr


def test_it_listens_on_loopback_only(cluster, tmp_path):
    job = submit(cluster, f"srun sh -c 'echo $PPID > {tmp_path}/stepd; sleep 30'", "--output=/dev/null")
    step = pid_in(tmp_path / "stepd")
    family = set(cluster.running().values()) | cluster.job_processes() | {step}
    assert any(processes.program(pid) == "srun" for pid in family)
    addresses = listening(family)
    cluster.run("scancel", job)
    assert len(addresses) >= 1 + cluster.nodes, "the controller, the nodes and srun listen"
    assert {address.split(".")[0] for address in addresses} == {"127"}


def test_a_second_start_keeps_what_runs(cluster):
    before = cluster.running()
    assert list(before) == sorted(cluster.daemon_names)
    cluster.start()
    assert cluster.running() == before
    with pytest.raises(UserError, match="other settings"):
        Cluster(cluster.dir, nodes=2).start()
    assert cluster.running() == before


def test_a_lost_slurmd_leaves_its_job_alone_and_comes_back(cluster, tmp_path):
    job = submit(cluster, f"echo $$ > {tmp_path}/pid; sleep 60", "--nodelist=n3")
    pid = pid_in(tmp_path / "pid")
    cluster.kill_node("n3")
    assert is_running(pid) and cluster.pid("slurmd-n3") is None
    with pytest.raises(UserError, match="n3 is not running"):
        cluster.kill_node("n3")
    cluster.restart_node("n3")
    wait_for(lambda: cluster.nodes_up() == 3, "the node")
    assert is_running(pid) and state(cluster, job) == "RUNNING"
    cluster.run("scancel", job)


def test_a_node_lost_with_all_on_it_takes_its_jobs_along(cluster, tmp_path):
    script = "setsid --fork sh -c 'echo $$ > {}; sleep 60; true'; sleep 60"
    there = submit(cluster, script.format(tmp_path / "there"), "--nodelist=n1", "--no-requeue")
    elsewhere = submit(cluster, script.format(tmp_path / "elsewhere"), "--nodelist=n2")
    lost, kept = pid_in(tmp_path / "there"), pid_in(tmp_path / "elsewhere")
    cluster.kill_node("n1", hard=True, report=True)
    assert not is_running(lost) and is_running(kept)
    assert state(cluster, there) == "NODE_FAIL" and cluster.nodes_up() == 2
    cluster.restart_node("n1")
    wait_for(lambda: cluster.nodes_up() == 3, "the node")
    assert state(cluster, elsewhere) == "RUNNING"
    cluster.run("scancel", elsewhere)


def test_an_urgent_job_takes_a_normal_one_s_place_which_runs_again(small, tmp_path):
    requeue = f"echo signal >> {tmp_path}/log; scontrol requeue $SLURM_JOB_ID"
    script = f"trap '{requeue}' USR2; echo run >> {tmp_path}/log; sleep 60 & wait; wait"
    job = submit(small, script, "--exclusive", "--signal=B:USR2@1")
    wait_for((tmp_path / "log").exists, "the first run")
    submit(small, "sleep 1", "--exclusive", "--partition=urgent")
    wait_for(lambda: (tmp_path / "log").read_text() == "run\nsignal\nrun\n", "the second run")
    assert state(small, job) == "RUNNING"


def test_stop_leaves_nothing_behind_and_touches_no_neighbour(small, place, tmp_path):
    with ExitStack() as stack:
        other = stack.enter_context(started(place / "other", nodes=1))
        kept = submit(other, f"echo $$ > {tmp_path}/kept; sleep 60")
        # left behind by a job that is over
        over = submit(small, f"setsid --fork sh -c 'echo $$ > {tmp_path}/stray; sleep 60; true'")
        wait_for(lambda: state(small, over) == "COMPLETED", "the job's end")
        # the second of them knows nothing of its job
        ignores = f"trap '' TERM; echo $$ > {tmp_path}/ignores; "
        ignores += f"env -i sh -c 'trap \"\" TERM; echo $$ > {tmp_path}/nameless; sleep 60; true'"
        submit(small, ignores, "--export=NONE")
        pids = [pid_in(tmp_path / name) for name in ("stray", "ignores", "nameless")] + list(small.running().values())
        assert all(is_running(pid) for pid in pids)
        small.stop()
        assert not [pid for pid in pids if is_running(pid)] and not small.dir.exists()
        assert small.stop() == []
        assert is_running(pid_in(tmp_path / "kept")) and state(other, kept) == "RUNNING"


def test_stopped_without_cleaning_it_continues(small):
    first = submit(small, "sleep 60")
    small.stop(clean=False)
    assert not small.running() and small.dir.exists()
    small.start()
    assert int(submit(small, "true")) > int(first)
    assert state(small, first) == "CANCELLED", "it remembers"


def test_sacct_without_accounting_fails(cluster):
    answer = cluster.run("sacct")
    assert answer.returncode and "accounting storage is disabled" in answer.stderr


def test_sacct_by_squeue_knows_what_squeue_knows(small):
    array = submit(small, "exit $SLURM_ARRAY_TASK_ID", "--array=0-1")
    other = submit(small, "sleep 60", "--hold")
    wait_for(lambda: sorted(state(small, array).split()) == ["COMPLETED", "FAILED"], "the array's end")
    question = ["sacct", "--parsable2", "--format=JobID,State,NodeList"]
    rows = {f"{array}_0|COMPLETED|n1", f"{array}_1|FAILED|n1"}
    assert set(small.run(*question, "-j", array).stdout.splitlines()) == rows | {"JobID|State|NodeList"}
    assert set(small.run(*question, "-n", f"--jobs={array}_1,{other},1").stdout.splitlines()) == {
        f"{array}_1|FAILED|n1",
        f"{other}|PENDING|",
    }
    refused = small.run("sacct", "--format=Shoes")
    assert refused.returncode and "no field Shoes" in refused.stderr


def test_sacct_with_a_database_remembers_a_cluster_that_was_stopped(place):
    require_slurm(database=True)
    question = ["sacct", "--noheader", "--parsable2", "--allocations", "--format=JobID,State,ExitCode"]
    with started(place / "c", nodes=1, accounting="dbd") as real:
        job = submit(real, "exit 3")
        wait_for(lambda: real.run(*question, "-j", job).stdout == f"{job}|FAILED|3:0\n", "the accountant's notice")
        assert {"mariadbd", "slurmdbd"} < real.running().keys()
        assert {address.split(".")[0] for address in listening(set(real.running().values()))} == {"127"}
        pids = real.running().values()
        real.stop(clean=False)
        assert not [pid for pid in pids if is_running(pid)]
        real.start()
        assert real.run(*question, "-j", job).stdout == f"{job}|FAILED|3:0\n"


def test_a_number_that_belongs_to_somebody_else_is_never_signalled(tmp_path):
    cluster = Cluster(tmp_path / "c")
    (cluster.dir / "run").mkdir(parents=True)
    (cluster.dir / "cluster.json").write_text("{}")
    program = shutil.copy(str(shutil.which("sleep")), tmp_path / "munged")
    with ExitStack() as stack:
        sleeps = {}
        for name, marks in {"marked": {MARK: str(cluster.dir)}, "other": {MARK: str(tmp_path)}, "plain": {}}.items():
            one = stack.enter_context(subprocess.Popen([program, "60"], env=marks))
            stack.callback(one.kill)
            (cluster.dir / f"run/munged-{name}.pid").write_text(f"{one.pid}\n")
            sleeps[name] = one
        (cluster.dir / "run/slurmd-n1.pid").write_text(f"{sleeps['marked'].pid}\n")  # ours, but not that program
        assert cluster.running() == {"munged-marked": sleeps["marked"].pid}
        cluster.stop()
        assert sleeps["marked"].wait() == -signal.SIGTERM
        assert sleeps["other"].poll() is None and sleeps["plain"].poll() is None


def test_what_is_wrong_with_the_machine_is_said_in_one_line(place, monkeypatch):
    require_slurm()
    cluster = Cluster(place / "c", nodes=1)
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with pytest.raises(UserError, match=f"port {port} is taken"):
            Cluster(place / "c", nodes=1, port=port).start()
    with monkeypatch.context() as patch:
        patch.setattr(socket, "gethostbyname", lambda name: "192.0.2.1")
        with pytest.raises(UserError, match=r"stands for 192\.0\.2\.1"):
            cluster.start()
    with monkeypatch.context() as patch:
        patch.setenv("PATH", str(place))
        patch.setattr(machine, "SYSTEM_FOLDERS", ())
        with pytest.raises(UserError, match=r"packages are missing.*: slurmctld slurmd slurm-client munge$"):
            cluster.start()


@pytest.mark.parametrize(
    ("folder", "settings", "message"),
    [
        ("c", {"nodes": 0}, "nodes is 0"),
        ("c", {"gpus": -1}, "gpus is -1"),
        ("c", {"port": 65_533, "nodes": 2}, "between 1 and 65532"),
        ("a b", {}, "no way to write such a path"),
        ("x" * 80, {}, "letters too long"),
        (".", {}, "holds something else"),
    ],
)
def test_settings_that_cannot_be_are_refused_before_anything_is_made(place, folder, settings, message):
    require_slurm()
    (place / "mine").write_text("")
    with pytest.raises(UserError, match=message):
        Cluster(place / folder, **settings).start()
    assert [path.name for path in place.iterdir()] == ["mine"]


def test_packages_are_installed_without_their_services(tmp_path, monkeypatch):
    monkeypatch.setattr(machine, "POLICY", tmp_path / "policy-rc.d")
    run, calls = subprocess.run, []

    def apt_get(command, **options):
        refused = run([machine.POLICY]).returncode
        calls.append((command[2:], refused))
        return subprocess.CompletedProcess(command, 100 if "broken" in command else 0, "", "E: why\nE: no such thing")

    monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}")
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(subprocess, "run", apt_get)
    machine.install(["munge"])
    assert calls == [(["update"], 101), (["install", "--yes", "--no-install-recommends", "munge"], 101)]
    assert not machine.POLICY.exists()
    with pytest.raises(UserError, match="E: no such thing"):
        machine.install(["broken"])
    assert not machine.POLICY.exists()
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(UserError, match="needs root and Debian or Ubuntu; ask for the packages munge slurmd"):
        machine.install(["munge", "slurmd"])


def test_the_host_s_name_is_put_on_loopback_once(tmp_path, monkeypatch):
    monkeypatch.setattr(machine, "HOSTS", tmp_path / "hosts")
    machine.HOSTS.write_text("192.0.2.1 me\n")
    # as a resolver does: the first line that knows the name
    monkeypatch.setattr(socket, "gethostname", lambda: "me.example.org")
    monkeypatch.setattr(
        socket,
        "gethostbyname",
        lambda name: next(line.split()[0] for line in machine.HOSTS.read_text().splitlines() if name in line.split()),
    )
    for _ in range(2):
        machine.name_on_loopback()
        assert machine.HOSTS.read_text() == "127.0.0.1 me\n192.0.2.1 me\n"
    assert machine.loopback_address() == "127.0.0.1"


def test_the_command_line_starts_shows_and_stops(place):
    require_slurm()

    def call(*arguments: str) -> "subprocess.CompletedProcess[str]":
        command = [sys.executable, "-m", "mac_bench", "cluster", *arguments, "--dir", str(place / "c")]
        return subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parent.parent)

    nothing = call("status")
    assert (nothing.returncode, nothing.stderr.count("\n")) == (2, 1) and "no cluster in" in nothing.stderr
    try:
        assert call("start", "--nodes", "1", "--accounting", "shim").returncode == 0
        exports = call("env").stdout
        assert f"SLURM_CONF={place}/c/etc/slurm.conf" in exports and f"PATH={place}/c/bin:" in exports
        assert call("kill-node", "n1").returncode == 0
        assert (lost := call("status")).returncode == 1 and "not running: slurmd-n1" in lost.stdout
        assert call("start").returncode == 0, "one node and the shim, as it was"
        assert call("status").returncode == 0
    finally:
        assert call("stop").returncode == 0
    assert call("stop").returncode == 0 and not os.path.exists(place / "c")
