"""The catalog: TMDB ids in whatever form an app dumps them; what they are not is said."""

from __future__ import annotations

import bz2
import gzip
import lzma
import pickle
import zlib
from collections.abc import Callable
from functools import partial
from pathlib import Path

import joblib
import numpy as np
import pandas as pd
import pytest

from ml.collaborative import catalog
from ml.collaborative.catalog import CatalogMissingError, read_catalog
from ml.collaborative.errors import InputError
from ml.download_movielens import main

zipped = partial(gzip.compress, mtime=0)
"""The same bytes, and so the same names of tests, in each worker."""


@pytest.mark.parametrize(
    ("held", "said"),
    [
        ([11, 862, 11], "2 TMDB ids (list)"),
        ((11, 862), "2 TMDB ids (tuple)"),
        (range(11, 863, 851), "2 TMDB ids (range)"),
        ({11, 862}, "2 TMDB ids (set)"),
        (frozenset({11, 862}), "2 TMDB ids (frozenset)"),
        ([np.int64(11), np.int32(862)], "2 TMDB ids (list)"),
        (np.array([11, 862]), "2 TMDB ids (ndarray)"),
        (np.array([11.0, 862.0]), "2 TMDB ids (ndarray, as floats)"),
        (np.array(["11", "862"]), "2 TMDB ids (ndarray, as text)"),
        (["11", 862.0], "2 TMDB ids (list, as floats, as text)"),
        (pd.Index([11, 862]), "2 TMDB ids (Index)"),
        (pd.array([11, 862], dtype="Int64"), "2 TMDB ids (IntegerArray)"),
        (pd.Series([11, 862]), "2 TMDB ids (Series)"),
        (pd.Series([11, 862], index=[7, 3]), "2 TMDB ids (Series)"),
        (pd.Series([11, 862], index=["Star Wars", "Toy Story"]), "2 TMDB ids (Series)"),
        (pd.Series([0, 1], index=[11, 862]),
         "2 TMDB ids (Series, from its index: its values are positions)"),
        ({11: 0, 862: 1}, "2 TMDB ids (dict, from its keys: its values are positions)"),
        ({862: 1, 11: 2}, "2 TMDB ids (dict, from its keys: its values are positions)"),
        ({"11": 0, "862": 1},
         "2 TMDB ids (dict, from its keys: its values are positions, as text)"),
        ({0: 11, 1: 862}, "2 TMDB ids (dict, from its values: its keys are positions)"),
        ({0: 11, 1: 862, 2: 11}, "2 TMDB ids (dict, from its values: its keys are positions)"),
        ({11: "Star Wars", 862: "Toy Story"}, "2 TMDB ids (dict, from its keys)"),
        ({11: {"title": "Star Wars"}, 862: None}, "2 TMDB ids (dict, from its keys)"),
        (pd.DataFrame({"x": [11, 862]}), "2 TMDB ids (DataFrame, from its column 'x')"),
        (pd.DataFrame({"id": [11, 862], "title": ["a", "b"]}),
         "2 TMDB ids (DataFrame, from its column 'id')"),
        (pd.DataFrame({"movieId": [1, 2], "tmdbId": [11.0, 862.0]}),
         "2 TMDB ids (DataFrame, from its column 'tmdbId', as floats)"),
    ],
    ids=lambda held: type(held).__name__ if not isinstance(held, str) else "",
)  # fmt: skip
def test_ids_are_found_in_what_apps_dump_and_where_is_said_in_one_line(
    tmp_path: Path, held: object, said: str, caplog: pytest.LogCaptureFixture
) -> None:
    joblib.dump(held, tmp_path / "ids.pkl")
    with caplog.at_level("INFO", "ml.collaborative.catalog"):
        assert read_catalog(tmp_path / "ids.pkl") == {11, 862}
    assert caplog.messages == [f"catalog {tmp_path / 'ids.pkl'}: {said}"]


@pytest.mark.parametrize(
    ("held", "said"),
    [
        ("11", "holds an object of type str: expected a list of TMDB ids"),
        (11, "type int"),
        ([], "is empty"),
        (set(), "is empty"),
        ({}, "is empty"),
        (np.array([[11]]), "holds an array of 2 dimensions"),
        (np.array(11), "holds an array of 0 dimensions"),
        ([11, 862.5], r"holds 862.5 \(float\) at position 1"),
        ([11, float("nan")], r"holds nan \(float\) at position 1"),
        ([11, float("inf")], r"holds inf \(float\) at position 1"),
        ([True], r"holds True \(bool\) at position 0"),
        ([11, None], r"holds None \(NoneType\) at position 1"),
        (pd.array([11, None], dtype="Int64"), "holds <NA>"),
        (["12e5"], "holds '12e5'"),
        (["5.0"], "holds '5.0'"),
        (["٣"], "holds '٣'"),
        (["tt0114709"], r"holds 'tt0114709' \(str\) at position 0: that is an IMDb id"),
        ([{"id": 11}], "holds {'id': 11}"),
        ([11, -3], "holds -3 at position 1: expected TMDB ids, which are above 0"),
        ([0, 1, 2], "holds 0 at position 0: these look like positions in a list, not ids"),
        ([2**53], "above 0"),
        (pd.Series([0, 1], index=["Star Wars", "Toy Story"]), "these look like positions"),
        ({0: 1, 1: 0}, "its keys are positions .* and its values are positions"),
        ({11: 1977, 862: 1995},
         r"its keys are numbers \(first 11\) and its values are numbers \(first 1977\)"),
        ({"Star Wars": 0}, "its keys are no ids but str .* and its values are positions"),
        ({"ids": [11]}, "its keys are no ids but str .* and its values are no ids but list"),
        ({0: "Star Wars"}, "its keys are positions .* and its values are no ids but str"),
        (pd.DataFrame({"id": [11], "movie_id": [862]}), r"2 id columns \(id, movie_id\)"),
        (pd.DataFrame({"title": ["a"], "year": [1995]}), r"no id columns \(title, year\)"),
        (pd.DataFrame({"id": [11, None]}), r"holds nan \(float\) at position 1"),
    ],
)  # fmt: skip
def test_anything_else_is_refused_saying_what_was_found(
    tmp_path: Path, held: object, said: str
) -> None:
    path = tmp_path / "ids.pkl"
    joblib.dump(held, path)
    with pytest.raises(InputError, match=said) as refused:
        read_catalog(path)
    assert str(refused.value).startswith(f"{path} ")


def test_a_pointer_of_git_lfs_says_how_to_fetch_the_file(tmp_path: Path) -> None:
    path = tmp_path / "ids.pkl"
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 2149\n")
    with pytest.raises(InputError, match=r"is a Git LFS pointer.*`git lfs pull`"):
        read_catalog(path)


EXPECTED = ': expected a list of TMDB ids, as joblib.dump(ids, "movie_ids.pkl") writes it'


@pytest.mark.parametrize(
    "content", [b"", b"\x80\x04\x95", b"BZh9\x00", "862\n11\n".encode("utf-16"), b"PK\x03\x04"]
)
def test_a_file_that_is_no_dump_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "ids.pkl"
    path.write_bytes(content)
    with pytest.raises(InputError) as refused:
        read_catalog(path)
    assert str(refused.value) == f"{path} is not a joblib dump{EXPECTED}"


@pytest.mark.parametrize(
    "content",
    [b"862\n11\n", b"tmdb_id,title\n862,Toy Story\n", b"catalog_id\n862\n", b"Id\n862\n",
     b"\xef\xbb\xbfid;t\r\n", b"[862, 11]", b"id,title\n862,Am\xe9lie\n"],
)  # fmt: skip
def test_text_is_called_text_and_no_words_of_the_unpickler_leak(
    tmp_path: Path, content: bytes
) -> None:
    path = tmp_path / "ids.csv"
    path.write_bytes(content)
    with pytest.raises(InputError) as refused:
        read_catalog(path)
    assert str(refused.value) == (
        f"{path} is not a joblib dump but text, as CSV and JSON are{EXPECTED}"
    )


def test_a_dump_that_needs_a_missing_package_says_which(tmp_path: Path) -> None:
    (tmp_path / "ids.pkl").write_bytes(b"\x80\x02cno_such_package\nIds\n.")
    with pytest.raises(InputError, match=r"\(ModuleNotFoundError: .*'no_such_package'\)"):
        read_catalog(tmp_path / "ids.pkl")


@pytest.mark.parametrize(
    ("catalog", "said"),
    [
        ("", "argument --catalog: '' is not a path: name a joblib dump, or all"),
        (" ", "argument --catalog: ' ' is not a path: name a joblib dump, or all"),
        ("ALL", "argument --catalog: there is no file 'ALL'; for every film say all"),
    ],
)
def test_a_catalog_that_is_no_path_is_wrong_usage(
    catalog: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["--catalog", catalog])
    assert stopped.value.code == 2
    assert f"error: {said}\n" in capsys.readouterr().err


def test_a_folder_is_no_catalog(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is a folder"):
        read_catalog(tmp_path)


def test_a_missing_catalog_says_how_to_go_on(tmp_path: Path) -> None:
    with pytest.raises(CatalogMissingError, match="--catalog all"):
        read_catalog(tmp_path / "ids.pkl")


@pytest.mark.parametrize("compress", [zipped, zlib.compress])
@pytest.mark.parametrize("behind", [b"", b"junk", b"\0" * 100, zipped(b"more")])
def test_what_follows_a_compressed_dump_is_not_read(
    tmp_path: Path, compress: Callable[[bytes], bytes], behind: bytes
) -> None:
    """joblib's own reader would never end."""
    path = tmp_path / "ids.pkl"
    path.write_bytes(compress(pickle.dumps([862, 105])) + behind)
    assert read_catalog(path) == {862, 105}


@pytest.mark.parametrize("compress", [bz2.compress, lzma.compress])
def test_streams_one_behind_another_are_one_dump(
    tmp_path: Path, compress: Callable[[bytes], bytes]
) -> None:
    """As programs write them that compress on several cores."""
    path, dump = tmp_path / "ids.pkl", pickle.dumps([862, 105])
    path.write_bytes(compress(dump[:9]) + compress(dump[9:]) + b"junk")
    assert read_catalog(path) == {862, 105}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (zipped(pickle.dumps([862]))[:-9], "its end is missing"),
        (zipped(pickle.dumps([862]))[:12], "its end is missing"),
        (zipped(pickle.dumps(bytes(3 << 20))), "more than 1 MiB, unpacked"),
        (bz2.compress(pickle.dumps([862]))[:-9], "its end is missing"),
        (lzma.compress(pickle.dumps([862]))[:-9], "its end is missing"),
        (bz2.compress(pickle.dumps(bytes(3 << 20))), "more than 1 MiB, unpacked"),
        (lzma.compress(pickle.dumps(bytes(3 << 20))), "more than 1 MiB, unpacked"),
        (lzma.compress(pickle.dumps(bytes(3 << 20)), lzma.FORMAT_ALONE), "more than 1 MiB"),
        (zipped(zipped(pickle.dumps([862])) + b"junk"), "it is compressed twice"),
        (lzma.compress(bz2.compress(pickle.dumps([862]))), "it is compressed twice"),
        (b"\x80\x04" + b"]" * 99_999 + b"a" * 99_998 + b".", "holds lists within lists"),
    ],
)
def test_a_cut_dump_and_one_that_unpacks_without_end_are_refused(
    tmp_path: Path, content: bytes, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(catalog, "MAX_BYTES", 1 << 20)
    path = tmp_path / "ids.pkl"
    path.write_bytes(content)
    with pytest.raises(InputError, match=said):
        read_catalog(path)


def test_a_dump_that_does_not_fit_into_memory_is_not_called_damaged(tmp_path: Path) -> None:
    path = tmp_path / "ids.pkl"
    path.write_bytes(b"\x80\x04\x8e" + (1 << 60).to_bytes(8, "little"))
    with pytest.raises(MemoryError, match=r"to load .* of 11 bytes"):
        read_catalog(path)
