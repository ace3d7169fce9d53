"""A download comes whole and from an authentic sender, or says why not; so does the script."""

from __future__ import annotations

import gc
import os
import random
import re
import select
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import joblib
import pytest
from helpers import BACKEND, interrupt
from web_server import Changed, Cut, Fault, Hold, Redirect, Status, Unannounced, WebServer, zip_of

from ml.collaborative.datasets import downloads
from ml.collaborative.datasets.downloads import LapsedCertificateError, download
from ml.collaborative.errors import SourceError

pytestmark = pytest.mark.usefixtures("offline")

Start = Callable[..., subprocess.Popen[str]]
Run = Callable[..., subprocess.CompletedProcess[str]]
Https = Callable[[str], WebServer]

BODY = random.Random(0).randbytes(300_000)
NEWER = random.Random(1).randbytes(200_000)
LIMIT = 1 << 20
SCRIPT = "ml.download_movielens"


@pytest.fixture
def server(web_server: WebServer) -> WebServer:
    web_server.files["/x.zip"] = BODY
    return web_server


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "x.part"


def fetch(server: WebServer, target: Path, *faults: Fault, limit: int = LIMIT) -> bool:
    """Download /x.zip while the server has these faults."""
    server.files["/x.zip"] = BODY
    server.faults.extend(faults)
    return download(f"{server.url}/x.zip", target, limit, allow_lapsed=False)


def ranges(server: WebServer) -> list[str | None]:
    """The range that each request asked for."""
    return [request.headers.get("Range") for request in server.requests]


@pytest.mark.parametrize("code", [408, 429, 500, 503])
def test_an_error_that_passes_is_tried_again(server: WebServer, target: Path, code: int) -> None:
    fetch(server, target, Status(code), Status(code), Status(code))
    assert target.read_bytes() == BODY
    assert len(server.requests) == 4


def test_the_fourth_failure_is_the_last(server: WebServer, target: Path) -> None:
    with pytest.raises(SourceError, match=r"HTTP 503 Service Unavailable \(4 tries\)"):
        fetch(server, target, *[Status(503)] * 4)
    assert len(server.requests) == 4


@pytest.mark.parametrize("code", [401, 403, 404, 410])
def test_an_error_that_stays_is_not_tried_again(server: WebServer, target: Path, code: int) -> None:
    with pytest.raises(SourceError, match=f"HTTP {code}"):
        fetch(server, target, Status(code))
    assert len(server.requests) == 1


def test_no_server_at_all_is_a_source_error(target: Path) -> None:
    with pytest.raises(SourceError, match=r"\(4 tries\)"):
        download("https://files.grouplens.org/x.zip", target, LIMIT, allow_lapsed=True)


@pytest.mark.parametrize("after", [None, 0, 1000], ids=["no headers", "no body", "half"])
def test_a_server_that_stalls_runs_into_the_time_out(
    server: WebServer, target: Path, monkeypatch: pytest.MonkeyPatch, after: int | None
) -> None:
    monkeypatch.setattr(downloads, "TIMEOUT", 0.3)
    monkeypatch.setattr(downloads, "WAITS", (0.0,))
    with pytest.raises(SourceError, match=r"timed out.* \(2 tries\)"):
        fetch(server, target, Hold(after), Hold(after))
    fetch(server, target, Hold(after))
    assert target.read_bytes() == BODY


@pytest.mark.filterwarnings("ignore::ResourceWarning")  # urllib lets go of a malformed redirect
@pytest.mark.parametrize("where", ["http://[bad/x.zip", "/x.zip"], ids=["malformed", "circle"])
def test_a_redirect_that_leads_nowhere_is_one_line(
    server: WebServer, target: Path, where: str
) -> None:
    with pytest.raises(SourceError) as raised:
        fetch(server, target, *[Redirect(where)] * 50)
    said = str(raised.value)
    del raised
    gc.collect()
    assert re.fullmatch(r"HTTP 302 .+|Invalid IPv6 URL \(4 tries\)", said)


@pytest.mark.parametrize("validator", ["etag", "date"])
def test_a_cut_connection_is_resumed_where_it_was_cut(target: Path, validator: str) -> None:
    with WebServer(validator=validator) as server:
        assert fetch(server, target, Cut(100_000), Cut(50_000))
    assert target.read_bytes() == BODY
    assert ranges(server) == [None, "bytes=100000-", "bytes=150000-"]
    assert [request.headers.get("If-Range") for request in server.requests][1:] == (
        [server.validators(BODY)["ETag" if validator == "etag" else "Last-Modified"]] * 2
    )


@pytest.mark.parametrize(
    ("kind", "second"),
    [
        ({"validator": "weak"}, None),
        ({"validator": "none"}, None),
        ({"ranges": False}, "bytes=100000-"),
    ],
    ids=["weak ETag", "no ETag", "no ranges"],
)
def test_a_cut_connection_is_begun_again_where_the_server_cannot_resume(
    target: Path, kind: dict[str, Any], second: str | None
) -> None:
    with WebServer(**kind) as server:
        fetch(server, target, Cut(100_000))
    assert target.read_bytes() == BODY
    assert ranges(server) == [None, second]


def test_a_cut_connection_is_begun_again_where_the_file_has_changed(
    server: WebServer, target: Path
) -> None:
    fetch(server, target, Cut(250_000), Changed(NEWER))
    assert target.read_bytes() == NEWER
    assert ranges(server) == [None, "bytes=250000-"]


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (Status(500), "the server announced 300,000 bytes, expected at most 299,999"),
        (Unannounced(), "more than 299,999 bytes came"),
    ],
)
def test_a_server_that_sends_too_much_is_refused(
    server: WebServer, target: Path, fault: Fault, said: str
) -> None:
    with pytest.raises(SourceError, match=said):
        fetch(server, target, fault, limit=len(BODY) - 1)
    assert fetch(server, target, fault, limit=len(BODY))


@pytest.fixture
def https(https_server: Https) -> Https:
    def serve(kind: str) -> WebServer:
        server = https_server(kind)
        server.files["/x.zip"] = BODY
        return server

    return serve


@pytest.mark.parametrize("kind", ["stranger", "wrong host"])
def test_only_expiry_is_ever_forgiven(https: Https, target: Path, kind: str) -> None:
    server = https(kind)
    with pytest.raises(SourceError, match="certificate refused") as raised:
        download(f"{server.url}/x.zip", target, LIMIT, allow_lapsed=True)
    assert not isinstance(raised.value, LapsedCertificateError)
    assert (server.connections, server.requests) == (1, [])


@pytest.mark.parametrize("user", ["", "me:secret@"], ids=["not allowed", "with a password"])
def test_a_lapsed_certificate_is_refused_without_asking_again(
    https: Https, target: Path, user: str
) -> None:
    server = https("lapsed")
    url = f"{server.url}/x.zip".replace("://", f"://{user}")
    with pytest.raises(LapsedCertificateError, match="certificate has expired"):
        download(url, target, LIMIT, allow_lapsed=bool(user))
    assert (server.connections, server.requests) == (1, [])


def test_a_lapsed_certificate_is_forgiven_where_the_content_is_known(
    https: Https, target: Path, caplog: pytest.LogCaptureFixture
) -> None:
    authentic = download(f"{https('lapsed').url}/x.zip", target, LIMIT, allow_lapsed=True)
    assert (authentic, target.read_bytes()) == (False, BODY)
    assert "certificate of 127.0.0.1 has expired: fetching without verification" in caplog.text


def test_a_sender_is_authentic_if_every_hop_was(
    https: Https,
    server: WebServer,
    target: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Plain http to a far host goes through `server` as its proxy: whoever sits there."""
    monkeypatch.setenv("http_proxy", server.url)
    safe = https("good")
    far, near = "http://far.example/x.zip", f"{server.url}/x.zip"
    ways: list[tuple[WebServer, list[str], bool]] = [
        (safe, [f"{safe.url}/x.zip"], True),
        (server, [near], True),
        (server, [far], False),
        (server, [far, f"{safe.url}/x.zip"], False),
        (safe, [f"{safe.url}/x.zip", far], False),
        (server, [near, f"{safe.url}/x.zip"], True),
    ]
    for first, (url, *redirects), authentic in ways:
        first.faults.extend(Redirect(where) for where in redirects)
        assert download(url, target, LIMIT, allow_lapsed=False) is authentic, (url, redirects)
        assert target.read_bytes() == BODY


def test_a_password_goes_to_its_own_host_and_is_never_printed(
    server: WebServer, target: Path, caplog: pytest.LogCaptureFixture
) -> None:
    server.faults.extend([Status(503), Redirect("/y.zip"), Status(404)])
    url = f"{server.url}/x.zip".replace("://", "://me:s%2Fcret@")
    with pytest.raises(SourceError) as raised:
        download(url, target, LIMIT, allow_lapsed=False)
    sent = [request.headers.get("Authorization") for request in server.requests]
    assert sent == ["Basic bWU6cy9jcmV0", "Basic bWU6cy9jcmV0", None]  # me:s/cret
    assert "trying again" in caplog.text
    assert not re.search("cret|me:", caplog.text + str(raised.value))


@pytest.fixture
def movielens(server: WebServer, monkeypatch: pytest.MonkeyPatch) -> WebServer:
    """`server` with a small set in the layout of ml-latest-small."""
    lines = "".join(f"{user},{film},4.0,1000000000\n" for user in range(7000) for film in range(9))
    server.files["/ml-latest-small.zip"] = zip_of(
        {
            "ml-latest-small/ratings.csv": f"userId,movieId,rating,timestamp\n{lines}".encode(),
            "ml-latest-small/links.csv": b"movieId,imdbId,tmdbId\n1,114709,862\n2,113497,8844\n",
            "ml-latest-small/padding": random.Random(2).randbytes(2 << 20),
        }
    )
    monkeypatch.setenv("PYTHONUNBUFFERED", "1")
    return server


def args(data: Path, *more: str) -> list[str]:
    return ["--dataset", "ml-latest-small", "--catalog", "all", "--data-dir", str(data), *more]


def files_in(data: Path) -> set[str]:
    return {path.name for path in data.rglob("*") if path.is_file() and path.name != ".lock"}


DONE = {"ratings.csv", "links.csv", "SHA256SUMS"}


def test_the_summary_is_on_stdout_and_the_log_on_stderr_without_a_bar(
    run: Run, movielens: WebServer, tmp_path: Path
) -> None:
    done = run(SCRIPT, *args(tmp_path), MOVIELENS_BASE_URL=movielens.url)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(
        "Loaded 63,000 ratings, mapped 14,000 to TMDB, 14,000 in catalog\n"
    )
    assert f"fetching {movielens.url}/ml-latest-small.zip" in done.stderr
    assert "no commercial use without permission" in done.stderr
    assert not re.search(r"\r|%\||it/s|B/s", done.stderr)
    quiet = run(SCRIPT, *args(tmp_path, "--quiet"), MOVIELENS_BASE_URL=movielens.url)
    assert (quiet.returncode, quiet.stdout, quiet.stderr) == (0, "", "")
    assert len(movielens.requests) == 1
    assert files_in(tmp_path) == DONE


def test_a_slow_download_shows_a_bar_on_a_terminal(
    movielens: WebServer, tmp_path: Path, script_env: dict[str, str]
) -> None:
    termios = pytest.importorskip("termios", reason="no pseudo-terminals")
    movielens.faults.append(Hold(1 << 20))
    terminal, end = os.openpty()
    termios.tcsetwinsize(end, (24, 80))
    with subprocess.Popen(
        [sys.executable, "-m", SCRIPT, *args(tmp_path)],
        cwd=BACKEND,
        env=script_env | {"MOVIELENS_BASE_URL": movielens.url},
        stdout=subprocess.DEVNULL,
        stderr=end,
    ) as process:
        os.close(end)
        shown = b""
        while not re.search(rb"ml-latest-small.zip: +\d+%\|.*B/s", shown):
            assert select.select([terminal], [], [], 10)[0], shown
            shown += os.read(terminal, 4096)
        assert process.poll() is None
        movielens.release.set()
    os.close(terminal)
    assert process.returncode == 0


@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
@pytest.mark.parametrize("name", ["SIGINT", "SIGKILL"])
def test_a_stopped_download_leaves_no_file_and_the_next_one_works(
    start: Start, run: Run, movielens: WebServer, tmp_path: Path, name: str
) -> None:
    movielens.faults.append(Hold(1 << 20))
    process = start(SCRIPT, *args(tmp_path), MOVIELENS_BASE_URL=movielens.url)
    assert movielens.holding.wait(30)
    if name == "SIGKILL":
        process.kill()
    out, err = process.communicate(timeout=30) if name == "SIGKILL" else interrupt(process)
    assert out == "", err
    if name == "SIGINT":
        assert process.returncode == 130
        log = [said for said in err.splitlines() if not said.startswith("INFO: ")]
        assert log == ["error: interrupted; nothing is half-written"]
        assert files_in(tmp_path) == set()
    else:
        assert process.returncode == -signal.SIGKILL
        assert files_in(tmp_path) == {"ml-latest-small.zip.part"}
    movielens.release.set()
    assert run(SCRIPT, *args(tmp_path), MOVIELENS_BASE_URL=movielens.url).returncode == 0
    assert files_in(tmp_path) == DONE


def test_two_at_once_fetch_once(start: Start, movielens: WebServer, tmp_path: Path) -> None:
    movielens.faults.append(Hold(1 << 20))
    first = start(SCRIPT, *args(tmp_path), MOVIELENS_BASE_URL=movielens.url)
    assert movielens.holding.wait(30)
    second = start(SCRIPT, *args(tmp_path), MOVIELENS_BASE_URL=movielens.url)
    assert second.stderr is not None
    assert "another process is writing to" in second.stderr.readline()
    movielens.release.set()
    assert [p.communicate(timeout=30)[0][:13] for p in (first, second)] == ["Loaded 63,000"] * 2
    assert len(movielens.requests) == 1


LIMITED = "import resource, runpy; resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20)); "
LIMITED += f"runpy.run_module({SCRIPT!r}, run_name='__main__', alter_sys=True)"


@pytest.mark.skipif(os.name == "nt", reason="RLIMIT_FSIZE is POSIX")
@pytest.mark.parametrize("when", ["fetching", "extracting"])
def test_a_full_disk_exits_1_and_leaves_no_file(
    movielens: WebServer, tmp_path: Path, script_env: dict[str, str], when: str
) -> None:
    folder = tmp_path / "archives"
    folder.mkdir()
    (folder / "ml-latest-small.zip").write_bytes(movielens.files["/ml-latest-small.zip"])
    base = movielens.url if when == "fetching" else str(folder)
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, *args(tmp_path / "data")],
        cwd=BACKEND,
        env=script_env | {"MOVIELENS_BASE_URL": base},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.splitlines()[-1].startswith("error: File too large")
    assert files_in(tmp_path / "data") == set()


def test_no_network_exits_4_and_says_what_to_do(run: Run, tmp_path: Path) -> None:
    done = run(SCRIPT, *args(tmp_path, "--quiet"))
    assert (done.returncode, done.stdout) == (4, "")
    assert "https://files.grouplens.org/datasets/movielens/ml-latest-small.zip" in done.stderr
    assert done.stderr.splitlines()[-1].endswith("MOVIELENS_BASE_URL to a place that has it")
    assert "Traceback" not in done.stderr
    assert files_in(tmp_path) == set()


@pytest.mark.parametrize("catalog", ["missing", "garbage", "no list"])
def test_an_invalid_catalog_exits_3_and_fetches_nothing(
    run: Run, movielens: WebServer, tmp_path: Path, catalog: str
) -> None:
    path = tmp_path / "movie_ids.pkl"
    if catalog == "garbage":
        path.write_bytes(b"\x80garbage")
    elif catalog == "no list":
        joblib.dump({"a": 1}, path)
    done = run(SCRIPT, "--catalog", path, "--data-dir", tmp_path, MOVIELENS_BASE_URL=movielens.url)
    assert (done.returncode, done.stdout) == (3, "")
    assert [line[:7] for line in done.stderr.splitlines()] == ["error: "]
    assert str(path) in done.stderr
    assert movielens.requests == []
