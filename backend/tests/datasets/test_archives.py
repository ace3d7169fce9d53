"""A set's files come complete and verified from the first good source, or nothing changes."""

from __future__ import annotations

import hashlib
import stat
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from web_server import Redirect, WebServer, patched, zip_of

from ml.collaborative.datasets import archives
from ml.collaborative.datasets.archives import ensure_files
from ml.collaborative.datasets.registry import DATASETS, Archive, DataFile
from ml.collaborative.errors import InputError, MlError, SourceError

pytestmark = pytest.mark.usefixtures("offline")

Https = Callable[[str], WebServer]
Log = pytest.LogCaptureFixture
Patch = pytest.MonkeyPatch

DATA = b"196\t242\t3\t881250949\n" * 500
ITEM = b"1|Toy Story (1995)|\n" * 100
CSV = b"movieId,imdbId,tmdbId\r\n1,114709,862\r\n"
NEWER_CSV = b"movieId,imdbId,tmdbId\n1,114709,862\n2,113497,8844\n"


def files_of(archive: Archive, header: str | None = None, **pins: bytes | None) -> list[DataFile]:
    """Files NAME_EXT as NAME.EXT of `archive`, pinned to their content."""
    return [
        DataFile(
            archive,
            name.replace("_", "."),
            f"tiny/{name.replace('_', '.')}",
            content and hashlib.sha256(content).hexdigest(),
            header,
        )
        for name, content in pins.items()
    ]


FROZEN = Archive("tiny", frozen=True, max_bytes=1 << 20)
FILES = files_of(FROZEN, u_data=DATA, u_item=ITEM)
LATEST = Archive("tiny", frozen=False, max_bytes=1 << 20)
HEADER = CSV.decode().split()[0]
PINNED = files_of(LATEST, HEADER, links_csv=CSV)
UNPINNED = files_of(LATEST, HEADER, links_csv=None)

GOOD = zip_of({"tiny/u.data": DATA, "tiny/u.item": ITEM})
GOOD_CSV, NEWER = (zip_of({"tiny/links.csv": content}) for content in (CSV, NEWER_CSV))
ODD_CSV = zip_of({"tiny/links.csv": b"movieId;tmdbId\n1;862\n"})


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return tmp_path / "data"


@pytest.fixture
def server(web_server: WebServer, monkeypatch: Patch) -> WebServer:
    """Has the good archive under /base and /mirror; GroupLens is redirected to /grouplens."""
    web_server.files["/base/tiny.zip"] = web_server.files["/mirror/tiny.zip"] = GOOD
    monkeypatch.setattr(archives, "GROUPLENS", f"{web_server.url}/grouplens")
    return web_server


@pytest.fixture
def far(server: WebServer, monkeypatch: Patch) -> str:
    """A base URL of a host that is not authentic: plain http, through `server` as a proxy."""
    monkeypatch.setenv("http_proxy", server.url)
    monkeypatch.setattr(archives, "GROUPLENS", "http://far.example/grouplens")
    return "http://far.example/base"


def contents(data: Path) -> dict[str, bytes]:
    """All files in the data folder, but for the lock."""
    found = (path for path in data.rglob("*") if not path.is_dir() and path.name != ".lock")
    return {path.relative_to(data).as_posix(): path.read_bytes() for path in found}


def assert_done(data: Path) -> None:
    """The data folder holds FILES and their sums, and nothing else."""
    found = contents(data)
    sums = found.pop("SHA256SUMS").decode().splitlines()
    assert found == {"tiny/u.data": DATA, "tiny/u.item": ITEM}
    assert sums == [f"{file.sha256}  {file.target}" for file in FILES]


def test_verified_files_are_not_fetched_again(server: WebServer, data: Path) -> None:
    assert ensure_files(FILES, data, f"{server.url}/base/")
    assert_done(data)
    assert server.paths == ["/base/tiny.zip"]
    assert not ensure_files(FILES, data, f"{server.url}/base/")
    assert len(server.requests) == 1


@pytest.mark.parametrize("damage", ["changed", "missing", "forced"])
def test_what_is_missing_or_damaged_is_fetched_again(
    server: WebServer, data: Path, caplog: Log, damage: str
) -> None:
    ensure_files(FILES, data, f"{server.url}/base")
    path = data / "tiny" / "u.data"
    if damage == "missing":
        path.unlink()
    elif damage == "changed":
        path.write_bytes(DATA[:-1])
    caplog.clear()
    assert ensure_files(FILES, data, f"{server.url}/base", force=damage == "forced")
    assert_done(data)
    assert len(server.requests) == 2
    assert (f"{path} is damaged: fetching it again" in caplog.text) == (damage == "changed")


def test_an_unpinned_file_is_checked_against_what_was_extracted(
    server: WebServer, data: Path, caplog: Log
) -> None:
    server.files["/base/tiny.zip"], base = NEWER, f"{server.url}/base"
    assert [ensure_files(UNPINNED, data, base) for _ in range(2)] == [True, False]
    (data / "tiny" / "links.csv").write_bytes(CSV)
    assert ensure_files(UNPINNED, data, base)
    assert "links.csv is damaged" in caplog.text
    assert contents(data)["tiny/links.csv"] == NEWER_CSV


def test_somebodys_own_file_is_used_if_its_layout_is_right(
    server: WebServer, data: Path, caplog: Log
) -> None:
    (data / "tiny").mkdir(parents=True)
    (data / "tiny" / "links.csv").write_bytes(NEWER_CSV)
    assert not ensure_files(PINNED, data, None)
    assert "its version is not known here; its layout is right" in caplog.text
    (data / "SHA256SUMS").write_bytes(b"\xff\xfe no sums\n")
    assert not ensure_files(PINNED, data, None)
    (data / "tiny" / "links.csv").write_bytes(b"<!doctype html>")
    with pytest.raises(SourceError):
        ensure_files(PINNED, data, None)
    assert server.requests[0].path == "/grouplens/tiny.zip"


@pytest.mark.parametrize(
    ("source", "requests"),
    [
        ("data folder", []),
        ("https", ["/base/tiny.zip"]),
        ("http", ["/base/tiny.zip"]),
        ("file", []),
        ("folder", []),
        ("GroupLens", ["/base/tiny.zip", "/grouplens/tiny.zip"]),
        ("mirror", ["/base/tiny.zip", "/grouplens/tiny.zip", "/mirror/tiny.zip"]),
    ],
)
def test_the_first_source_that_has_it_is_used_and_no_later_one_asked(
    server: WebServer, https_server: Https, data: Path, source: str, requests: list[str]
) -> None:
    base = f"{server.url}/base"
    folder = data if source == "data folder" else data.parent / "an archive folder"
    if source == "https":
        secure = https_server("good")
        secure.files, secure.requests = server.files, server.requests
        base = f"{secure.url}/base"
    elif source in ("file", "folder"):
        base = str(folder) if source == "folder" else folder.as_uri()
    elif source in ("GroupLens", "mirror"):
        del server.files["/base/tiny.zip"]
        if source == "GroupLens":
            server.files["/grouplens/tiny.zip"] = GOOD
    folder.mkdir()
    (folder / "tiny.zip").write_bytes(GOOD)
    mirrored = Archive("tiny", True, 1 << 20, mirrors=(f"{server.url}/mirror/tiny.zip",))
    assert ensure_files(files_of(mirrored, u_data=DATA, u_item=ITEM), data, base)
    assert server.paths == requests
    (data / "tiny.zip").unlink(missing_ok=True)
    assert_done(data)


def test_bad_sources_are_passed_over_and_named(server: WebServer, data: Path, caplog: Log) -> None:
    data.mkdir()
    (data / "tiny.zip").write_bytes(GOOD[:-30])
    server.files["/base/tiny.zip"] = b"<!doctype html><title>Maintenance</title>"
    server.files["/grouplens/tiny.zip"] = GOOD
    ensure_files(FILES, data, f"{server.url}/base".replace("://", "://me:secret@"))
    warnings = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    named = [str(data / "tiny.zip"), f"{server.url}/base/tiny.zip"]
    assert [warning.split(": ")[0] for warning in warnings] == [f"skipped {name}" for name in named]
    assert "secret" not in caplog.text
    (data / "tiny.zip").unlink()
    assert_done(data)


@pytest.mark.parametrize(
    ("base_url", "said"),
    [
        ("ftp://me:secret@127.0.0.1/pub", "has the scheme ftp://: expected https://"),
        ("https://me:secret/1@127.0.0.1", "not a well-formed URL"),
        ("https://me:secret@[bad", "not a well-formed URL"),
    ],
)
def test_an_invalid_base_url_is_an_input_error_without_its_password(
    data: Path, base_url: str, said: str
) -> None:
    with pytest.raises(InputError, match=said) as raised:
        ensure_files(FILES, data, base_url)
    assert "secret" not in str(raised.value)
    assert contents(data) == {}


LOCAL, CENTRAL, END = b"PK\3\4", b"PK\1\2", b"PK\5\6"
TEN = struct.pack("<I", 10)


def with_item(content: bytes, mode: int = 0, method: int = zipfile.ZIP_DEFLATED) -> bytes:
    """The good archive, but for its last member."""
    item = zipfile.ZipInfo("tiny/u.item")
    item.external_attr = mode << 16
    item.compress_type = method
    return zip_of({"tiny/u.data": DATA, item: content})


BAD = {
    "wrong content": (
        with_item(b"other"),
        f"u.item has SHA-256 {hashlib.sha256(b'other').hexdigest()}, expected {FILES[1].sha256}",
    ),
    "cut off": (GOOD[: len(GOOD) // 2], r"damaged archive of \d+ bytes"),
    "empty": (b"", "damaged archive of 0 bytes"),
    "a web page": (b"<!doctype html><title>Hello</title>", "damaged archive of 35 bytes"),
    "spoilt member": (patched(GOOD, (LOCAL, 45, b"spoilt")), "damaged archive"),
    "no such member": (zip_of({"tiny/u.data": DATA}), "the archive has no tiny/u.item"),
    "a folder": (with_item(ITEM, stat.S_IFDIR | 0o755), "u.item is not a plain file"),
    "a link": (with_item(b"/etc/passwd", stat.S_IFLNK | 0o777), "u.item is not a plain file"),
    "a device": (with_item(ITEM, stat.S_IFCHR | 0o600), "u.item is not a plain file"),
    "encrypted": (patched(GOOD, (LOCAL, 6, b"\1"), (CENTRAL, 8, b"\1")), "encrypted"),
    "too large": (
        with_item(bytes((1 << 20) + 1)),
        "u.item has 1,048,577 bytes, expected at most 1,048,576",
    ),
    "larger than declared": (
        patched(with_item(bytes(8 << 20)), (LOCAL, 22, TEN), (CENTRAL, 24, TEN)),
        "Bad CRC-32 for file 'tiny/u.item'",
    ),
    "another method": (with_item(ITEM, method=zipfile.ZIP_BZIP2), "compressed by method 12"),
    "sending back": (patched(GOOD, (END, 16, b"\xff\xff")), "damaged archive"),
    "undecodable name": (
        zip_of({"tiny/\xe9": b"", "tiny/u.data": DATA}).replace(b"\xc3\xa9", b"\xff\xff"),
        "damaged archive",
    ),
}


@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize("there", [False, True], ids=["first fetch", "files are there"])
def test_a_bad_archive_is_refused_and_leaves_everything_as_it_was(
    server: WebServer, data: Path, bad: str, there: bool
) -> None:
    archive, said = BAD[bad]
    if there:
        ensure_files(FILES, data, f"{server.url}/base")
        (data / "tiny" / "u.data").write_bytes(b"mine")
    before = contents(data)
    server.files["/base/tiny.zip"] = server.files["/grouplens/tiny.zip"] = archive
    both = rf": {server.url}/base/tiny.zip: .*{said}.*; {server.url}/grouplens/tiny.zip: .*{said}"
    with pytest.raises(InputError, match=both):
        ensure_files(FILES, data, f"{server.url}/base", force=True)
    assert contents(data) == before


@pytest.mark.parametrize("unreachable", ["base", "grouplens", "folder"])
def test_a_source_that_could_not_be_reached_makes_it_a_source_error(
    server: WebServer, data: Path, unreachable: str
) -> None:
    server.files["/base/tiny.zip"] = server.files["/grouplens/tiny.zip"] = b"bad"
    server.files.pop(f"/{unreachable}/tiny.zip", None)
    base = str(data.parent) if unreachable == "folder" else f"{server.url}/base"
    with pytest.raises(SourceError, match=r"HTTP 404|tiny\.zip: no such file") as raised:
        ensure_files(FILES, data, base)
    assert "damaged archive of 3 bytes" in str(raised.value)
    assert contents(data) == {}


def test_an_optional_file_may_fail_and_is_never_left_damaged(
    server: WebServer, data: Path, caplog: Log
) -> None:
    other = Archive("other", frozen=True, max_bytes=1 << 20)
    spare = DataFile(other, "links.csv", "links.csv", PINNED[0].sha256, HEADER, optional=True)
    assert ensure_files([*FILES, spare], data, f"{server.url}/base")
    assert "going on without links.csv, which is optional: no source has a good" in caplog.text
    assert_done(data)
    for content, stays in ((CSV, True), (b"damaged", False)):
        (data / "links.csv").write_bytes(content)
        ensure_files([*FILES, spare], data, f"{server.url}/base", force=True)
        assert (data / "links.csv").exists() == stays
    assert_done(data)


@pytest.mark.parametrize("target", ["links.csv", "tiny/links.csv"])
def test_a_folder_in_the_place_of_an_optional_file_is_a_warning_and_stays(
    server: WebServer, data: Path, caplog: Log, target: str
) -> None:
    other = Archive("other", frozen=True, max_bytes=1 << 20)
    spare = DataFile(other, "u.data", target, PINNED[0].sha256, HEADER, optional=True)
    server.files["/base/other.zip"] = zip_of({"u.data": DATA})
    (data / target / "mine").mkdir(parents=True)
    for force in (False, True):
        caplog.clear()
        ensure_files([*FILES, spare], data, f"{server.url}/base", force=force)
        assert f"going on without {target}, which is optional: " in caplog.text
        assert (data / target / "mine").is_dir()


def test_an_optional_file_beside_others_is_taken_along_but_not_fetched_for(
    server: WebServer, data: Path, caplog: Log
) -> None:
    """As movies.csv: absent from somebody's own archive, or from a folder of an older version."""
    titles = DataFile(FROZEN, "titles.csv", "tiny/titles.csv", PINNED[0].sha256, optional=True)
    files = [*FILES, titles]
    assert ensure_files(files, data, f"{server.url}/base")
    assert_done(data)
    asked = len(server.requests)
    assert not ensure_files(files, data, f"{server.url}/base")
    assert len(server.requests) == asked
    server.files["/base/tiny.zip"] = zip_of(
        {"tiny/u.data": DATA, "tiny/u.item": ITEM, "tiny/titles.csv": CSV}
    )
    assert ensure_files(files, data, f"{server.url}/base", force=True)
    assert contents(data)["tiny/titles.csv"] == CSV
    (data / "tiny" / "titles.csv").write_bytes(b"damaged")
    assert ensure_files(files, data, f"{server.url}/base")
    assert contents(data)["tiny/titles.csv"] == CSV
    assert not [record for record in caplog.records if "going on without" in record.message]


def test_members_with_paths_of_their_own_go_nowhere(server: WebServer, data: Path) -> None:
    absolute = str(data.parent / "absolute")
    evil = ("../up", "../../up", "tiny/../../up", absolute, "..\\up", "tiny/u.data/../../../up")
    server.files["/base/tiny.zip"] = zip_of(
        dict.fromkeys(evil, b"evil") | {"tiny/u.data": DATA, "tiny/u.item": ITEM}
    )
    ensure_files(FILES, data, f"{server.url}/base")
    assert_done(data)
    assert [path.name for path in data.parent.iterdir()] == ["data"]


@pytest.mark.parametrize(
    ("files", "archive", "authentic", "said"),
    [
        (PINNED, NEWER, True, None),
        (PINNED, NEWER, False, "unknown content and its sender is not authentic"),
        (PINNED, ODD_CSV, True, "begins with 'movieId;tmdbId', expected 'movieId,imdbId,tmdbId'"),
        (PINNED, GOOD_CSV, False, None),
        (UNPINNED, NEWER, True, None),
        (UNPINNED, NEWER, False, "not authentic"),
    ],
)
def test_unknown_content_of_a_set_that_changes_is_used_if_layout_and_sender_are_right(
    server: WebServer,
    far: str,
    data: Path,
    caplog: Log,
    files: list[DataFile],
    archive: bytes,
    authentic: bool,
    said: str | None,
) -> None:
    server.files["/base/tiny.zip"] = server.files["/grouplens/tiny.zip"] = archive
    base = f"{server.url}/base" if authentic else far
    if said:
        with pytest.raises(InputError, match=said):
            ensure_files(files, data, base)
        assert contents(data) == {}
    else:
        ensure_files(files, data, base)
        newer = archive == NEWER
        assert contents(data)["tiny/links.csv"] == (NEWER_CSV if newer else CSV)
        assert ("links.csv: its version is not known here" in caplog.text) == newer


def test_the_published_md5_of_an_archive_vouches_for_its_members(
    server: WebServer, far: str, data: Path
) -> None:
    archive = Archive("tiny", True, 1 << 20, hashlib.md5(NEWER).hexdigest())
    files = files_of(archive, HEADER, links_csv=None)
    server.files["/base/tiny.zip"] = server.files["/grouplens/tiny.zip"] = GOOD_CSV
    with pytest.raises(InputError, match="not authentic"):
        ensure_files(files, data, far)
    server.files["/base/tiny.zip"] = NEWER
    assert ensure_files(files, data, far)


@pytest.mark.parametrize(
    ("files", "archive", "error", "requests"),
    [
        (FILES, GOOD, None, 1),
        (FILES, with_item(b"other"), "has SHA-256", 1),
        (PINNED, GOOD_CSV, None, 1),
        (PINNED, NEWER, "not authentic", 1),
        (UNPINNED, NEWER, "certificate has expired", 0),
    ],
)
def test_behind_a_lapsed_certificate_only_pinned_content_is_accepted(
    https_server: Https,
    data: Path,
    monkeypatch: Patch,
    caplog: Log,
    files: list[DataFile],
    archive: bytes,
    error: str | None,
    requests: int,
) -> None:
    lapsed = https_server("lapsed")
    monkeypatch.setattr(archives, "GROUPLENS", lapsed.url)
    lapsed.files["/tiny.zip"] = archive
    if error:
        with pytest.raises(MlError, match=error):
            ensure_files(files, data, None)
        assert contents(data) == {}
    else:
        assert ensure_files(files, data, None)
    assert len(lapsed.requests) == requests
    assert lapsed.connections == 1 + requests
    assert ("accepting only content with the pinned hash" in caplog.text) == bool(requests)


def test_the_real_archives_are_fetched_over_http_and_verified(
    server: WebServer, data: Path, movielens_archives: Path
) -> None:
    for name in ("ml-100k.zip", "ml-latest-small.zip"):
        server.files[f"/base/{name}"] = (movielens_archives / name).read_bytes()
    server.files["/cdn"] = server.files["/base/ml-100k.zip"]
    server.faults.append(Redirect("/cdn"))
    assert ensure_files(DATASETS["ml-100k"], data, f"{server.url}/base")
    assert server.paths == ["/base/ml-100k.zip", "/cdn", "/base/ml-latest-small.zip"]
    assert contents(data)["ml-100k/u.data"].count(b"\n") == 100_000
    assert ensure_files(DATASETS["ml-latest-small"], data, f"{server.url}/base")
    assert not ensure_files(DATASETS["ml-100k"], data, None)


RATINGS = "userId,movieId,rating,timestamp\n"
LINKS = "movieId,imdbId,tmdbId\n"
MOVIES = "movieId,title,genres\n"


@pytest.mark.parametrize(
    ("name", "header", "bad", "said"),
    [
        ("ratings_csv", RATINGS, "1,1,4.0,9\n1,2,6.0,9\n", "1 ratings are outside 0.5 to 5"),
        ("ratings_csv", RATINGS, "1,1,nan,9\n", "1 ratings are outside 0.5 to 5"),
        ("ratings_csv", RATINGS, "1,one,4.0,9\n", "invalid literal|could not convert|Integer"),
        ("ratings_csv", RATINGS, "", "has no ratings"),
        ("links_csv", LINKS, "1,114709,many\n", "has unexpected content"),
        ("movies_csv", MOVIES, "one,Toy Story (1995),Animation\n", "has unexpected content"),
    ],
)
def test_content_is_judged_before_it_is_recorded_as_good(
    server: WebServer, data: Path, caplog: Log, name: str, header: str, bad: str, said: str
) -> None:
    files = files_of(LATEST, header.strip(), **{name: None})
    member = name.replace("_", ".")
    good = f"{header}{'1,1,4.0,9' if 'rating' in header else '1,1,862'}\n"
    server.files["/base/tiny.zip"] = zip_of({f"tiny/{member}": (header + bad).encode()})
    with pytest.raises(SourceError, match=f"/base/tiny.zip: tiny/{member} .*({said})"):
        ensure_files(files, data, f"{server.url}/base")
    assert contents(data) == {}
    server.files["/grouplens/tiny.zip"] = zip_of({f"tiny/{member}": good.encode()})
    assert ensure_files(files, data, f"{server.url}/base")  # the next source
    assert f"skipped {server.url}/base/tiny.zip: tiny/{member} " in caplog.text
    assert contents(data)[f"tiny/{member}"] == good.encode()
    assert not ensure_files(files, data, f"{server.url}/base")


POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 4924029\n"


@pytest.mark.parametrize("source", ["data folder", "http"])
def test_a_pointer_of_git_lfs_in_an_archives_place_says_how_to_fetch_it(
    server: WebServer, data: Path, source: str
) -> None:
    data.mkdir()
    server.files["/base/tiny.zip"] = POINTER
    if source == "data folder":
        (data / "tiny.zip").write_bytes(POINTER)
    with pytest.raises(SourceError, match=r"tiny\.zip: a Git LFS pointer.*`git lfs pull`"):
        ensure_files(FILES, data, f"{server.url}/base")


def test_a_pointer_of_git_lfs_in_a_files_place_is_fetched_and_named(
    server: WebServer, data: Path, caplog: Log
) -> None:
    (data / "tiny").mkdir(parents=True)
    (data / "tiny" / "u.data").write_bytes(POINTER)
    ensure_files(FILES, data, f"{server.url}/base")
    assert "u.data is a Git LFS pointer, not the file itself" in caplog.text
    assert_done(data)
