"""Lists by score: what a user will see and like, from a release, with reasons."""

from __future__ import annotations

import copy
import pickle
import uuid
from decimal import Decimal
from itertools import islice
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from ml.build_collaborative import save_models, train_svd_model
from ml.collaborative import MovieIdError, RequestError, load_models
from ml.collaborative.algorithms import ranking_scores
from ml.collaborative.datasets.sample import sample_ratings
from ml.collaborative.evaluation import metrics
from ml.collaborative.evaluation.splits import k_folds
from ml.collaborative.release.arrays import ranking_from
from ml.collaborative.serving import CollaborativeModel, Recommendation, load_collaborative

STORED = Path(__file__).parents[1] / "release" / "data" / "schema-1"
"""A release that is older than the ranking."""
KNOWN = {862: 5.0, 12: 4.5, 603: 0.5}


@pytest.fixture(scope="module", params=["with a ranking", "older"])
def either(request: pytest.FixtureRequest, model: CollaborativeModel) -> CollaborativeModel:
    return model if request.param == "with a ranking" else load_collaborative(STORED)


def films(found: list[Recommendation]) -> list[int]:
    return [film.movie_id for film in found]


# Scores


def test_a_list_is_in_the_order_of_the_rankings_scores(model: CollaborativeModel) -> None:
    now, table = model.snapshot, sample_ratings()
    own = table[table["user_id"] == "ml_sample_1"]
    user = ranking_scores.fold_in(now.ranking, now.rows_of(own["movie_id"]), own["rating"])
    expected = ranking_scores.score(now.ranking, user, now.stars_of("ml_sample_1"))
    expected[user.rows] = -1
    best = np.argsort(-expected, kind="stable")[:20]
    found = model.recommend("ml_sample_1", n=20)
    assert films(found) == now.movie_ids[best].tolist()
    np.testing.assert_allclose([film.score for film in found], expected[best], atol=1e-6)
    stars = model.predict("ml_sample_1", films(found))
    np.testing.assert_allclose([film.stars for film in found], stars, atol=1e-9)
    assert films(found) != films(model.recommend("ml_sample_1", n=20, by="stars"))


@pytest.mark.parametrize("who", ["ml_sample_1", "nobody", "folded in", "watched"])
def test_scores_are_those_of_the_list_whatever_the_candidates(
    either: CollaborativeModel, who: str
) -> None:
    known = {film: stars for film, stars in KNOWN.items() if either.knows_movie(film)}
    user = {"folded in": either.fold_in(known), "watched": either.fold_in({}, watched=known)}.get(
        who, who
    )
    everything = either.recommend(user, n=10_000)
    assert everything[0].score == pytest.approx(1, abs=1e-6)
    assert all(0 <= film.score <= 1 for film in everything)
    scores = [film.score for film in everything]
    assert scores == sorted(scores, reverse=True)
    assert either.scores(user, films(everything)).tolist() == scores
    some = films(everything)[5::7]
    assert either.recommend(user, n=10_000, candidates=some) == everything[5::7]
    found = either.scores(user, [some[0], 5, -1])
    assert np.isnan(found).tolist() == [False, True, True]
    assert either.scores(user, []).shape == (0,)
    by_stars = either.recommend(user, n=10_000, by="stars")
    assert {*by_stars} == {*everything}


def test_an_unknown_user_gets_what_many_like(model: CollaborativeModel) -> None:
    table = sample_ratings()
    liked = table[table["rating"] >= 4].groupby("movie_id").size()
    favourites = set(liked.nlargest(30).index)
    found = model.recommend("nobody")
    assert set(films(found)) <= favourites
    assert model.recommend(model.fold_in({})) == found
    assert model.recommend(model.fold_in({5: 3.0})) == found
    assert len(model.recommend(model.fold_in({862: 5.0}))) == 10


def test_an_older_release_is_served_by_how_likely_its_films_are_liked() -> None:
    model = load_collaborative(STORED)
    assert model.snapshot.ranking is None
    for user in ("ml_sample_1", "nobody", model.fold_in({862: 5.0})):
        assert model.recommend(user) == model.recommend(user, by="stars")
    assert model.because("ml_sample_1", 862) == []
    assert len(model.similar(862, n=3)) == 3


def test_rated_and_watched_films_are_left_out_unless_asked_for(model: CollaborativeModel) -> None:
    best = films(model.recommend("nobody", n=6))
    user = model.fold_in(dict.fromkeys(best[:3], 5), watched=[*best[3:], 5])
    assert not {*best} & {*films(model.recommend(user, n=10_000))}
    assert not {*best} & {*films(model.recommend(user, n=10_000, by="stars"))}
    assert {*best} <= {*films(model.recommend(user, n=10_000, rated=True))}
    again = model.recommend("ml_sample_1", n=10_000, rated=True)
    assert len(again) == len(model.movie_ids)
    assert model.recommend("ml_sample_1", exclude=np.array(films(again)[:500])) is not None


def test_what_was_watched_changes_scores_and_not_stars(model: CollaborativeModel) -> None:
    plain, other = model.fold_in(KNOWN), model.fold_in(KNOWN, watched={238, 278, 680})
    np.testing.assert_array_equal(
        model.predict(plain, model.movie_ids), model.predict(other, model.movie_ids)
    )
    assert not np.array_equal(
        model.scores(plain, model.movie_ids), model.scores(other, model.movie_ids)
    )


def test_novelty_brings_less_popular_films(model: CollaborativeModel) -> None:
    counts = sample_ratings().groupby("movie_id").size()
    means = [
        np.mean([counts[film] for user in range(1, 40)
                 for film in films(model.recommend(f"ml_sample_{user}", novelty=novelty))])
        for novelty in (0, 0.1, 0.3, 1)
    ]  # fmt: skip
    assert means == sorted(means, reverse=True)
    found = model.recommend("ml_sample_1", novelty=0.3)
    assert found[0].score == pytest.approx(1)
    scores = model.scores("ml_sample_1", films(found), novelty=0.3)
    assert scores.tolist() == [film.score for film in found]


def test_a_user_folded_in_before_is_folded_in_again_for_another_release(tmp_path: Path) -> None:
    table = sample_ratings()
    save_models(*train_svd_model(table, epochs=1, factors=3), str(tmp_path))
    model = load_collaborative(tmp_path)
    user = model.fold_in(KNOWN, watched=(238,))
    save_models(*train_svd_model(table.head(8000), epochs=2, factors=4), str(tmp_path))
    assert model.reload_if_changed()
    again = model.fold_in(KNOWN, watched=(238,))
    assert model.recommend(user) == model.recommend(again)
    assert model.because(user, 597) == model.because(again, 597)


# Reasons, similar films


def test_reasons_are_the_films_that_bring_a_film_and_add_up(model: CollaborativeModel) -> None:
    user = model.fold_in(dict.fromkeys(model.movie_ids[:40].tolist(), 4.0))
    now = model.snapshot
    for film in films(model.recommend(user, n=5)):
        row = int(now.rows_of([film])[0])
        each, rest = ranking_scores.contributions(now.ranking, user.ranked, row)
        reasons = model.because(user, film, n=1000)
        shares = [reason.share for reason in reasons]
        assert shares == sorted(shares, reverse=True)
        assert {reason.movie_id for reason in reasons} <= set(user.ratings)
        total = now.ranking and ranking_scores.exposure(now.ranking, user.ranked)[row]
        without = (each[each < 0].sum() + rest) / total
        assert sum(shares) + without == pytest.approx(1, abs=1e-3)
        assert model.because(user, film) == reasons[:3]
    assert model.because("nobody", 862) == model.because(user, 5) == []
    rated = int(model.movie_ids[0])
    assert rated not in {reason.movie_id for reason in model.because(user, rated, n=1000)}


def test_similar_films_are_those_of_the_rankings_vectors(model: CollaborativeModel) -> None:
    now = model.snapshot
    found = model.similar(int(now.movie_ids[3]), n=5)
    q = now.ranking.q / np.linalg.norm(now.ranking.q, axis=1)[:, None]
    expected = q @ q[3]
    expected[3] = -2
    best = np.argsort(-expected)[:5]
    assert [film.movie_id for film in found] == now.movie_ids[best].tolist()
    np.testing.assert_allclose([film.score for film in found], expected[best], atol=1e-5)
    assert model.similar(5) == []
    assert len(model.similar(int(now.movie_ids[3]), n=10_000)) == len(now.movie_ids) - 1


# At the edge


def test_a_uuid_is_the_same_user_in_every_form(tmp_path: Path) -> None:
    user = uuid.UUID("0d0aef36-7c9e-4d4d-9dc0-0000000000ab")
    capitals = uuid.UUID("A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11")  # as a text column may have it
    table = sample_ratings().head(400).astype({"user_id": "str"})
    known = {"ml_sample_1": str(user), "ml_sample_2": str(capitals).upper()}
    table["user_id"] = table["user_id"].replace(known)
    save_models(*train_svd_model(table, epochs=1, factors=3), str(tmp_path))
    model = load_collaborative(tmp_path)
    plain = model.recommend(str(user))
    for same in (user, str(user).upper()):
        assert model.knows_user(same)
        assert model.recommend(same) == plain
        np.testing.assert_array_equal(model.scores(same, [862]), model.scores(str(user), [862]))
    for same in (capitals, str(capitals), str(capitals).upper()):
        assert model.knows_user(same)
        assert model.recommend(same) == model.recommend(str(capitals).upper()) != plain
    assert not model.knows_user(uuid.uuid4())


@pytest.mark.parametrize(
    ("wrong", "error"),
    [
        ({"n": "5"}, "expected n as an integer of at least 0, found '5'"),
        ({"n": 2.0}, r"expected n as an integer of at least 0, found 2\.0"),
        ({"n": -2}, "expected n as an integer of at least 0, found -2"),
        ({"n": None}, "expected n as an integer"),
        ({"n": True}, "expected n as an integer"),
        ({"exclude": None}, "expected a list of film ids as integers, found None"),
        ({"exclude": 862}, "expected a list of film ids"),
        ({"exclude": "862"}, "expected a list of film ids"),
        ({"by": "rank"}, "expected by='score' or by='stars', found 'rank'"),
        ({"by": None}, "expected by="),
        ({"novelty": -0.1}, "expected novelty as a number of at least 0"),
        ({"novelty": float("nan")}, "expected novelty"),
        ({"novelty": "0.1"}, "expected novelty"),
        ({"novelty": 10**400}, "expected novelty"),
        ({"novelty": np.array([0.1, 0.2])}, "expected novelty"),
        ({"by": np.array(["score", "stars"])}, "expected by="),
        ({"n": [10**5000]}, "expected n as an integer of at least 0, found a value of type list"),
        ({"exclude": [10**5000]}, "expected a list of film ids"),
    ],
)
def test_what_cannot_be_asked_for_is_refused(
    model: CollaborativeModel, wrong: dict[str, object], error: str
) -> None:
    with pytest.raises(RequestError, match=error):
        model.recommend("ml_sample_1", **wrong)


@pytest.mark.parametrize("watched", [None, 862, ["862"], [1.5]])
def test_what_is_no_list_of_watched_films_is_refused(
    either: CollaborativeModel, watched: object
) -> None:
    with pytest.raises(MovieIdError, match="expected a list of film ids"):
        either.fold_in({}, watched=watched)


def test_numbers_of_every_kind_are_stars(model: CollaborativeModel) -> None:
    plain = model.fold_in({862: 4.0, 603: 2.5}, watched=[238])
    for kind in (Decimal, np.float32, np.float64, np.float16):
        user = model.fold_in({862: kind(4), np.int64(603): kind("2.5")}, watched=np.array([238]))
        assert user.ratings == plain.ratings
        assert model.recommend(user) == model.recommend(plain)
    with pytest.raises(RequestError, match="film 862 has sNaN stars"):
        model.fold_in({862: Decimal("sNaN")})


def test_a_model_is_not_pickled_or_copied_by_accident(model: CollaborativeModel) -> None:
    for copied in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError, match="is not pickled or copied: call load_collaborative"):
            copied(model)


# In releases


def test_a_release_has_the_ranking_that_was_loaded_with_its_model(folder: Path) -> None:
    svd, _ = load_models(folder)
    ranking = load_collaborative(folder, mmap=True).snapshot.ranking
    for name in ("q", "gram", "mean_vector", "head", "weights", "cold"):
        np.testing.assert_array_equal(getattr(svd.parts.ranking, name), getattr(ranking, name))
    for name in ("weight_step", "unseen_weight", "trained_films", "threshold"):
        assert getattr(svd.parts.ranking, name) == getattr(ranking, name)
    assert ranking_from({}) is None


def test_surprises_own_trainset_gets_a_ranking_too(tmp_path: Path) -> None:
    from surprise import SVD, Dataset, Reader

    table = sample_ratings().head(500).astype({"user_id": "str", "movie_id": object})
    trainset = Dataset.load_from_df(table, Reader(rating_scale=(1, 5))).build_full_trainset()
    save_models(SVD(n_factors=3, n_epochs=1).fit(trainset), trainset, str(tmp_path))
    model = load_collaborative(tmp_path)
    assert len(model.recommend("ml_sample_1")) == 10
    assert model.snapshot.ranking is not None


def test_the_lists_of_two_folds_of_ml_100k_are_as_good_as_measured(
    real_ratings: pd.DataFrame, tmp_path: Path
) -> None:
    found = []
    for split in islice(k_folds(len(real_ratings), 5, 0), 2):
        train, test = real_ratings.iloc[split.train], real_ratings.iloc[split.test]
        save_models(*train_svd_model(train, epochs=10), str(tmp_path))
        model = load_collaborative(tmp_path)
        liked = test[test["rating"] >= metrics.LIKED].groupby("user_id", observed=True)["movie_id"]
        users = [(str(user), set(own)) for user, own in liked]
        hits = [[film in own for film in films(model.recommend(user))] for user, own in users]
        counts = np.array([len(own) for _, own in users])
        found.append(metrics.ndcg(np.array(hits), counts).mean())
    assert 0.38 < np.mean(found) < 0.43
