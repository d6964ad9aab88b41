"""Fetched data are whole or not there, whatever server, disk or a kill do: against a real server that misbehaves."""

import errno
import hashlib
import json
import os
import re
import resource
import signal
import ssl
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import h5py
import http_server
import numpy as np
import pytest
from conftest import DATA, TASK
from http_server import Server, cut, instead, says, stall, status, whole_despite_range
from runs import small_run

from mac_bench import download, fetch, needs, sources, suite, tasks
from mac_bench.download import Patience
from mac_bench.errors import UserError
from mac_bench.files import sha256
from mac_bench.inventory import listing, verify
from mac_bench.manifest import MANIFEST, UNFINISHED
from mac_bench.record import RunFolder
from mac_bench.train import train

TRAIN, VALIDATION = f"/ogbench/{DATA}.npz", f"/ogbench/{DATA}-val.npz"
HOPPER = "/offline_rl/gym_mujoco_v2/hopper_medium-v2.hdf5"


@pytest.fixture(autouse=True)
def offline(monkeypatch, tmp_path):
    """No proxy, no mirror and no data of whoever runs this; a second process reaches this server, and no other."""
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.delenv("MAC_BENCH_MIRRORS", raising=False)
    monkeypatch.setenv("D4RL_DATASET_DIR", str(tmp_path / "nothing"))
    monkeypatch.setattr(sources, "SERVER", "http://127.0.0.1:9")
    monkeypatch.setattr(fetch, "WAIT_S", 0.02)


@pytest.fixture
def server(data_root) -> Iterator[Server]:
    with http_server.serving() as found:
        for path in (TRAIN, VALIDATION):
            found.files[path] = (data_root / DATA / path.rpartition("/")[2]).read_bytes()
        yield found


@pytest.fixture
def root(tmp_path) -> Path:
    return tmp_path / "data"


def patience(**other) -> Patience:
    return Patience(threading.Event(), **{"stall_s": 10.0, "tries": 3, "pause_s": 0.01} | other)


def get(server: Server | str, root: Path, *names: str, patient: Patience | None = None, **options) -> list[str]:
    """Fetch data sets (default: DATA) from one server or several; returns what was said."""
    patient, said = patient or patience(), options.pop("said", [])
    servers = [each if isinstance(each, str) else each.address for each in [server, *options.pop("mirrors", [])]]
    items = fetch.plan(names or [DATA], root, servers, patient)
    fetch.fetch(items, root, patient, progress=fetch.Progress(said.append), **options)
    return said


def refused(server: Server | str, root: Path, *names: str, **options) -> str:
    with pytest.raises(UserError) as error:
        get(server, root, *names, **options)
    assert "\n" not in str(error.value)
    return str(error.value)


def assert_whole(server: Server, root: Path, dataset: str = DATA) -> None:
    """Just the served files and their manifest are there."""
    paths = [f"/{sources.SOURCES[dataset].folder}/{file}" for file in sources.SOURCES[dataset].files]
    names = {path.rpartition("/")[2]: path for path in paths}
    assert {path.name for path in (root / dataset).iterdir()} == {*names, MANIFEST}
    for name, path in names.items():
        assert (root / dataset / name).read_bytes() == server.files[path]
    assert verify(root, dataset) == []


def finals(root: Path) -> list[str]:
    """Names of files that look like data."""
    return [path.name for path in root.rglob("*") if path.suffix in (".npz", ".hdf5")]


def flipped(content: bytes, at: int = 600) -> bytes:
    return content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :]


def other(content: bytes, path: Path) -> bytes:
    """Whole data of the same size that differ in one action."""
    path.write_bytes(content)
    with np.load(path) as file:
        columns = {name: file[name] for name in file.files}
    columns["actions"][3] /= 2
    np.savez(path, **columns)
    changed = path.read_bytes()
    path.unlink()
    assert len(changed) == len(content) and changed != content
    return changed


# a good server


def test_fetched_data_are_recorded_verified_listed_and_loaded(server, root, data_root):
    assert get(server, root) == []
    assert_whole(server, root)
    manifest = json.loads((root / DATA / MANIFEST).read_text())
    entry = manifest["files"][f"{DATA}.npz"]
    assert manifest["fetched"] == DATA and entry["address"] == server.address + TRAIN
    assert entry["sha256"] == sha256(data_root / DATA / f"{DATA}.npz") and entry["bytes"] == len(server.files[TRAIN])
    (found,) = listing(root)
    assert (found.rows, found.episodes, found.generated, found.complete) == (303, 3, False, True)
    task = tasks.find(TASK)
    assert tasks.load(task, DATA, root).digest == tasks.load(task, DATA, data_root).digest
    server.asked.clear()
    assert fetch.plan([DATA], root, [server.address], patience()) == [] and server.asked == []


def test_runs_on_fetched_data_are_runs_on_official_data(server, root, data_root, tmp_path):
    get(server, root)
    for data, here in ((root, "False"), (data_root, "True")):
        runs = tmp_path / here
        runs.mkdir()
        run = small_run("random_actions", steps=2)
        assert train(run, runs, data).state == "finished"
        events = RunFolder(runs / run.id).read()
        (world,) = [e["environment"] for e in events if e["kind"] == "attempt"]
        assert (world["data_made_here"], world["data_fetched"]) == (here, str(data is root))


def test_damage_after_fetching_is_found_and_mended(server, root):
    get(server, root)
    path = root / DATA / f"{DATA}.npz"
    path.write_bytes(flipped(path.read_bytes()))
    advice = f"remove it, and call `mac-bench data fetch {DATA}`"
    assert verify(root, DATA) == [f"{path}: is not the file that was fetched; {advice}"]
    path.unlink()
    for left in (f".{DATA}-val.npz.lock", f"{DATA}-val.npz.partial.json", ".x.tmp"):  # of a call that was killed
        (root / DATA / left).touch()
    with pytest.raises(UserError, match=f"is missing; call `mac-bench data fetch {DATA}` to have it again"):
        tasks.files(DATA, root)
    get(server, root)
    assert_whole(server, root)
    assert server.gets(VALIDATION) == [""], "what is whole is not fetched again"


def test_what_is_published_now_is_not_mixed_with_what_was_fetched(server, root, tmp_path):
    get(server, root)
    (root / DATA / f"{DATA}.npz").unlink()
    server.files[TRAIN] = other(server.files[TRAIN], tmp_path / "x.npz")
    message = refused(server, root)
    assert re.search(rf"but by .*{MANIFEST} \(remove .*{DATA} to take what is published now\)", message)
    assert finals(root) == [f"{DATA}-val.npz"]


def test_sizes_are_known_before_anything_is_fetched(server, root):
    items = fetch.plan([DATA], root, [server.address], patience())
    assert [item.missing for item in items] == [len(server.files[TRAIN]), len(server.files[VALIDATION])]
    assert {method for method, _, _ in server.asked} == {"HEAD"} and not root.exists()
    server.heads = {TRAIN: status(405), VALIDATION: status(403)}  # then a part of one byte tells
    again = fetch.plan([DATA], root, [server.address], patience())
    assert [item.missing for item in again] == [item.missing for item in items]


def test_another_benchmark_s_file(server, root):
    server.files[HOPPER] = hopper()
    get(server, root, "hopper-medium-v2")
    assert_whole(server, root, "hopper-medium-v2")
    data = tasks.load(tasks.find("hopper-medium-v2"), "hopper-medium-v2", root)
    assert data.observations.shape[1] == 11
    (found,) = listing(root)
    assert (found.name, found.rows, found.complete, found.generated) == ("hopper-medium-v2", 60, True, False)


def hopper(**columns) -> bytes:
    """A file of that name's layout."""
    rows = {
        "observations": np.zeros((60, 11), np.float32),
        "actions": np.zeros((60, 3), np.float32),
        "rewards": np.zeros(60, np.float32),
        "terminals": np.zeros(60, bool),
        "timeouts": np.arange(60) % 20 == 19,
    } | columns
    with h5py.File("hopper", "w", driver="core", backing_store=False) as file:
        for name, column in rows.items():
            if column is not None:
                file[name] = column
        file.flush()
        return file.id.get_file_image()


def test_many_files_at_a_time_and_one_of_them_damaged(server, root, monkeypatch):
    dataset = "many"
    files = tuple(f"{DATA}-{number:03d}{end}.npz" for number in range(25) for end in ("", "-val"))
    monkeypatch.setitem(sources.SOURCES, dataset, sources.Source(dataset, f"ogbench/{dataset}", files))
    for file in files:
        server.files[f"/ogbench/{dataset}/{file}"] = server.files[TRAIN]
    bad = f"/ogbench/{dataset}/{DATA}-007.npz"
    server.faults[bad] = [instead(flipped(server.files[bad]))] * 2
    message = refused(server, root, dataset, connections=4)
    assert f"{server.address}{bad}: came damaged, twice: " in message and "name another --mirror" in message
    assert len(finals(root)) == 49 and not listing(root)[0].complete
    server.asked.clear()
    get(server, root, dataset, connections=4)
    assert_whole(server, root, dataset)
    assert [path for method, path, _ in server.asked if method == "GET" and path.endswith(".npz")] == [bad]


# servers that misbehave


def test_what_is_cut_off_is_resumed(server, root):
    server.faults[TRAIN] = [cut(1000), cut(500)]
    get(server, root)
    assert server.gets(TRAIN) == ["", "bytes=1000-", "bytes=1500-"]
    assert_whole(server, root)


def test_a_stall_is_resumed(server, root):
    server.faults[TRAIN] = [stall(1000)]
    get(server, root, patient=patience(stall_s=1.0))
    assert server.gets(TRAIN) == ["", "bytes=1000-"]
    assert_whole(server, root)


def test_progress_gives_a_server_new_chances_and_standing_still_does_not(server, root):
    server.faults[TRAIN] = [cut(100)] * 8
    get(server, root)
    assert_whole(server, root)
    server.faults[VALIDATION] = [cut(0)] * 9
    (root / DATA / f"{DATA}-val.npz").unlink()
    assert re.search(
        r"ended at 0 of [\d,]+ bytes, 3 times in a row; call again later to continue", refused(server, root)
    )


def test_a_server_without_ranges_begins_anew_and_is_given_up_where_nothing_is_gained(server, root):
    server.ranges = False
    server.faults[TRAIN] = [cut(1000), cut(500)]
    get(server, root)
    assert_whole(server, root)
    server.faults[TRAIN] = [cut(1000)] * 9
    (root / DATA / f"{DATA}.npz").unlink()
    assert "ended at 1,000 of" in refused(server, root) and len(server.faults[TRAIN]) == 6


def test_ranges_that_are_ignored_once(server, root):
    server.faults[TRAIN] = [cut(1000), whole_despite_range]
    get(server, root)
    assert_whole(server, root)


@pytest.mark.parametrize("etags", [True, False])
def test_a_file_that_changed_is_fetched_anew(server, root, tmp_path, etags):
    server.etags = etags  # else dates tell
    server.faults[TRAIN] = [cut(1000)] * 3
    refused(server, root, patient=patience(tries=1))
    assert (root / DATA / f"{DATA}.npz.partial").stat().st_size == 1000 and not list(root.rglob(f"{DATA}.npz"))
    server.faults[TRAIN] = []
    server.files[TRAIN] = other(server.files[TRAIN], tmp_path / "x.npz")
    get(server, root)
    assert server.gets(TRAIN) == ["", ""]
    assert_whole(server, root)


def test_a_file_that_changes_between_two_tries_is_not_glued_together(server, root, tmp_path):
    new = other(server.files[TRAIN], tmp_path / "x.npz")

    def change(request):
        request.answer(cut=2000)
        server.files[TRAIN] = new

    server.faults[TRAIN] = [change]
    get(server, root)
    assert server.gets(TRAIN) == ["", "bytes=2000-"]  # with If-Range, so all of the new one comes
    assert_whole(server, root)


@pytest.mark.parametrize(
    "lie",
    [
        {"ETag": '"other"', "Last-Modified": "Thu, 01 Jan 1970 00:00:00 GMT"},
        {"Content_Range": "bytes 7-99/100"},
        {"Content_Range": "bytes 7-99/SIZE"},
        {"Content_Range": "nonsense"},
    ],
)
def test_a_part_of_another_file_is_not_taken(server, root, lie):
    size = str(len(server.files[TRAIN]))
    lie = {name: value.replace("SIZE", size) for name, value in lie.items()}
    server.faults[TRAIN] = [cut(1000), says(**lie)]
    get(server, root)
    assert server.gets(TRAIN) == ["", "bytes=1000-", ""]
    assert_whole(server, root)


def test_without_versions_nothing_is_resumed(server, root):
    server.versions = False
    server.faults[TRAIN] = [cut(1000)]
    get(server, root)
    assert server.gets(TRAIN) == ["", ""]
    assert_whole(server, root)


def test_a_server_that_says_too_much(server, root):
    length = len(server.files[TRAIN])
    server.faults[TRAIN] = [says(Content_Length=str(length + 1000))] * 9
    told = f"(ended at {length:,} of {length + 1000:,} bytes|has fewer bytes than it said), 3 times in a row"
    assert re.search(told, refused(server, root))
    assert finals(root) == [f"{DATA}-val.npz"]
    server.faults[TRAIN] = []
    get(server, root)
    assert_whole(server, root)


def test_a_server_that_says_too_little(server, root):
    server.faults[TRAIN] = [says(Content_Length=str(len(server.files[TRAIN]) - 1000))] * 2
    message = refused(server, root)
    assert "came damaged, twice: " in message and "cannot be read, the file is damaged" in message
    assert finals(root) == [f"{DATA}-val.npz"] and not list(root.rglob(f"{DATA}.npz*"))


def test_damaged_bytes_are_fetched_anew(server, root):
    server.faults[TRAIN] = [instead(flipped(server.files[TRAIN]))]
    (said,) = get(server, root)
    assert "came damaged" in said and "fetching it anew" in said
    assert_whole(server, root)


def test_a_page_in_the_place_of_data_is_no_data(server, root):
    server.files[TRAIN] = b"<html>Please log in</html>"
    message = refused(server, root)
    assert "came damaged, twice" in message and "it is no .npz file, but begins with '<html>Please" in message
    assert finals(root) == [f"{DATA}-val.npz"]


def test_of_what_is_refused_altogether_no_folder_stays(server, root, monkeypatch):
    for path in (TRAIN, VALIDATION):
        server.files[path] = b"<html>Please log in</html>"
    refused(server, root)
    assert list(root.iterdir()) == []
    monkeypatch.setattr("mac_bench.prepared.shutil.disk_usage", lambda path: SimpleNamespace(free=10))
    assert "choose another disk" in refused(server, root)
    assert list(root.iterdir()) == []


@pytest.mark.parametrize(
    "change, reason",
    [
        ({"observations": lambda x: np.hstack([x, x])}, r"observations has shape \(\d+, 4\), but \S+ has \[N, 2\]"),
        ({"observations": lambda x: np.where(np.arange(len(x))[:, None] == 3, np.nan, x)}, "not finite in row 3"),
        ({"qpos": None}, "no qpos in it"),
        ({"qpos": lambda x: x[:, :1]}, r"qpos has shape \(\d+, 1\)"),
    ],
)
def test_what_training_would_refuse_is_not_taken(server, root, tmp_path, change, reason):
    """Nor does it pass where it lies there already."""
    with np.load(_put(tmp_path / "x.npz", server.files[TRAIN])) as file:
        columns = {name: file[name] for name in file.files}
    (name, how), *_ = change.items()
    columns[name] = how and how(columns[name])
    np.savez(tmp_path / "x.npz", **{name: column for name, column in columns.items() if column is not None})
    for path in (TRAIN, VALIDATION):
        server.files[path] = (tmp_path / "x.npz").read_bytes()
    assert re.search(f"came damaged, twice: .*{reason}", refused(server, root))
    for path in (TRAIN, VALIDATION):
        _put(root / path.rpartition("/")[2], server.files[path])
    problems = verify(root, DATA)
    assert len(problems) == 2 and re.search(reason, problems[0])


def _put(path: Path, content: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def test_data_of_another_environment_under_a_right_name(server, root):
    dataset = "cube-double-play-v0"
    for end, path in (("", TRAIN), ("-val", VALIDATION)):
        server.files[f"/ogbench/{dataset}{end}.npz"] = server.files[path]
    assert f"observations has shape (303, 2), but {dataset} has [N, 37]" in refused(server, root, dataset)
    assert finals(root) == []


def test_shards_of_100m_transitions_are_about_that_many(server, root, monkeypatch):
    """Hand numbers: a million transitions in each of 100 files, 4 million in each of 25, a tenth of it to validate."""
    cube, giant = (
        sources.SOURCES[name] for name in ("cube-double-play-100m-v0", "humanoidmaze-giant-navigate-100m-v0")
    )
    assert [cube.rows(file) for file in cube.files[:2]] == [1_000_000, 100_000]
    assert [giant.rows(file) for file in giant.files[:2]] == [4_000_000, 400_000]
    assert sources.SOURCES[DATA].rows(f"{DATA}.npz") is None
    monkeypatch.setattr(sources.Source, "rows", lambda self, file: 700)
    assert f"has 303 rows, but a file of {DATA} has about 700" in refused(server, root)
    monkeypatch.setattr(sources.Source, "rows", lambda self, file: 150)
    assert f"has 303 rows, but a file of {DATA} has about 150" in refused(server, root)
    monkeypatch.setattr(sources.Source, "rows", lambda self, file: 400 if "val" not in file else 101)
    get(server, root)
    assert_whole(server, root)


@pytest.mark.parametrize(
    "wrong, reason",
    [
        ({"rewards": None}, "no rewards in it"),
        ({"observations": np.zeros((60, 17))}, "observations has shape (60, 17), but must have [60, 11]"),
    ],
)
def test_an_hdf5_file_of_another_layout_is_not_taken(server, root, wrong, reason):
    server.files[HOPPER] = hopper(**wrong)
    assert reason in refused(server, root, "hopper-medium-v2")
    assert finals(root) == []


def test_a_server_that_never_answers(server, root):
    server.faults[TRAIN] = [lambda request: request.server.go_on.wait(30) and None] * 3
    message = refused(server, root, patient=patience(stall_s=0.3))
    assert f"{TRAIN}: does not answer, 3 times in a row; call again later" in message
    server.heads = {TRAIN: lambda request: None}  # closes the connection at once
    assert f"{TRAIN}: was cut off (" in refused(server, root)


def test_a_busy_server_is_waited_for(server, root):
    server.heads = {TRAIN: status(503)}
    assert "answers 503 Service Unavailable, 3 times in a row; call again later" in refused(server, root)
    server.heads = {}
    server.faults[TRAIN] = [status(503, Retry_After="0"), status(429), cut(0), status(500)]
    with pytest.raises(UserError, match="answers 500"):
        get(server, root, patient=patience(tries=4))
    get(server, root)
    assert_whole(server, root)


def test_retry_after_is_heeded_and_limited(monkeypatch):
    waited = []

    class Clock(threading.Event):
        def wait(self, timeout=None):
            waited.append(timeout)
            return False

    def busy():
        raise download.Interrupted("busy", 7.0 if len(waited) < 2 else 4000.0)

    with pytest.raises(UserError, match="busy, 5 times"):
        download._persist(busy, Patience(Clock(), tries=5, pause_s=1.0), "http://x")
    assert waited == [7.0, 7.0, 60.0, 60.0]
    assert [Patience(Clock()).pause_s * 2**n for n in range(4)] == [1, 2, 4, 8]


def test_redirects_are_followed_with_the_range(server, root):
    server.files["/elsewhere"] = server.files[TRAIN]
    server.faults[TRAIN] = [status(302, Location="/elsewhere"), status(307, Location=server.address + "/elsewhere")]
    server.heads = {TRAIN: status(301, Location="/elsewhere")}
    server.faults["/elsewhere"] = [cut(1000)]
    get(server, root)
    assert server.gets("/elsewhere") == ["", "bytes=1000-"]
    assert_whole(server, root)
    assert ("HEAD", "/elsewhere", "") in server.asked


@pytest.mark.parametrize("target", ["file:///etc/hostname", "ftp://127.0.0.1/x", "data:,x"])
def test_redirects_lead_to_no_other_protocol(server, root, target):
    server.heads = {TRAIN: status(302, Location=target)}
    message = refused(server, root)
    assert message.startswith(server.address + TRAIN) and finals(root) == []
    assert f"leads to {target}, which is not http or https" in message or "answers 302" in message


def test_redirects_do_not_lead_out_of_encryption():
    ask = urllib.request.Request("https://host/x")
    follow = download._Redirect().redirect_request
    with pytest.raises(
        download.Unavailable, match="https://host/x: leads to http://host/y, which is not https; name a"
    ):
        follow(ask, None, 302, "Found", {}, "http://host/y")
    assert follow(ask, None, 302, "Found", {}, "https://host/y").full_url == "https://host/y"


def test_a_certificate_that_cannot_be_trusted(monkeypatch):
    """It is not tried again."""
    error = ssl.SSLCertVerificationError(1, "bad")
    error.verify_message = "self-signed certificate"

    def fail(*_, **__):
        raise urllib.error.URLError(error)

    monkeypatch.setattr(urllib.request.OpenerDirector, "open", fail)
    with pytest.raises(
        download.Unavailable, match=r"^https://h/x: its certificate .* \(self-signed certificate\); put "
    ):
        download.look("https://h/x", patience(pause_s=1e9))


def test_a_circle_of_redirects_ends(server, root):
    server.heads = {TRAIN: status(302, Location=TRAIN)}
    assert f"{TRAIN}: answers 302 " in refused(server, root)


def test_what_is_not_there_or_not_given(server, root):
    del server.files[TRAIN]
    assert f"{TRAIN}: answers 404 Not Found: there is no such file; name a --mirror that has it" in refused(
        server, root
    )
    server.heads = {TRAIN: status(403)}
    server.faults[TRAIN] = [status(403)]
    assert f"{TRAIN}: answers 403 Forbidden: refuses to give the file" in refused(server, root)
    assert not root.exists()


@pytest.mark.parametrize(
    "address, reason", [("http://127.0.0.1:9", "Connection refused"), ("http://host.invalid", ".*")]
)
def test_without_a_network_it_is_one_line_and_at_once(root, address, reason):
    began = []
    message = refused(address, root, patient=Patience(threading.Event(), pause_s=1e9, tries=99))
    expected = f"cannot be reached \\({reason}\\); fetch where there is a network, such as on a login node, or name a"
    assert re.search(f"^{re.escape(address)}/ogbench/{DATA}(-val)?.npz: {expected}", message) and not began


def test_a_server_that_goes_away_in_the_middle_is_waited_for(server, root, monkeypatch):
    """Connections are refused for a while, after some bytes have come."""
    server.faults[TRAIN] = [cut(1000)]
    real, down = download._open, [0]

    def refuse(address, headers, patient, method="GET"):
        if headers.get("Range") == "bytes=1000-" and down[0] < 2:
            down[0] += 1
            return real(address.replace(server.address, "http://127.0.0.1:9"), headers, patient, method)
        return real(address, headers, patient, method)

    monkeypatch.setattr(download, "_open", refuse)
    get(server, root, patient=patience(tries=5))
    assert down == [2]
    assert_whole(server, root)


def test_what_a_server_says_cannot_speak_to_the_terminal(server, root):
    def rude(request):
        request.send_response(404, "\x1b[2Jgone")
        request.send_header("Content-Length", "0")
        request.end_headers()

    server.heads = {TRAIN: rude}
    message = refused(server, root)
    assert message.isprintable() and "404 [2Jgone" in message


# checksums


def sums(server: Server, changed: str = "") -> str:
    lines = {path.rpartition("/")[2]: hashlib.sha256(content).hexdigest() for path, content in server.files.items()}
    return "# made by hand\n" + "".join(f"{'0' * 64 if n == changed else s} *./{n}\n" for n, s in lines.items())


def test_given_checksums_are_held_against_each_file(server, root, tmp_path):
    path = tmp_path / "SUMS"
    path.write_text(sums(server, changed=f"{DATA}.npz"))
    message = refused(server, root, sums=path)
    assert re.search(r"its sha256 is \w{12}\.\.\., but by the file of checksums 000000000000\.\.\.", message)
    assert finals(root) == [f"{DATA}-val.npz"]
    path.write_text(sums(server))
    get(server, root, sums=path)
    assert_whole(server, root)
    path.write_text("nothing")
    (root / DATA / f"{DATA}.npz").unlink()
    assert f"SUMS: no line for {DATA}.npz; lines are like" in refused(server, root, sums=path)
    assert "cannot be read (No such file" in refused(server, root, sums=tmp_path / "none")


def test_a_mirror_s_own_checksums_are_held_against_its_files(server, root):
    text = sums(server, changed=f"{DATA}.npz").encode()
    server.files["/ogbench/SHA256SUMS"] = text
    assert "but by SHA256SUMS there 000000000000..." in refused(server, root)
    assert server.gets("/ogbench/SHA256SUMS") == [""], "once for all files of a folder"
    del server.files["/ogbench/SHA256SUMS"]
    server.files["/ogbench/SHA256SUMS"] = sums(server).encode()
    get(server, root)
    assert_whole(server, root)


# mirrors and addresses


def test_mirrors_are_tried_in_turn(server, root):
    with http_server.serving() as first:
        first.files[TRAIN] = server.files[TRAIN]
        first.faults[TRAIN] = [cut(1000)] + [cut(0)] * 9
        (said,) = get(first, root, mirrors=[server])
        assert "ended at 1,000 of" in said and f"trying {server.address}{TRAIN}" in said
        assert server.gets(TRAIN) == [""], "bytes of two servers are not glued together"
    assert_whole(server, root)
    (root / DATA / f"{DATA}.npz").unlink()
    message = refused(server, root, mirrors=["http://127.0.0.1:9"]) if server.files.pop(TRAIN) else ""
    assert "answers 404" in message and "| http://127.0.0.1:9" in message


@pytest.mark.parametrize(
    "address, reason",
    [
        ("file:///data", "not an address; it is like https://host/folder"),
        ("ftp://host/data", "not an address"),
        ("host/data", "not an address"),
        ("http://", "not an address"),
        ("http://host:no/", "not an address"),
        ("http://ho st/", "not an address"),
        ("http://host/\r\nX: y", "not an address"),
        ("http://me:secret@host/", "is not supported"),
        ("http://host/?q", "is not supported"),
    ],
)
def test_mirrors_are_http_or_https(root, address, reason):
    with pytest.raises(UserError, match=re.escape(reason)):
        fetch.plan([DATA], root, [address], patience())


def test_addresses_are_quoted():
    assert download.join("https://host/x", "a b", "ü#?%.npz") == "https://host/x/a%20b/%C3%BC%23%3F%25.npz"
    assert download.check_address("https://host:8/x/") == "https://host:8/x"


def test_the_table_of_what_is_published():
    """Hand numbers: OGBench's 85 data sets without 35 of pixels and 3 of Powderworld, and what else there is."""
    names = set(sources.SOURCES)
    small = {name for name in names if name.endswith("-v0") and "-100m-" not in name}
    assert (len(small), len([name for name in names if "-100m-" in name]), len(names)) == (47, 11, 88)
    assert small <= {tasks.find(name).dataset for name in small}
    assert "cube-octuple-play-v0" not in names and "antmaze-giant-explore-v0" not in names
    shards = sources.SOURCES["cube-octuple-play-100m-v0"]
    assert shards.folder == "ogbench/cube-octuple-play-100m-v0" and len(shards.files) == 200
    assert shards.files[:2] == ("cube-octuple-play-v0-000.npz", "cube-octuple-play-v0-000-val.npz")
    assert len(sources.SOURCES["humanoidmaze-giant-navigate-100m-v0"].files) == 50
    maze = sources.SOURCES["antmaze-umaze-v2"]
    file = "Ant_maze_u-maze_noisy_multistart_False_multigoal_False_sparse_fixed.hdf5"
    assert (maze.folder, maze.files) == ("offline_rl/ant_maze_v2", (file,))
    for source in sources.SOURCES.values():
        for name in (source.dataset, *source.folder.split("/"), *source.files):
            assert re.fullmatch(r"\w[\w.-]*", name), "no name leads out of the data folder"


@pytest.mark.parametrize(
    "name, advice",
    [
        ("cube-octuple-play-v0", "did you mean .*cube-octuple-play-100m-v0"),
        ("../../evil", "no data of the name '../../evil' are published; `mac-bench data fetch` lists those that are"),
        ("hopper-medium-v0", "it is hopper-medium-v2"),
    ],
)
def test_names_that_are_not_published(root, name, advice):
    with pytest.raises(UserError, match=advice):
        fetch.plan([name], root, ["http://127.0.0.1:9"], patience())


# what lies there already


def test_data_made_here_and_data_put_there_by_hand(server, root, data_root, monkeypatch, tmp_path):
    with pytest.raises(UserError, match="holds data made here, not the official files; rename it to fetch these"):
        get(server, data_root)
    root.mkdir()
    for path in (TRAIN, VALIDATION):
        (root / path.rpartition("/")[2]).write_bytes(server.files[path])
    assert fetch.plan([DATA], root, [server.address], patience()) == []
    official = tmp_path / "nothing" / "hopper_medium-v2.hdf5"
    official.parent.mkdir()
    official.write_bytes(b"")
    assert fetch.plan(["hopper-medium-v2"], root, [server.address], patience()) == []


def test_some_of_the_files_by_hand(server, root):
    (root / DATA).mkdir(parents=True)
    mine = root / DATA / f"{DATA}.npz"
    mine.write_bytes(server.files[TRAIN])
    get(server, root)
    assert_whole(server, root)
    assert server.gets(TRAIN) == [], "what lay there is kept, and recorded"
    (root / DATA / MANIFEST).unlink()
    (root / DATA / f"{DATA}-val.npz").unlink()
    server.files["/ogbench/SHA256SUMS"] = sums(server, changed=f"{DATA}.npz").encode()
    assert f"{mine}: its sha256 is " in refused(server, root) and mine.exists()
    del server.files["/ogbench/SHA256SUMS"]
    mine.write_bytes(server.files[TRAIN] + b"x")
    size = len(server.files[TRAIN])
    told = f"{mine}: has {size + 1:,} bytes, and {size:,} at {server.address}{TRAIN}; remove it, and call again"
    assert refused(server, root) == told
    mine.write_bytes(server.files[TRAIN])
    get(server, root)
    assert_whole(server, root)
    from mac_bench.generate import generate

    with pytest.raises(UserError, match="holds data that was not made here; choose another name"):
        generate(DATA, root, episodes=1, length=10)


# disks


def test_too_small_a_disk_is_seen_before_anything_is_fetched(server, root, monkeypatch):
    monkeypatch.setattr("mac_bench.prepared.shutil.disk_usage", lambda path: type("Usage", (), {"free": 100}))
    assert re.search(r"needs 0\.0 GB, and 0\.0 GB are free; choose another disk", refused(server, root))
    assert server.gets(TRAIN) == [] and not [path for path in root.rglob("*") if path.is_file()]


@contextmanager
def no_file_larger_than(size: int) -> Iterator[None]:
    """The kernel refuses writes beyond it, as it does on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("left", [6000, 10])
def test_a_full_disk_is_one_line_and_the_call_continues(server, root, left):
    room = len(server.files[TRAIN]) - left
    with no_file_larger_than(room):
        message = refused(server, root)
    assert f"{DATA}.npz: File too large; 0 MB are missing; make room, and call again to continue" in message
    assert f"{DATA}.npz" not in finals(root)
    assert (root / DATA / f"{DATA}.npz.partial").stat().st_size == room
    get(server, root)
    assert server.gets(TRAIN) == ["", f"bytes={room}-"]
    assert_whole(server, root)


def test_a_folder_that_cannot_be_written(server, root):
    root.write_text("a file")
    assert "call again to continue" in refused(server, root)


def test_a_disk_without_locks(server, root, monkeypatch):
    def flock(*_):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fetch, "fcntl", SimpleNamespace(LOCK_EX=1, LOCK_NB=2, flock=flock))
    assert "its disk knows no locks (No locks available); choose another --data" in refused(server, root)


# killed, and others at work


def command(server: Server, root: Path) -> list[str]:
    return [*f"{sys.executable} -m mac_bench data fetch {DATA} --mirror {server.address} --data {root}".split()]


@contextmanager
def started(command: list[str]) -> Iterator[subprocess.Popen]:
    """A process that does not outlive the test, even one that fails."""
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def until(true, process=None) -> None:
    for _ in range(3000):
        if true():
            return
        assert process is None or process.poll() is None, process.stderr.read()
        time.sleep(0.01)
    raise AssertionError("did not happen")


def test_killed_in_the_middle_the_same_call_continues_with_the_same_bytes(server, root):
    half = len(server.files[TRAIN]) // 2
    server.faults[TRAIN] = [stall(half)]
    growing = root / DATA / f"{DATA}.npz.partial"
    with started(command(server, root)) as process:
        until(lambda: growing.exists() and growing.stat().st_size == half, process)
        process.send_signal(signal.SIGKILL)
    assert f"{DATA}.npz" not in finals(root) and not listing(root)[0].complete
    with pytest.raises(UserError, match=rf"is not finished; call `mac-bench data fetch {DATA}` to continue it"):
        tasks.files(DATA, root)
    assert verify(root, DATA)
    items = fetch.plan([DATA], root, [server.address], patience())
    assert items[0].missing == len(server.files[TRAIN]) - half
    done = subprocess.run(command(server, root), capture_output=True, text=True, check=True)
    assert done.stdout == f"{root / DATA}\n"
    assert server.gets(TRAIN) == ["", f"bytes={half}-"]
    assert_whole(server, root)


def test_ctrl_c_waits_for_no_server(server, root):
    server.faults[TRAIN] = [stall(1000)]
    growing = root / DATA / f"{DATA}.npz.partial"
    patient = [*command(server, root), "--stall", "3600"]
    with started(patient) as process:
        until(lambda: growing.exists() and growing.stat().st_size == 1000, process)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert process.returncode == 130 and out == ""
    assert err.endswith("stopped; the same command continues\n") and "Traceback" not in err
    get(server, root)
    assert server.gets(TRAIN) == ["", "bytes=1000-"]
    assert_whole(server, root)


@pytest.mark.parametrize("at", ["replace", "_record", "check_file"])
def test_killed_at_any_step_of_the_end(server, root, monkeypatch, at):
    """Before a file has its name; after that but before the manifest has it; before it was checked."""

    def die(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        if at == "replace":
            patch.setattr(fetch, "os", SimpleNamespace(**vars(os) | {"replace": die}))
        elif at == "check_file":
            patch.setattr(fetch, at, die)
        else:
            real = fetch._record
            patch.setattr(fetch, at, lambda f, s, entries, p: die() if entries else real(f, s, entries, p))
        get(server, root)
    server.asked.clear()
    get(server, root)
    assert server.gets(TRAIN) == [], "all bytes were here"
    assert_whole(server, root)


def test_two_at_once_fetch_and_check_each_file_once(server, root, monkeypatch):
    server.faults[TRAIN] = [stall(1000)]
    said, checked, check = [], [], fetch.check_file
    monkeypatch.setattr(fetch, "check_file", lambda path, name: [checked.append(path.name), check(path, name)][1])
    patient, growing = patience(stall_s=30), root / DATA / f"{DATA}.npz.partial"
    first = threading.Thread(target=get, args=(server, root), kwargs={"patient": patient})
    first.start()
    until(lambda: growing.exists() and growing.stat().st_size == 1000)
    second = threading.Thread(target=get, args=(server, root), kwargs={"said": said})
    second.start()
    until(lambda: server.gets(VALIDATION) and said)  # the second does what nobody is at, and then waits
    server.go_on.set()
    first.join(), second.join()
    assert [line.startswith(f"{root / DATA / DATA}.npz: process {os.getpid()} on ") for line in said] == [True]
    assert server.gets(VALIDATION) == [""] and server.gets(TRAIN) == ["", "bytes=1000-"]
    assert sorted(checked) == [f"{DATA}-val.npz.partial", f"{DATA}.npz.partial"]
    assert_whole(server, root)


@pytest.mark.parametrize("anew", [False, True])
def test_the_lock_that_its_owner_has_just_removed_is_none(tmp_path, monkeypatch, anew):
    lock, real = tmp_path / ".x.lock", fetch.fcntl.flock

    def flock(file, how):
        lock.unlink()
        if anew:  # by a third
            lock.touch()
        real(file, how)

    monkeypatch.setattr(fetch.fcntl, "flock", flock)
    assert fetch._lock(tmp_path / "x") is None


def test_who_waits_is_told_for_whom(server, root):
    (root / DATA).mkdir(parents=True)
    said, path = [], root / DATA / f"{DATA}.npz"
    patient = patience()
    with fetch._locked(path, False, patient, said.append) as mine:
        assert mine
        with fetch._locked(path, False, patient, said.append) as again:
            assert not again and said == []
        waiting = threading.Thread(target=get, args=(server, root), kwargs={"said": said})
        waiting.start()
        until(lambda: said)
        assert server.gets(TRAIN) == []
    waiting.join()
    assert re.fullmatch(rf"{path}: process {os.getpid()} on \S+ \(since [\d:]+\) is fetching it; waiting", said[0])
    assert len(said) == 1
    assert_whole(server, root)


# the command line


@pytest.fixture
def call(monkeypatch, capsys, server, root):
    from mac_bench.cli import main

    monkeypatch.setenv("MAC_BENCH_DATA", str(root))
    monkeypatch.setenv("MAC_BENCH_MIRRORS", f"{server.address} http://127.0.0.1:9")

    def call(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["mac-bench", *arguments])
        with pytest.raises(SystemExit) as left:
            main()
        return (left.value.code or 0, *capsys.readouterr())

    return call


def test_a_dry_run_shows_addresses_and_sizes_and_changes_nothing(call, server, root):
    code, out, err = call("data", "fetch", TASK, "--dry-run")
    lines = [f"{server.address}{path} {len(server.files[path]):,} bytes" for path in (TRAIN, VALIDATION)]
    assert (code, out.splitlines()) == (0, lines) and not root.exists()
    total = (len(server.files[TRAIN]) + len(server.files[VALIDATION])) / 1e6
    assert err == f"{DATA}: 2 files, {total:,.1f} MB to fetch\n"


def test_fetched_listed_verified_and_there(call, server, root):
    assert call("data", "fetch", DATA)[:2] == (0, f"{root / DATA}\n")
    assert_whole(server, root)
    assert call("data", "fetch", DATA) == (0, "", f"{DATA}: is there\n")
    assert "official files" in call("data", "list")[1] and call("data", "verify") == (0, f"✓ {DATA}\n", "")
    assert DATA in call("data", "fetch")[1].splitlines()
    code, _, err = call("data", "fetch", "cube-double-plya-v0")
    assert code == 2 and "did you mean cube-double-play-v0" in err and err.count("\n") == 1


def test_a_suite_s_data_are_fetched_and_what_cannot_be_is_said(call, server, root, tmp_path):
    path = tmp_path / "own.yaml"
    large = "pointmaze-large-navigate-singletask-v0"
    path.write_text(
        "name: own\nabout: x\nsteps: 20\nseeds: [0]\n"
        f"tasks: {{{TASK}: , {large}: {{dataset: ../../evil}}}}\n"
        "evaluation: {every: 10, episodes: 2}\nagents: {random_actions: }\n"
    )
    missing = needs.absent(needs.of(suite.expand(suite.load(path))), root)
    assert f"`mac-bench data fetch {DATA}`" in missing[DATA]
    code, out, err = call("data", "fetch", str(path))
    assert (code, out) == (1, f"{root / DATA}\n")
    assert "no data '../../evil'" in err.splitlines()[-1]
    assert_whole(server, root)
    assert [found.name for found in root.iterdir()] == [DATA]
    assert UNFINISHED not in {found.name for found in (root / DATA).iterdir()}
