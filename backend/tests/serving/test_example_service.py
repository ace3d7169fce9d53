"""The example service as a process: fresh for every user, through releases that come and go."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import joblib
import numpy as np
import pytest
from surprise import SVD, Trainset

from benchmarks.load import flip, run_load
from benchmarks.service_load import (
    LONG,
    Publisher,
    Ranking,
    Service,
    as_ranking,
    expect,
    make_users,
    same,
    serve,
    wait_until,
    weight_of,
)
from examples import fusion_service
from examples.fusion_service import catalog, content_scores
from ml.build_collaborative import save_models, train_svd_model
from ml.collaborative.datasets.sample import sample_ratings
from ml.collaborative.release import ReleaseStore
from ml.collaborative.serving.model import CollaborativeModel, load_collaborative
from ml.collaborative.serving.snapshot import FoldedUser

ALL = len(catalog)


@pytest.fixture(scope="module")
def bases() -> list[tuple[SVD, Trainset]]:
    """Two small models of the sample, and what they were trained on."""
    return [train_svd_model(sample_ratings(), factors=5, epochs=3, seed=seed) for seed in (0, 1)]


@pytest.fixture(scope="module")
def models(bases: list[tuple[SVD, Trainset]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A models folder with a release."""
    folder = tmp_path_factory.mktemp("models")
    save_models(*bases[0], str(folder))
    return folder


@pytest.fixture(scope="module")
def model(models: Path) -> CollaborativeModel:
    return load_collaborative(models)


@pytest.fixture(scope="module")
def service(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service that has it."""
    with serve(models, tmp_path_factory.mktemp("log") / "log") as service:
        service.wait_for(ReleaseStore(models).live_id() or "")
        yield service


def put(service: Service, user: str, rated: dict[int, float]) -> None:
    for film, stars in rated.items():
        assert service.rate(user, film, stars) == 200


def draw(model: CollaborativeModel, n: int) -> dict[int, float]:
    """Ratings of films that are in the catalog and in the model."""
    films = catalog[model.knows_movies(catalog)][:n].tolist()
    return {film: 1.0 + film % 9 / 2 for film in films}


def as_dict(ranking: Ranking) -> dict[int, float]:
    return dict(zip(ranking.films.tolist(), ranking.scores.tolist(), strict=True))


# Users


def test_a_user_without_ratings_gets_the_content_order(service: Service) -> None:
    found = service.recommend("nobody", ALL)
    assert found.films.tolist() == catalog[np.argsort(-content_scores)].tolist()
    assert same(found, expect(None, {}, ALL))


def test_five_ratings_after_signing_up_bring_collaborative_scores(
    service: Service, model: CollaborativeModel
) -> None:
    ratings = draw(model, 5)
    last = list(ratings)[-1]
    put(service, "new", {film: ratings[film] for film in list(ratings)[:-1]})
    assert same(service.recommend("new", ALL), expect(None, dict(list(ratings.items())[:-1]), ALL))
    put(service, "new", {last: ratings[last]})
    found = service.recommend("new", ALL)
    assert same(found, expect(model, ratings, ALL))
    assert not same(found, expect(None, ratings, ALL))


@pytest.mark.parametrize(
    ("rated", "weight"), [(4, 0), (5, 0.075), (10, 0.15), (19, 0.285), (20, 0.7), (30, 0.7)]
)
def test_every_score_is_the_formulas(
    service: Service, model: CollaborativeModel, rated: int, weight: float
) -> None:
    ratings = draw(model, rated)
    put(service, f"rater-{rated}", ratings)
    found = as_dict(service.recommend(f"rater-{rated}", ALL))
    assert found.keys() == set(catalog.tolist()) - ratings.keys()
    folded = model.fold_in(ratings)
    for film, content in zip(catalog.tolist(), content_scores.tolist(), strict=True):
        if film in ratings:
            continue
        expected = content
        if model.knows_movie(film):
            (score,) = model.scores(folded, [film]).tolist()
            expected = (1 - weight) * content + weight * score
        assert found[film] == pytest.approx(expected, abs=1e-9)
    assert list(found.values()) == sorted(found.values(), reverse=True)
    assert weight_of(rated) == pytest.approx(weight)


def test_a_film_that_the_model_does_not_know_keeps_its_content_score(
    service: Service, model: CollaborativeModel
) -> None:
    ratings = draw(model, 25)
    put(service, "expert", ratings)
    found = as_dict(service.recommend("expert", ALL))
    unknown = ~model.knows_movies(catalog)
    expected = zip(catalog[unknown].tolist(), content_scores[unknown].tolist(), strict=True)
    assert all(found[film] == score for film, score in expected)


def test_a_rated_film_is_left_out_however_many_are_asked_for(service: Service) -> None:
    best = catalog[np.argsort(-content_scores)][:3].tolist()
    put(service, "seen", dict.fromkeys(best[:2], 4.0))
    assert service.recommend("seen", 1).films.tolist() == best[2:]
    assert len(service.recommend("seen", 2 * ALL).films) == ALL - 2


def test_a_new_rating_of_a_film_takes_the_old_ones_place(
    service: Service, model: CollaborativeModel
) -> None:
    ratings = draw(model, 6)
    put(service, "changes", dict.fromkeys(ratings, 1.0))
    put(service, "changes", ratings)
    assert same(service.recommend("changes", ALL), expect(model, ratings, ALL))


def test_a_rating_that_comes_in_while_a_ranking_is_made_waits_for_the_next(
    model: CollaborativeModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    ratings = draw(model, 7)
    *early, late = ratings

    class Slow:
        def fold_in(self, rated: dict[int, float]) -> FoldedUser:
            fusion_service.rate("user", late, ratings[late])
            return model.fold_in(rated)

        scores = staticmethod(model.scores)

    monkeypatch.setattr(fusion_service, "releases", SimpleNamespace(model=Slow()))
    monkeypatch.setattr(
        fusion_service, "ratings", {"user": {film: ratings[film] for film in early}}
    )
    for rated in ({film: ratings[film] for film in early}, ratings):
        found = as_ranking(fusion_service.recommend("user", ALL))
        assert same(found, expect(model, rated, ALL))


@pytest.mark.parametrize("stars", ["0", "0.49", "5.01", "-1", "nan", "inf", "many", ""])
def test_invalid_stars_are_refused(service: Service, stars: str) -> None:
    status, _ = service.get(f"/users/wrong/ratings/11?stars={stars}", "PUT")
    assert status == 422
    assert 11 in service.recommend("wrong", ALL).films


@pytest.mark.parametrize("film", ["0", "-1", "one", str(10**30)])
def test_an_invalid_film_id_is_refused(service: Service, film: str) -> None:
    assert service.get(f"/users/wrong/ratings/{film}?stars=4", "PUT")[0] == 422


@pytest.mark.parametrize("n", ["0", "-1", "all"])
def test_an_invalid_number_of_films_is_refused(service: Service, n: str) -> None:
    assert service.get(f"/users/nobody/recommendations?n={n}")[0] == 422


def test_film_ids_are_integers_in_the_answer(service: Service) -> None:
    _, found = service.get("/users/nobody/recommendations")
    assert {type(film["movie_id"]) for film in found} == {int}
    assert {type(film["score"]) for film in found} == {float}


# Releases


def test_a_service_started_before_the_first_release_picks_it_up(
    bases: list[tuple[SVD, Trainset]], tmp_path: Path
) -> None:
    models = tmp_path / "models"
    with serve(models, tmp_path / "log") as service:
        assert service.release() is None
        ratings = {film: 4.0 for film, _ in zip(bases[0][1].raw_items(), range(20), strict=False)}
        put(service, "early", ratings)
        assert same(service.recommend("early", ALL), expect(None, ratings, ALL))
        for svd, trainset in bases:
            folder = ReleaseStore(models).publish(svd, trainset)
            service.wait_for(folder.name)
            expected = expect(load_collaborative(folder), ratings, ALL)
            assert same(service.recommend("early", ALL), expected)
        build_id, _ = ReleaseStore(models).roll_back("")
        service.wait_for(build_id)


def test_a_damaged_release_leaves_the_old_one_serving_and_a_warning(
    bases: list[tuple[SVD, Trainset]], tmp_path: Path
) -> None:
    models, ratings = tmp_path / "models", dict.fromkeys(bases[0][1].raw_items()[:20], 5.0)
    second = ReleaseStore(models).publish(*bases[1])
    first = ReleaseStore(models).publish(*bases[0])
    damaged = second / "arrays" / "qi.npy"
    content = damaged.read_bytes()
    damaged.write_bytes(content[:-8] + bytes(byte ^ 255 for byte in content[-8:]))
    with serve(models, tmp_path / "log") as service:
        service.wait_for(first.name)
        put(service, "user", ratings)
        before = service.recommend("user", ALL)
        (models / "live").write_text(f"{second.name}\n", encoding="utf-8")
        warning = f"{damaged} is not the file that was published"
        wait_until(lambda: service.get("/health")[0] == 503, "health to tell of it")
        assert warning in service.log.read_text()
        health = service.get("/health")[1]
        assert (health["status"], health["release"], health["alive"]) == ("stale", first.name, True)
        assert health["error"].startswith(warning)
        assert same(service.recommend("user", ALL), before)
        (models / "live").write_bytes(b"\xff\xfe2\0")  # as PowerShell's > writes
        wait_until(lambda: "live" in service.get("/health")[1]["error"], "the other error")
        (models / "live").write_text(f"{second.name}\n", encoding="utf-8")
        damaged.write_bytes(content)
        service.wait_for(second.name)
        status, health = service.get("/health")
        assert (status, health["status"], health["error"]) == (200, "ok", None)
        assert not same(service.recommend("user", ALL), before)


@pytest.mark.slow
def test_under_load_no_request_fails_and_no_answer_is_of_two_releases(
    bases: list[tuple[SVD, Trainset]], tmp_path: Path
) -> None:
    models, users = tmp_path / "models", make_users(bases[0][1].raw_items(), each=2)
    publisher = Publisher(models, users, bases)
    publisher.publish()
    build_id = publisher.publish()
    with serve(models, tmp_path / "log") as service:
        service.wait_for(build_id)
        for user, rated in users.items():
            put(service, user, rated)
        outcome = run_load([service], publisher, seconds=5, every=0.5)
        log = service.log.read_text()
    assert outcome.load.failures == []
    assert outcome.mixed == []
    assert outcome.switches >= 3
    assert len(outcome.seen) >= 3
    assert sum(map(len, outcome.load.times.values())) > 100
    assert "looking again" not in log
    assert "Traceback" not in log


def test_the_check_finds_an_answer_of_two_releases(
    bases: list[tuple[SVD, Trainset]], tmp_path: Path
) -> None:
    one, other = (load_collaborative(ReleaseStore(tmp_path).publish(*base)) for base in bases)
    rated = draw(one, 10)
    here, there = expect(one, rated, LONG), expect(other, rated, LONG)
    mixed = Ranking(here.films, here.scores.copy())
    place = int(np.flatnonzero(one.knows_movies(here.films))[0])
    mixed.scores[place] = as_dict(expect(other, rated, ALL))[int(here.films[place])]
    assert not same(here, there)
    assert not same(mixed, here)
    assert not same(mixed, there)


@pytest.mark.slow
def test_through_hundreds_of_reloads_each_prediction_is_of_one_release(
    bases: list[tuple[SVD, Trainset]], tmp_path: Path
) -> None:
    first, second = (ReleaseStore(tmp_path).publish(*base).name for base in bases)
    found = flip(tmp_path, (first, second), 201, threads=3)
    assert found.reloads >= 200  # the first flip finds live what is in memory already
    assert found.predictions > 200
    assert found.wrong == 0


# The service of old


def test_the_service_of_old_runs_on_every_release_by_path(
    bases: list[tuple[SVD, Trainset]], tmp_path: Path
) -> None:
    """It knows nothing of releases: two pickles, loaded where they always were."""

    def check(svd_of: SVD, trainset_of: Trainset) -> str:
        svd = joblib.load(tmp_path / "svd_model.pkl")
        trainset = joblib.load(tmp_path / "cf_trainset.pkl")
        assert trainset.n_users == trainset_of.n_users
        assert trainset.n_items == trainset_of.n_items
        assert trainset.n_ratings == trainset_of.n_ratings
        films = [trainset.to_raw_iid(inner) for inner in range(trainset.n_items)]
        for inner in range(0, trainset.n_users, 50):
            user_id = trainset.to_raw_uid(inner)
            for movie_id in films:
                pred = svd.predict(user_id, movie_id)
                assert pred.est == svd_of.predict(user_id, movie_id).est
                assert pred.details["was_impossible"] is False
        pred = svd.predict("nobody", 999_999_999)
        assert pred.est == pytest.approx(trainset.global_mean)
        assert pred.details["was_impossible"] is False
        assert svd.build_id == trainset.build_id
        return str(svd.build_id)

    third = train_svd_model(sample_ratings().iloc[:5_000], factors=3, epochs=2)
    seen = []
    for svd, trainset in (*bases, third):
        save_models(svd, trainset, str(tmp_path))
        seen.append(check(svd, trainset))
    assert len(set(seen)) == 3
    ReleaseStore(tmp_path).roll_back("")
    assert check(*bases[1]) == seen[1]
    ReleaseStore(tmp_path).roll_back("")
    assert check(*bases[0]) == seen[0]
    ReleaseStore(tmp_path).roll_back(seen[2])
    assert check(*third) == seen[2]


def test_the_service_of_old_runs_where_the_models_folder_was_copied(
    bases: list[tuple[SVD, Trainset]], tmp_path: Path
) -> None:
    save_models(*bases[0], str(tmp_path / "models"))
    copied = shutil.copytree(tmp_path / "models", tmp_path / "copy")
    svd = joblib.load(copied / "svd_model.pkl")
    trainset = joblib.load(copied / "cf_trainset.pkl")
    user_id, movie_id = trainset.to_raw_uid(0), trainset.to_raw_iid(0)
    pred = svd.predict(user_id, movie_id)
    assert pred.est == bases[0][0].predict(user_id, movie_id).est
    assert not pred.details["was_impossible"]
