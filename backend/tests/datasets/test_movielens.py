"""MovieLens under TMDB ids: the counts of the real sets, duplicates, the catalog."""

from __future__ import annotations

import csv
import logging
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import joblib
import pytest

from ml.collaborative.datasets import film_ids, movielens, sample
from ml.collaborative.datasets.registry import DATASETS
from ml.collaborative.errors import InputError
from ml.collaborative.ratings import sources_of
from ml.download_movielens import download_movielens_100k, load_movielens_ratings_with_tmdb_mapping

Run = Callable[..., subprocess.CompletedProcess[str]]
DTYPES = {"user_id": "category", "movie_id": "int64", "rating": "float64"}


@pytest.fixture(scope="module")
def real_data(movielens_archives: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder with ML-100K and ml-latest-small, extracted from the real archives."""
    folder = tmp_path_factory.mktemp("data")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MOVIELENS_BASE_URL", str(movielens_archives))
        movielens.fetch("ml-100k", folder)
        movielens.fetch("ml-latest-small", folder)
    return folder


def write_csv_set(folder: Path, ratings: str, links: str) -> None:
    """A set in the layout of ml-latest, somebody's own."""
    (folder / "ml-latest").mkdir()
    (folder / "ml-latest" / "ratings.csv").write_text(
        f"userId,movieId,rating,timestamp\n{ratings}", encoding="utf-8"
    )
    (folder / "ml-latest" / "links.csv").write_text(
        f"movieId,imdbId,tmdbId\n{links}", encoding="utf-8"
    )


def test_ml_100k_keeps_99645_ratings_of_943_users_on_1645_films(real_data: Path) -> None:
    mapped = movielens.load("ml-100k", real_data, None)
    table = mapped.ratings
    assert (mapped.loaded, mapped.mapped, mapped.in_catalog) == (100_000, 99_954, 99_954)
    assert len(table) == 99_645
    assert (table["user_id"].nunique(), table["movie_id"].nunique()) == (943, 1645)
    assert table.dtypes.astype(str).to_dict() == DTYPES
    assert table["user_id"].str.fullmatch(r"ml_\d+").all()
    assert not table.duplicated(["user_id", "movie_id"]).any()
    # User 196 gave item 242 (Kolya) a 3: the first line of u.data.
    assert table.iloc[0].tolist() == ["ml_196", 784, 3.0]


def test_of_two_ratings_of_a_film_the_latest_stays(real_data: Path) -> None:
    """Items 268 and 246 are both Chasing Amy: whoever rated both keeps the later one."""
    with (real_data / "ml-100k" / "u.data").open(encoding="ascii") as file:
        rows = [tuple(map(int, line.split("\t"))) for line in file]
    both: dict[int, list[tuple[int, int]]] = {}
    for user, item, stars, time in rows:
        if item in (246, 268):
            both.setdefault(user, []).append((time, stars))
    latest = {
        f"ml_{user}": max(pairs)[1]
        for user, pairs in both.items()
        if len(pairs) == 2 and pairs[0][0] != pairs[1][0]
    }
    table = movielens.load("ml-100k", real_data, None).ratings
    amy = table[table["movie_id"] == 2255].set_index("user_id")["rating"]
    assert len(latest) > 20
    assert amy[list(latest)].to_dict() == latest


def test_the_lookup_tells_what_became_of_every_film(real_data: Path) -> None:
    movielens.load("ml-100k", real_data, None)
    with (real_data / "ml-100k-tmdb.csv").open(encoding="utf-8", newline="") as file:
        rows = {int(row["item_id"]): row for row in csv.DictReader(file)}
    assert len(rows) == 1682
    assert list(rows[1].values()) == ["1", "Toy Story (1995)", "862", "links"]
    assert list(rows[267].values()) == ["267", "unknown", "", "table"]
    assert list(rows[296].values()) == ["296", "Promesse, La (1996)", "24183", "override"]
    assert rows[543]["title"] == "Misérables, Les (1995)"
    assert sum(row["tmdb_id"] != "" for row in rows.values()) == 1665


def test_a_lookup_that_cannot_be_written_is_only_a_warning(
    real_data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shutil.copytree(real_data, tmp_path, dirs_exist_ok=True)
    (tmp_path / "ml-100k-tmdb.csv").unlink(missing_ok=True)
    (tmp_path / "ml-100k-tmdb.csv").mkdir()
    assert len(movielens.load("ml-100k", tmp_path, None).ratings) == 99_645
    assert "ml-100k-tmdb.csv could not be written" in caplog.text


def test_a_catalog_keeps_its_films_only(real_data: Path) -> None:
    mapped = movielens.load("ml-100k", real_data, frozenset({11, 862, 999_999_999}))
    assert set(mapped.ratings["movie_id"]) == {11, 862}
    assert (mapped.in_catalog, len(mapped.ratings)) == (583 + 452, 583 + 452)
    line = movielens.describe(mapped.ratings, mapped.catalog)[-1]
    assert line == "2 of the catalog's 3 films have ratings (66.7%)"
    (source,) = sources_of(mapped.ratings)
    assert (source.name, source.rows, source.kept) == ("ml-100k", 100_000, 583 + 452)
    assert source.dropped == {
        "the film has no TMDB id": 46,
        "the film is not in the catalog": 99_954 - 583 - 452,
    }


def test_a_line_says_how_much_of_the_catalog_has_ratings(real_data: Path) -> None:
    mapped = movielens.load("ml-100k", real_data, frozenset({11, 1, 2, 3}))
    lines = movielens.describe(mapped.ratings, mapped.catalog)
    assert lines[-1] == "1 of the catalog's 4 films have ratings (25.0%)"


def test_a_catalog_of_none_of_the_films_gives_an_empty_table(real_data: Path) -> None:
    mapped = movielens.load("ml-100k", real_data, frozenset({999_999_999}))
    assert len(mapped.ratings) == 0
    assert mapped.ratings.dtypes.astype(str).to_dict() == DTYPES
    assert movielens.describe(mapped.ratings, mapped.catalog)[0].endswith(
        "mapped 99,954 to TMDB, 0 in catalog"
    )


def test_ml_latest_small_joins_straight_in_half_stars(real_data: Path) -> None:
    mapped = movielens.load("ml-latest-small", real_data, None)
    table = mapped.ratings
    assert mapped.loaded == 100_836
    assert (mapped.mapped, len(table)) == (100_823, 100_822)
    assert (table["rating"].min(), table["user_id"].nunique()) == (0.5, 610)
    # User 1 gave movie 1 (Toy Story) a 4: the first line of ratings.csv.
    assert table.iloc[0].tolist() == ["ml_1", 862, 4.0]


def test_of_two_movie_ids_with_one_tmdb_id_the_latest_rating_stays(tmp_path: Path) -> None:
    write_csv_set(
        tmp_path,
        "1,900007,2.0,100\n1,900008,4.5,50\n1,900009,1,1\n",
        "900007,1,70\n900008,2,70\n900009,3,\n",
    )
    mapped = movielens.load("ml-latest", tmp_path, None)
    assert mapped.ratings.values.tolist() == [["ml_1", 70, 2.0]]
    assert (mapped.loaded, mapped.mapped) == (3, 2)


def test_lines_with_a_value_too_many_do_not_shift_the_columns(tmp_path: Path) -> None:
    write_csv_set(tmp_path, "1,900007,2.0,100,\n", "900007,1,70,\n900008,2,80,\n")
    table = movielens.load("ml-latest", tmp_path, None).ratings
    assert table.values.tolist() == [["ml_1", 70, 2.0]]


@pytest.mark.parametrize(
    ("ratings", "links", "said"),
    [
        ("1,7,9.0,100\n", "7,1,70\n", "1 ratings are outside 0.5 to 5, the first of them 9.0"),
        ("1,7,,100\n", "7,1,70\n", "1 ratings are outside 0.5 to 5, the first of them nan"),
        ("1,7,4.0,100\n", "7,1,70.5\n", "links.csv has unexpected content"),
        (
            "1,7,4.0,100\n",
            "7,1,99999999999999999999\n",
            "links.csv has unexpected content",
        ),
        (
            "99999999999999999999,7,4.0,1\n",
            "7,1,7\n",
            "ratings.csv has unexpected content",
        ),
        ("1,7,good,100\n", "7,1,70\n", "ratings.csv has unexpected content"),
        ("1,7\n", "7,1,70\n", "ratings.csv has unexpected content"),
        ("1,7,4.0,100\n", "7,1,seventy\n", "links.csv has unexpected content"),
    ],
)
def test_a_file_that_holds_something_else_is_an_input_error(
    tmp_path: Path, ratings: str, links: str, said: str
) -> None:
    write_csv_set(tmp_path, ratings, links)
    with pytest.raises(InputError, match=said):
        movielens.load("ml-latest", tmp_path, None)


def test_the_plans_function_gives_the_same_table(real_data: Path, tmp_path: Path) -> None:
    catalog = tmp_path / "movie_ids.pkl"
    joblib.dump([11, 862], catalog)
    table = load_movielens_ratings_with_tmdb_mapping(str(real_data), catalog=catalog)
    assert len(table) == 583 + 452
    assert len(load_movielens_ratings_with_tmdb_mapping(str(real_data), catalog="all")) == 99_645


def test_the_plans_download_gives_the_folder_of_ml_100k(
    movielens_archives: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MOVIELENS_BASE_URL", str(movielens_archives))
    folder = download_movielens_100k(str(tmp_path))
    assert folder == str(tmp_path / "ml-100k")
    assert {path.name for path in Path(folder).iterdir()} == {"u.data", "u.item"}
    assert (tmp_path / "links.csv").is_file()


def test_a_base_folder_that_does_not_exist_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MOVIELENS_BASE_URL", "~nobody-of-that-name/movielens")
    with pytest.raises(InputError, match="there is no such folder"):
        download_movielens_100k(str(tmp_path))


def test_a_missing_catalog_warns_and_gives_an_empty_table(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, logger="ml"):
        table = load_movielens_ratings_with_tmdb_mapping(
            str(tmp_path), catalog=tmp_path / "none.pkl"
        )
    assert table.dtypes.astype(str).to_dict() == DTYPES
    assert len(table) == 0
    assert "no catalog at" in caplog.text
    assert "--catalog all" in caplog.text
    assert list(tmp_path.iterdir()) == []


def test_every_set_is_pinned_or_has_a_header_to_check() -> None:
    for files in DATASETS.values():
        assert all(file.sha256 or file.header for file in files)


def test_ml_100k_without_links_has_the_same_films(
    real_data: Path, tmp_path: Path, movielens_archives: Path, run: Run
) -> None:
    """GroupLens is down: ML-100K is there, links.csv is not, or it is damaged."""
    shutil.copy(movielens_archives / "ml-100k.zip", tmp_path)
    (tmp_path / "links.csv").write_text("damaged", encoding="utf-8")
    done = run("ml.download_movielens", "--catalog", "all", "--data-dir", tmp_path)
    assert done.returncode == 0, done.stderr
    assert "going on without links.csv" in done.stderr
    assert not (tmp_path / "links.csv").exists()
    with (tmp_path / "ml-100k-tmdb.csv").open(encoding="utf-8", newline="") as file:
        without = {row["item_id"]: row["tmdb_id"] for row in csv.DictReader(file)}
    movielens.load("ml-100k", real_data, None)
    with (real_data / "ml-100k-tmdb.csv").open(encoding="utf-8", newline="") as file:
        assert {row["item_id"]: row["tmdb_id"] for row in csv.DictReader(file)} == without


POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 4924029\n"
LFS = r"is a Git LFS pointer, not the file itself: fetch it with `git lfs pull`"


@pytest.mark.parametrize("name", ["ratings.csv", "links.csv", "movies.csv"])
def test_a_pointer_of_git_lfs_says_how_to_fetch_the_file(
    tmp_path: Path, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    write_csv_set(tmp_path, "1,7,4.0,100\n", "7,1,70\n")
    path = tmp_path / "ml-latest" / name
    path.write_text(POINTER)
    if name == "movies.csv":
        assert movielens.read_titles("ml-latest", tmp_path) == {}
        assert LFS in caplog.text
        return
    with pytest.raises(InputError, match=f"^{path} {LFS}"):
        movielens._read("ml-latest", tmp_path)


@pytest.mark.parametrize("module", ["film_ids", "sample"])
def test_the_packages_own_tables_can_be_pointers_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: str
) -> None:
    """As in an app that keeps every CSV file in Git LFS."""
    pointer = tmp_path / "table.csv"
    pointer.write_text(POINTER)
    monkeypatch.setattr(film_ids, "ID_TABLE", pointer)
    monkeypatch.setattr(sample, "_FILMS_CSV", pointer)
    with pytest.raises(InputError, match=f"^{pointer} {LFS}"):
        film_ids.read_id_table() if module == "film_ids" else sample.films()


@pytest.mark.parametrize("content", ["", "1\n", "one|Toy Story\n", POINTER])
def test_titles_of_ml_100k_that_cannot_be_read_are_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, content: str
) -> None:
    (tmp_path / "ml-100k").mkdir()
    (tmp_path / "ml-100k" / "u.item").write_text(content)
    assert movielens.read_titles("ml-100k", tmp_path) == {}
    assert ("u.item" in caplog.text) == bool(content)


@pytest.mark.parametrize("content", ["movieId,imdbId,tmdbId\n1,2,many\n", "\xff", POINTER])
def test_links_that_ml_100k_can_do_without_are_a_warning(
    real_data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, content: str
) -> None:
    (tmp_path / "links.csv").write_text(content, encoding="latin-1")
    films = movielens.read_ml_100k_films(tmp_path)
    assert films["tmdb_id"].notna().sum() == 1_665
    assert (
        f"going on without links.csv, which is optional: {tmp_path / 'links.csv'} " in caplog.text
    )


def test_an_error_on_content_names_the_file_and_says_what_to_do(tmp_path: Path) -> None:
    write_csv_set(tmp_path, "1,7,6.0,100\n", "7,1,70\n")
    path = tmp_path / "ml-latest" / "ratings.csv"
    said = f"^{path} has unexpected content: 1 ratings are .*Put the right file there, or delete it"
    with pytest.raises(InputError, match=said):
        movielens.load("ml-latest", tmp_path, None)
