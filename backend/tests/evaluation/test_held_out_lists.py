"""Lists on held-out ratings are those that are served; poor ones give way to plain ones."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from ml.build_collaborative import save_models, train_svd_model
from ml.collaborative.algorithms.cut import cut_to_films
from ml.collaborative.algorithms.ranking import fit_ranking
from ml.collaborative.algorithms.ranking_scores import root_of_liked
from ml.collaborative.algorithms.training import ALGORITHMS, make_training
from ml.collaborative.datasets.sample import sample_ratings
from ml.collaborative.evaluation.gate import describe_lists
from ml.collaborative.evaluation.held_out import hold_out
from ml.collaborative.evaluation.lists import BY_STARS, COLD, make_lists, predict_all
from ml.collaborative.release import draft_manifest
from ml.collaborative.serving import CollaborativeModel, load_collaborative
from ml.collaborative.top_n import top_films

USERS = np.array([0, 3, 77, -1])


def list_of(model: CollaborativeModel, trainset: object, user: int, by: str) -> list[int]:
    """The inner ids of what is served to a user."""
    name = trainset.to_raw_uid(user) if user >= 0 else "nobody"
    return [trainset.to_inner_iid(film.movie_id) for film in model.recommend(name, by=by)]


@pytest.mark.parametrize("kept", [124, 60])
def test_lists_that_are_measured_are_those_that_are_served(tmp_path: Path, kept: int) -> None:
    svd, trainset = train_svd_model(sample_ratings().head(9000))
    films = np.sort(np.random.default_rng(0).permutation(trainset.n_items)[:kept])
    ranking = fit_ranking(trainset, seed=0)
    found = make_lists(trainset, ranking, {"svd": svd}, USERS, films)
    part, smaller = cut_to_films(svd, trainset, [trainset.to_raw_iid(film) for film in films])
    for lists, by in (("ranking", "score"), ("ranking", "stars"), ("cold", "score")):
        draft = draft_manifest(part, smaller)
        draft["model"]["lists"] = lists
        save_models(part, smaller, str(tmp_path), draft=draft)
        model = load_collaborative(tmp_path)
        name = COLD if lists == "cold" else BY_STARS if by == "stars" else "{}"
        for user, top in zip(USERS, found[name.format("svd")].tolist(), strict=True):
            assert list_of(model, trainset, user, by) == top
        assert bool(model.because(trainset.to_raw_uid(0), trainset.to_raw_iid(films[0]))) == (
            lists == "ranking"
        )


def test_a_ranking_that_does_not_beat_the_most_liked_films_gives_way_to_the_cold_list(
    tmp_path: Path,
) -> None:
    """What users of the sample rate has nothing to do with their taste, and 66 of them are few."""
    table = sample_ratings().head(3000)
    held_out = hold_out(table, [make_training(ALGORITHMS["svd"])], with_plan=False)
    measures = {score.model: score.measures for score in held_out.scores}
    assert held_out.lists.served == "cold"
    assert measures["SVD"].ndcg < measures["most liked"].ndcg
    assert held_out.lists.ndcg.mean() == pytest.approx(measures[COLD.format("SVD")].ndcg)
    assert held_out.lists.most_liked.mean() == pytest.approx(measures["most liked"].ndcg)
    assert describe_lists(held_out.lists).endswith(
        "; the ranking did not beat the most liked films beyond chance: the cold list is served"
    )
    svd, trainset = train_svd_model(table)
    draft = draft_manifest(svd, trainset)
    draft["model"]["lists"] = held_out.lists.served
    save_models(svd, trainset, str(tmp_path), draft=draft)
    model = load_collaborative(tmp_path)
    ranking = fit_ranking(trainset, seed=0)
    stars = predict_all(svd, trainset, USERS[:2])
    starts, items, _ = trainset.by_user
    for row, user in enumerate(USERS[:2]):
        scores = ranking.cold * root_of_liked(ranking, stars[row])
        seen = np.isin(np.arange(trainset.n_items), items[starts[user] : starts[user + 1]])
        expected = top_films(scores[None].astype(float), seen[None], 10)[0].tolist()
        assert list_of(model, trainset, user, "score") == expected
        best = model.recommend(trainset.to_raw_uid(user), 1)[0]
        assert best.score == 1
        assert model.scores(trainset.to_raw_uid(user), [best.movie_id]).tolist() == [1]


def test_where_nobody_likes_a_held_out_film_the_cold_list_is_served() -> None:
    table = sample_ratings().head(600)
    table["rating"] = table["rating"].clip(upper=3)
    held_out = hold_out(table, [make_training(ALGORITHMS["svd"])], with_plan=False)
    assert held_out.lists.served == "cold"
    assert len(held_out.lists.rows()) == 0
    assert describe_lists(held_out.lists).startswith("lists not measured, as nobody likes")


def test_the_same_question_has_the_same_hash_whatever_else_is_in_the_table() -> None:
    table = sample_ratings().head(4000)
    other = pd.concat([table.iloc[2000:], sample_ratings().iloc[4000:6000]])
    other = other.sample(frac=1, random_state=1).reset_index(drop=True)
    rows = [
        hold_out(one, [make_training(ALGORITHMS["svd"])], with_plan=False).lists
        for one in (table, other)
    ]
    common = np.intersect1d(rows[0].films, rows[1].films)
    users = set(table["user_id"].iloc[2001:])
    assert 0.8 * len(users) < len(common) <= len(users)
    assert len(np.unique(rows[0].films)) == len(rows[0].films)
