"""The catalog: a joblib-dumped sequence of TMDB ids, and nothing else."""

from __future__ import annotations

from pathlib import Path

import joblib
import numpy as np
import pandas as pd
import pytest

from ml.collaborative.catalog import CatalogMissingError, read_catalog
from ml.collaborative.errors import InputError
from ml.download_movielens import main


@pytest.mark.parametrize(
    "held",
    [
        [11, 862, 11],
        (11, 862),
        np.array([11, 862]),
        [np.int64(11), np.int32(862)],
        pd.Series([11, 862]),
        pd.Index([11, 862]),
        range(11, 863, 851),
    ],
    ids=lambda held: type(held).__name__,
)
def test_any_sequence_of_integers_is_a_catalog(tmp_path: Path, held: object) -> None:
    joblib.dump(held, tmp_path / "ids.pkl")
    assert read_catalog(tmp_path / "ids.pkl") == {11, 862}


@pytest.mark.parametrize(
    ("held", "said"),
    [
        ({"ids": [11]}, "holds an object of type dict: expected a list of TMDB ids"),
        ("11", "type str"),
        ({11, 862}, "type set"),
        (11, "type int"),
        ([], "is empty"),
        ([11, "862"], r"holds '862' \(str\) at position 1"),
        ([11, 862.0], r"holds 862.0 \(float\) at position 1"),
        ([True], r"holds True \(bool\) at position 0"),
        ([11, None], r"holds None \(NoneType\) at position 1"),
        (np.array([1.5]), r"holds 1.5 \(float\)"),
        (pd.DataFrame({"id": [11]}), "type DataFrame"),
    ],
)
def test_anything_else_is_refused_saying_what_was_found(
    tmp_path: Path, held: object, said: str
) -> None:
    joblib.dump(held, tmp_path / "ids.pkl")
    with pytest.raises(InputError, match=said):
        read_catalog(tmp_path / "ids.pkl")


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
