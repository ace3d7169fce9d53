"""The page about a build: what it says is so, and a browser shows all of it."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from html import unescape
from pathlib import Path

import joblib
import numpy as np
import pandas as pd
import pytest
from playwright.sync_api import Browser, sync_playwright
from postgrest_server import SupabaseServer

from ml.collaborative.algorithms.svd import fit_svd, predict_pairs
from ml.collaborative.algorithms.training import ALGORITHMS, PLAN, make_training
from ml.collaborative.datasets.sample import sample_ratings
from ml.collaborative.evaluation import metrics
from ml.collaborative.evaluation.held_out import hold_out
from ml.collaborative.ratings import make_ratings, table_hash
from ml.collaborative.release import ReleaseStore, read_manifest
from ml.collaborative.report import page as report
from ml.collaborative.serving import load_collaborative
from ml.collaborative.trainset import make_trainset

Run = Callable[..., subprocess.CompletedProcess[str]]
HOSTILE = "</script><script>alert(1)</script><b>Bold & 'quoted' (1999)"
FLAGS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-component-update", "--disable-background-networking",
]  # fmt: skip


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """A headless Chromium: the system's, or the one that `playwright install chromium` brings."""
    names = "chromium", "chromium-browser", "google-chrome", "google-chrome-stable"
    with sync_playwright() as playwright:
        own = playwright.chromium.executable_path
        path = next(filter(None, map(shutil.which, names)), own)
        if not Path(path).exists():
            pytest.skip("no Chromium here: install one, or run `playwright install chromium`")
        browser = playwright.chromium.launch(executable_path=path, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture(scope="module", params=["real", "changed", "hostile"])
def page_path(
    request: pytest.FixtureRequest, run: Run, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A build's report: of real data, of a second build, of somebody's own set."""
    folder = tmp_path_factory.mktemp(request.param)
    args: list[str | Path] = ["--report", "--models-dir", folder, "--data-dir", folder]
    env = {}
    if request.param == "real":
        args += ["--catalog", "all"]
        env["MOVIELENS_BASE_URL"] = str(request.getfixturevalue("movielens_archives"))
    elif request.param == "changed":
        args += ["--dataset", "sample"]
        run("ml.build_collaborative", *args, "--epochs", "5")
    else:
        own_set(folder)
        args += ["--dataset", "ml-latest", "--catalog", "all", "--algorithm", "bayesian"]
        args.append("--force-publish")  # random stars
    done = run("ml.build_collaborative", *args, **env)
    assert done.returncode == 0, done.stderr
    return folder / "report.html"


def facts_of(folder: Path) -> dict[str, object]:
    return report.describe_facts(read_manifest(ReleaseStore(folder).live_folder()))


def text_of(folder: Path) -> str:
    """What the page says, tags left out."""
    page = (folder / "report.html").read_text(encoding="utf-8")
    return unescape(
        re.sub(r"\s+", " ", re.sub(r"<(style|script).*?</\1>|<[^>]*>", " ", page, flags=re.S))
    )


def own_set(folder: Path) -> None:
    """Somebody's own ratings in the layout of ml-latest: half stars, titles that could do harm."""
    rng = np.random.default_rng(0)
    rows = [
        f"{user},{film},{rng.integers(1, 11) / 2},{user}"
        for user in range(1, 31)
        for film in rng.permutation(40)[:15] + 1
    ]
    (folder / "ml-latest").mkdir(parents=True)
    for name, lines in {
        "ratings.csv": ["userId,movieId,rating,timestamp", *rows],
        "links.csv": [
            "movieId,imdbId,tmdbId",
            *(f"{n},{n},{n + 100}" for n in range(1, 40)),
            "40,40,",
        ],
        "movies.csv": [
            "movieId,title,genres",
            *(f'{n},"{HOSTILE} {"very " * 30}{"long" * 30} {n}",Drama' for n in range(1, 41)),
        ],
    }.items():
        (folder / "ml-latest" / name).write_text("\n".join(lines) + "\n", encoding="utf-8")


def test_the_reports_numbers_are_those_of_the_real_data(
    run: Run, tmp_path: Path, movielens_archives: Path, real_ratings: pd.DataFrame
) -> None:
    films = sorted(real_ratings["movie_id"].unique().tolist())
    joblib.dump([*films[:1000], 27205], tmp_path / "catalog.pkl")
    done = run(
        "ml.build_collaborative", "--catalog", tmp_path / "catalog.pkl", "--report", "--data-dir",
        tmp_path / "data", "--models-dir", tmp_path, MOVIELENS_BASE_URL=str(movielens_archives),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    facts, text = facts_of(tmp_path), text_of(tmp_path)
    table = real_ratings[real_ratings["movie_id"].isin(films[:1000])]
    assert facts["ratings of MovieLens loaded"] == 100_000
    assert facts["left out: the film has no TMDB id"] == 46
    assert facts["ratings"] == len(real_ratings) == facts["ratings of MovieLens"]
    assert facts["ratings of the app"] == facts["users of the app"] == 0
    assert (facts["films in the catalog"], facts["films in the catalog with ratings"]) == (
        1001,
        1000,
    )
    assert facts["ratings SHA-256"] == table_hash(real_ratings)
    assert 0.84 < facts["RMSE held out"] < 0.89  # of the Bayesian model
    assert "1 of the catalog's films: the model knows nothing of them. TMDB 27205" in text
    assert "17 films of ml-100k have no TMDB id" in text
    assert "Star Wars (1977) 583" in text
    model = load_collaborative(tmp_path)
    shown = re.findall(r"(ml_\d+), (\d+) ratings", text)
    assert len(shown) == 3
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    for user, count in shown:
        own = table[table["user_id"] == user]
        assert len(own) == int(count)
        card = page.split(f"{user}, ")[1].split("<details>")[0]
        listed = re.findall(r"movie/(\d+)\".*?number\">([\d.]+)<", card)
        assert len(listed) == 10
        assert not set(own["movie_id"]) & {int(film) for film, _ in listed}
        served = model.recommend(user)
        assert [int(film) for film, _ in listed] == [film.movie_id for film in served]
        for (_, stars), film in zip(listed, served, strict=True):
            assert float(stars) == pytest.approx(film.stars, abs=0.0051)
    assert "NDCG@10 of its lists on it" in text


def test_the_report_says_what_changed_and_goes_with_its_model(run: Run, tmp_path: Path) -> None:
    def build(*args: str) -> None:
        done = run("ml.build_collaborative", "--dataset", "sample", "--models-dir", tmp_path, *args)
        assert done.returncode == 0, done.stderr

    build("--report", "--algorithm", "svd")
    assert "no earlier release" in text_of(tmp_path)
    build("--report", "--algorithm", "svd")
    assert "Nothing: the same data, parameters, versions and measures" in text_of(tmp_path)
    first = facts_of(tmp_path)
    build("--report", "--epochs", "5", "--force-publish")
    text = text_of(tmp_path)
    second = facts_of(tmp_path)
    assert "epochs 20 5" in text
    assert f"RMSE held out {first['RMSE held out']:.4g} {second['RMSE held out']:.4g}" in text
    assert "SVD as asked for" in text
    build("--algorithm", "svd")
    assert not (tmp_path / "report.html").is_symlink()
    build("--report", "--epochs", "5", "--force-publish")
    assert "epochs 20 5" in text_of(tmp_path)  # against the release before, though it has no page


def test_titles_are_text_and_app_users_are_never_in_the_report(
    run: Run, tmp_path: Path, supabase_server: SupabaseServer
) -> None:
    own_set(tmp_path)
    people = [f"person-{n}@example.org" for n in range(12)]
    supabase_server.insert([(p, film, 3.5) for p in people for film in range(101, 121)])
    done = run(
        "ml.build_collaborative", "--dataset", "ml-latest", "--catalog", "all", "--report",
        "--force-publish", "--algorithm", "bayesian",
        "--data-dir", tmp_path, "--models-dir", tmp_path,
        SUPABASE_URL=supabase_server.url, SUPABASE_SERVICE_ROLE_KEY=supabase_server.service_key,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "example.org" not in page
    assert "<b>Bold" not in page
    assert "<script" not in page
    facts = facts_of(tmp_path)
    assert (facts["ratings of the app"], facts["users of the app"]) == (240, 12)
    assert facts["scale"] == "0.5 to 5 stars"
    assert "epochs" not in facts  # the sampler has none
    text = text_of(tmp_path)
    assert HOSTILE in text
    assert "Bayesian, app users" in text


def test_without_titles_films_go_by_their_ids(run: Run, tmp_path: Path) -> None:
    own_set(tmp_path)
    (tmp_path / "ml-latest" / "movies.csv").unlink()
    done = run(
        "ml.build_collaborative", "--dataset", "ml-latest", "--report", "--catalog", "all",
        "--force-publish", "--data-dir", tmp_path, "--models-dir", tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "movies.csv is missing" in done.stderr
    assert "TMDB 101" in text_of(tmp_path)


def test_a_report_without_a_ranking(run: Run, tmp_path: Path) -> None:
    """Nobody likes anything: no ranking can be measured."""
    own_set(tmp_path)
    ratings = tmp_path / "ml-latest" / "ratings.csv"
    lines = ratings.read_text(encoding="utf-8").splitlines()
    low = [
        re.sub(r",[\d.]+,(\d+)$", lambda m: f",{1 + int(m[1]) % 3},{m[1]}", line) for line in lines
    ]
    ratings.write_text("\n".join(low) + "\n", encoding="utf-8")
    done = run(
        "ml.build_collaborative", "--dataset", "ml-latest", "--report", "--catalog", "all",
        "--force-publish", "--data-dir", tmp_path, "--models-dir", tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    text = text_of(tmp_path)
    assert "Rankings." not in text


@pytest.mark.parametrize("algorithm", ["svd", "bayesian"])
def test_what_is_held_out_is_scored_by_the_very_predictions_shown(algorithm: str) -> None:
    table = sample_ratings().head(3000)
    found = hold_out(table, [make_training(ALGORITHMS[algorithm], 3)])
    errors = found.predictions - found.ratings
    assert 550 < len(errors) < 650
    assert found.scores[0].measures.rmse == pytest.approx(metrics.rmse(errors), abs=1e-12)
    assert not found.of_app.any()
    if algorithm == "svd":
        assert [len(curve) for curve in found.curves] == [PLAN.epochs]
        assert found.curves[0][-1] == pytest.approx(found.known_rmse, abs=1e-12)
    else:
        assert [len(curve) for curve in found.curves] == [40] * 4
        ends = [curve[-1] for curve in found.curves]
        assert found.known_rmse < min(ends)  # several chains beat each of them


@pytest.mark.parametrize("parallel", [False, True])
def test_watching_changes_nothing_and_sees_the_model_of_each_epoch(*, parallel: bool) -> None:
    trainset = make_trainset(sample_ratings().head(3000))
    users, items = np.array([0, 5, 1]), np.array([3, 0, 4])
    settings = {"factors": 4, "lr": 0.01, "reg": 0.02, "seed": 1, "parallel": parallel}
    seen: list[np.ndarray] = []
    watched = fit_svd(
        trainset, epochs=3, watch=lambda _, predict: seen.append(predict(users, items)), **settings
    )
    for epochs, found in enumerate(seen, start=1):
        alone = fit_svd(trainset, epochs=epochs, **settings)
        assert np.array_equal(found, predict_pairs(alone, users, items))
    assert np.array_equal(watched.qi, alone.qi)


def test_the_mean_of_the_watched_samples_is_the_bayesian_model() -> None:
    table = sample_ratings().head(3000)
    trainset = make_trainset(table)
    users, items = trainset.find(table)[0][:500], trainset.find(table)[1][:500]
    seen: list[np.ndarray] = []
    training = make_training(ALGORITHMS["bayesian"], factors=400)
    model = training.fit(trainset, lambda _, predict: seen.append(predict(users, items)))
    assert len(seen) == 160
    assert np.mean(seen, axis=0).clip(1, 5) == pytest.approx(
        predict_pairs(model, users, items), abs=1e-3
    )


def test_a_tables_hash_is_of_its_content_and_order_alone() -> None:
    table = make_ratings(["b", "a", "b"], [1, 1, 2], [3, 4, 5])
    hashed = table_hash(table)
    other = pd.concat([make_ratings(["zz"], [9], [1]), table])  # other categories, other index
    assert table_hash(other.iloc[1:]) == hashed
    for changed in (
        table.iloc[::-1],
        table.assign(movie_id=[1, 1, 3]),
        table.assign(rating=[3, 4, 4.5]),
        make_ratings(["b", "c", "b"], [1, 1, 2], [3, 4, 5]),
    ):
        assert table_hash(changed) != hashed


@pytest.mark.slow
@pytest.mark.xdist_group("browser")
@pytest.mark.parametrize("width", [320, 390, 1280])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_browser_shows_the_page_without_errors_or_overflow(
    browser: Browser, page_path: Path, width: int, scheme: str
) -> None:
    page = browser.new_page(viewport={"width": width, "height": 800}, color_scheme=scheme)
    said: list[str] = []
    asked: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("dialog", lambda dialog: said.append(dialog.message))
    page.on("request", lambda request: asked.append(request.url))
    page.goto(page_path.as_uri())
    for details in page.query_selector_all("details"):
        details.evaluate("element => { element.open = true }")
    assert said == []
    assert asked == [page_path.as_uri()]  # nothing else is fetched
    assert page.evaluate("document.documentElement.scrollWidth") == width
    assert page.evaluate(OUTSIDE) == []
    assert page.locator("figure svg").count() == 6
    assert page.evaluate(SMALLEST_LETTERS) >= 8.5
    assert page.evaluate(LEAST_CONTRAST) >= 4.5
    page.close()


OUTSIDE = """() => {
  const out = [];
  const inside = (box, frame) => box.left >= frame.left - 1 && box.right <= frame.right + 1
    && box.top >= frame.top - 1 && box.bottom <= frame.bottom + 1;
  for (const svg of document.querySelectorAll('figure svg'))
    for (const text of svg.querySelectorAll('text'))
      if (!inside(text.getBoundingClientRect(), svg.getBoundingClientRect()))
        out.push(text.textContent);
  for (const card of document.querySelectorAll('.tiles div, .card, figure, details'))
    if (card.scrollWidth > card.clientWidth) out.push(card.textContent);
  return out;
}"""
"""Labels that stand out of their chart, and boxes with more in them than fits."""

SMALLEST_LETTERS = """() => Math.min(
  ...[...document.querySelectorAll('figure svg text')].map(text => {
    const placed = text.getScreenCTM();
    return parseFloat(getComputedStyle(text).fontSize) * Math.hypot(placed.a, placed.b);
  }))"""
"""Height of the charts' letters in pixels."""

LEAST_CONTRAST = """() => {
  const luminance = colour => {
    const parts = colour.match(/[\\d.]+/g).slice(0, 3).map(part => part / 255)
      .map(part => part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4);
    return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2];
  };
  const behind = element => {
    for (let node = element; node; node = node.parentElement) {
      const colour = getComputedStyle(node).backgroundColor;
      if (!colour.endsWith(', 0)')) return colour;
    }
  };
  return Math.min(...[...document.querySelectorAll('body *')]
    .filter(element => [...element.childNodes].some(node => node.nodeType == 3 && node.data.trim()))
    .filter(element => element.tagName != 'SCRIPT' && element.tagName != 'STYLE'
      && element.tagName != 'style')
    .map(element => {
      const style = getComputedStyle(element);
      const pair = [element.tagName == 'text' ? style.fill : style.color, behind(element)];
      const [dark, light] = pair.map(luminance).sort((a, b) => a - b);
      return (light + 0.05) / (dark + 0.05);
    }));
}"""
"""Of any text with what is behind it, as WCAG 2 defines it; 4.5 is its level AA."""
