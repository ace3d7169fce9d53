"""The peers of `benchmarks.ranking`: models of implicit feedback, tuned on training rows alone.

This project's environment has all that the first of them need. Those of libraries run this file in
the library's own environment: it reads training rows from files and writes lists into files.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np  # whatever else a peer needs is imported where it is used

TOP, LIKED = 10, 4.0
ROUNDS = 2
"""Of tuning: each goes through the parameters, one after another."""
Fit = Callable[..., np.ndarray]
"""Takes `Training` and parameters; returns scores, (users, films)."""


class Training(NamedTuple):
    """Ratings to train on, by inner ids."""

    users: np.ndarray
    films: np.ndarray
    stars: np.ndarray
    shape: tuple[int, int]
    """Numbers of users and films; some may have no ratings here."""

    def rows(self, liked: bool) -> tuple[np.ndarray, np.ndarray]:
        """Return users and films of all ratings, or of those with `LIKED` stars."""
        kept = self.stars >= LIKED if liked else slice(None)
        return self.users[kept], self.films[kept]

    def matrix(self, liked: bool, dtype: Any = np.float32) -> np.ndarray:
        """Return 1 where a film was rated or liked, else 0, (users, films)."""
        found = np.zeros(self.shape, dtype=dtype)
        found[self.rows(liked)] = 1
        return found

    def sparse(self, liked: bool) -> Any:
        """Return the same as a SciPy matrix of compressed rows."""
        from scipy.sparse import csr_matrix

        users, films = self.rows(liked)
        return csr_matrix((np.ones(len(users), np.float32), (users, films)), self.shape)


def most_rated(train: Training, liked: bool) -> np.ndarray:
    """Score by number of ratings, or of likes."""
    counts = np.bincount(train.rows(liked)[1], minlength=train.shape[1])
    return np.broadcast_to(counts, train.shape)


def fit_ease(train: Training, liked: bool, reg: float) -> np.ndarray:
    """Fit EASE (Steck 2019) by way of the users, of whom there are fewer than films.

    With P the inverse of Y'Y + reg I, the scores Y B, B = I - P / diag(P), of films that a user did
    not rate are -(Y P) / diag(P); Y P = K^-1 Y and diag(P) = (1 - diag(Y' K^-1 Y)) / reg with
    K = Y Y' + reg I.
    """
    y = train.matrix(liked, np.float64)
    yp = np.linalg.solve(y @ y.T + reg * np.eye(len(y)), y)
    return yp * -reg / (1 - np.einsum("uf,uf->f", y, yp))


def fit_ials(
    train: Training, liked: bool, reg: float, unseen: float, factors: int = 64, rounds: int = 12
) -> np.ndarray:
    """Fit iALS with the regularisation by frequency (Rendle et al. 2021), by the project's loop."""
    from ml.collaborative.algorithms.loops.als import compiled_solve

    solve, ones = compiled_solve("float32"), np.ones(2, dtype=np.float32)
    y, sides = train.sparse(liked), np.random.default_rng(0)
    vectors = [sides.normal(0, 0.1 / factors**0.5, (n, factors)).astype(np.float32)
               for n in train.shape]  # fmt: skip
    scratch = [np.empty((n, factors), np.float32) for n in (factors, factors, 8)]
    for turn in range(2 * rounds + 1):  # users last
        mine, theirs, rows = vectors[turn % 2], vectors[1 - turn % 2], (y, y.T)[turn % 2].tocsr()
        starts, others = rows.indptr.astype(np.int64), rows.indices.astype(np.int32)
        gram = np.float32(unseen) * (theirs.T @ theirs)
        solve(0, len(mine), starts, others, rows.data, 0.0, ones, gram, reg,
              reg * unseen * len(theirs), theirs, mine, *scratch)  # fmt: skip
    return vectors[0] @ vectors[1].T


def fit_item_knn(train: Training, liked: bool, tf_idf: bool, k: int, shrink: float) -> np.ndarray:
    """Fit the cosine of films over users, whom TF-IDF weighs by how few films they rated."""
    y = train.sparse(liked)
    each = np.maximum(np.diff(y.indptr), 1)
    weights = np.log(train.shape[1] / each) if tf_idf else np.ones(len(each))
    weighted = y.toarray() * weights.astype(np.float32)[:, None]
    similar = weighted.T @ weighted
    lengths = np.sqrt(similar.diagonal())
    similar /= lengths[:, None] * lengths + np.float32(shrink + 1e-9)
    return y @ keep_top(similar, k).T


def fit_rp3beta(train: Training, liked: bool, alpha: float, beta: float, k: int) -> np.ndarray:
    """Fit RP3beta: walks of three steps, each to the power alpha (Paudel et al. 2017)."""
    y = train.matrix(liked)
    users, films = (np.maximum(y.sum(axis=axis), 1) for axis in (1, 0))
    similar = (y / users[:, None] ** alpha).T @ (y / films**alpha)  # to a film (row) from another
    similar /= films[:, None] ** beta
    return train.sparse(liked) @ keep_top(similar, k).T


def keep_top(similar: np.ndarray, k: int) -> np.ndarray:
    """Set a film's own entry and all but the k highest of its row to 0, in place; 0 keeps all."""
    np.fill_diagonal(similar, 0)
    if 0 < k < len(similar):
        for row in similar:
            row[row < np.partition(row, -k)[-k]] = 0
    return similar


def fit_slim(train: Training, liked: bool, l1: float, l2: float) -> np.ndarray:
    """Fit SLIM (Ning and Karypis 2011): for each film an elastic net of the others, none negative.

    A film rated together with it by no more than l1 users has no weight in the optimum: all
    products are positive.
    """
    y = train.matrix(liked)
    weights = _slim_weights()(y.T @ y, l1, l2)
    return y @ weights


@cache
def _slim_weights() -> Any:
    import numba

    @numba.njit(fastmath=True)  # type: ignore[untyped-decorator]
    def descend(gram: np.ndarray, l1: float, l2: float) -> np.ndarray:
        weights = np.zeros_like(gram)
        for film in range(len(gram)):
            near = np.flatnonzero(gram[film] > l1)
            near = near[near != film]
            part = np.empty((len(near), len(near)), gram.dtype)
            for i in range(len(near)):
                for j in range(len(near)):
                    part[i, j] = gram[near[i], near[j]]
            left, w = gram[film][near], np.zeros(len(near), gram.dtype)
            for _ in range(20):
                largest = 0.0
                for i in range(len(near)):
                    new = max((left[i] + part[i, i] * w[i] - l1) / (part[i, i] + l2), 0.0)
                    change = new - w[i]
                    if change != 0.0:
                        w[i] = new
                        largest = max(largest, abs(change))
                        left -= np.float32(change) * part[i]
                if largest < 1e-3:
                    break
            weights[near, film] = w
        return weights

    return descend


def fit_implicit(
    train: Training, liked: bool, factors: int, regularization: float, alpha: float
) -> np.ndarray:
    """Fit ALS of the library `implicit`."""
    from implicit.als import AlternatingLeastSquares

    model = AlternatingLeastSquares(
        factors=factors, regularization=regularization, alpha=alpha, iterations=15, random_state=0
    )
    model.fit(train.sparse(liked), show_progress=False)
    return np.asarray(model.user_factors @ model.item_factors.T)


def fit_lightfm(
    train: Training, liked: bool, factors: int, epochs: int, rate: float, reg: float
) -> np.ndarray:
    """Fit LightFM with the WARP loss."""
    from lightfm import LightFM

    model = LightFM(
        factors, loss="warp", learning_rate=rate, item_alpha=reg, user_alpha=reg,
        max_sampled=30, random_state=0,
    )  # fmt: skip
    model.fit(train.sparse(liked), epochs=epochs)
    (user_biases, users), (film_biases, films) = (
        model.get_user_representations(), model.get_item_representations(),
    )  # fmt: skip
    return users @ films.T + film_biases + user_biases[:, None]


def fit_lenskit(train: Training, liked: bool, weight: float, regularization: float) -> np.ndarray:
    """Fit LensKit's implicit matrix factorization."""
    import pandas as pd
    from lenskit.als import ImplicitMFScorer
    from lenskit.data import from_interactions_df
    from lenskit.training import TrainingOptions

    users, films = train.rows(liked)
    data = from_interactions_df(pd.DataFrame({"user_id": users, "item_id": films}))
    model = ImplicitMFScorer(features=64, weight=weight, regularization=regularization)
    model.train(data, TrainingOptions(rng=0))
    scores = np.asarray(model.user_embeddings) @ np.asarray(model.item_embeddings).T
    return _spread(train, data.users.ids(), data.items.ids(), scores)


def fit_rectools(train: Training, liked: bool, regularization: float) -> np.ndarray:
    """Fit RecTools' EASE."""
    import pandas as pd
    from rectools.dataset import Dataset
    from rectools.models import EASEModel

    users, films = train.rows(liked)
    table = {"user_id": users, "item_id": films, "weight": 1.0, "datetime": "2020-01-01"}
    data = Dataset.construct(pd.DataFrame(table))
    model = EASEModel(regularization)
    model.fit(data)
    scores = np.asarray(data.get_user_item_matrix() @ model.weight)
    return _spread(train, data.user_id_map.external_ids, data.item_id_map.external_ids, scores)


def fit_cornac(train: Training, liked: bool, posB: bool, lamb: float) -> np.ndarray:  # noqa: N803
    """Fit Cornac's EASE."""
    from cornac.data import Dataset
    from cornac.models import EASE

    users, films = (ids.tolist() for ids in train.rows(liked))
    data = Dataset.from_uir([(u, f, 1.0) for u, f in zip(users, films, strict=True)], seed=0)
    model = EASE(lamb=lamb, posB=posB, seed=0, verbose=False).fit(data)
    scores = model.U @ model.B
    return _spread(train, np.array(list(data.user_ids)), np.array(list(data.item_ids)), scores)


def _spread(
    train: Training, users: np.ndarray, films: np.ndarray, scores: np.ndarray
) -> np.ndarray:
    """Put scores of the users and films that a library knows at their inner ids; others get 0."""
    found = np.zeros(train.shape, dtype=np.float32)
    found[:, films] = scores.min() - 1
    found[np.ix_(users, films)] = scores
    return found


def fit_ours(train: Training, **constants: float) -> np.ndarray:
    """Fit this project's ranking with other constants than it has."""
    from ml.collaborative.algorithms import ranking, ranking_scores

    for module in (ranking, ranking_scores):
        for name in constants.keys() & vars(module).keys():
            setattr(module, name, constants[name])
    trainset, stars = _predict_stars(train)
    found = ranking.fit_ranking(trainset, seed=0)
    starts, films, ratings = trainset.by_user
    rows = [slice(*starts[user : user + 2]) for user in range(trainset.n_users)]
    users = [ranking_scores.fold_in(found, films[row], ratings[row]) for row in rows]
    known = (np.array(ids).astype(np.intp) for ids in (trainset.raw_users(), trainset.raw_items()))
    return _spread(
        train, *known, np.array(list(map(partial(ranking_scores.score, found), users, stars)))
    )


def _predict_stars(train: Training) -> tuple[Any, np.ndarray]:
    """Return the trainset, and the Bayesian model's stars of all, (users, films); trained once."""
    import pandas as pd

    from ml.collaborative.algorithms.bayesian import fit_bayesian
    from ml.collaborative.trainset import make_trainset

    if len(train.users) not in STARS:
        table = pd.DataFrame({"movie_id": train.films, "rating": train.stars})
        trainset = make_trainset(table.assign(user_id=train.users.astype(str)))
        model = fit_bayesian(trainset, factors=100, seed=0)
        stars = trainset.global_mean + model.bu[:, None] + model.bi + model.pu @ model.qi.T
        STARS[len(train.users)] = trainset, stars
    return STARS[len(train.users)]


STARS: dict[int, tuple[Any, np.ndarray]] = {}
"""By number of ratings: in tuning the same two tables are trained on again and again."""


class Peer(NamedTuple):
    """A model that lists are made of."""

    name: str
    fit: Fit
    grid: dict[str, tuple[Any, ...]]
    """Values of the parameters that tuning chooses among; it begins in their middle."""
    package: str = ""
    """What its own environment has; none is this project's environment."""


BOTH = (False, True)
EASE_REG = (100.0, 200.0, 300.0, 500.0, 800.0, 1500.0, 3000.0)
IALS = {
    "unseen": (0.1, 0.2, 0.3, 0.5, 1.0),
    "reg": (0.006, 0.01, 0.015, 0.02, 0.03),
    "factors": (128, 64),
}
PEERS = (
    Peer("most rated", most_rated, {"liked": (False,)}),
    Peer("most liked", most_rated, {"liked": (True,)}),
    Peer(
        "ItemKNN",
        fit_item_knn,
        {
            "liked": BOTH,
            "tf_idf": BOTH,
            "k": (20, 50, 100, 200, 400, 0),
            "shrink": (0, 10, 50, 200),
        },
    ),
    Peer(
        "RP3beta",
        fit_rp3beta,
        {
            "liked": BOTH,
            "alpha": (0.4, 0.55, 0.7, 0.85, 1.0),
            "beta": (0.1, 0.2, 0.3, 0.45, 0.6),
            "k": (30, 100, 300, 0),
        },
    ),
    Peer(
        "SLIM",
        fit_slim,
        {"liked": BOTH, "l1": (0.5, 1.0, 2.0), "l2": (50.0, 100.0, 200.0, 400.0)},
    ),
    Peer("EASE, all", fit_ease, {"liked": (False,), "reg": EASE_REG}),
    Peer("EASE, liked", fit_ease, {"liked": (True,), "reg": EASE_REG}),
    Peer("iALS, all", fit_ials, {"liked": (False,), **IALS}),
    Peer("iALS, liked", fit_ials, {"liked": (True,), **IALS}),
    Peer(
        "implicit ALS",
        fit_implicit,
        {
            "liked": BOTH,
            "factors": (32, 64, 128),
            "regularization": (10.0, 20.0, 30.0, 60.0, 100.0),
            "alpha": (1.5, 2.0, 3.0, 6.0, 12.0),
        },
        "implicit==0.7.3",
    ),
    Peer(
        "LightFM WARP",
        fit_lightfm,
        {
            "liked": BOTH,
            "rate": (0.05, 0.02),
            "reg": (0.0, 1e-4, 5e-4),
            "epochs": (20, 40),
            "factors": (32, 64),
        },
        "rectools-lightfm==1.17.3",
    ),
    Peer(
        "LensKit ImplicitMF",
        fit_lenskit,
        {
            "liked": BOTH,
            "weight": (1.0, 3.0, 10.0),
            "regularization": (10.0, 20.0, 30.0, 60.0),
        },
        "lenskit==2025.8.1",
    ),
    Peer(
        "RecTools EASE",
        fit_rectools,
        {"liked": BOTH, "regularization": (100.0, 300.0, 500.0, 800.0)},
        "rectools==0.19.0",
    ),
    Peer(
        "cornac EASE",
        fit_cornac,
        {"liked": BOTH, "posB": BOTH, "lamb": (100.0, 200.0, 300.0, 500.0)},
        "cornac==3.0.1",
    ),
)
"""Of LensKit, RecTools and Cornac the model that was best on the rows held out of the first fold's
training: before SLIM, before ALS, and before BPR."""
NESTED = Peer(
    "lists by score, constants chosen on training rows",
    fit_ours,
    {
        "DENSITY_WEIGHT": (3.0, 6.0, 12.0),
        "REG": (0.01, 0.015, 0.02),
        "SEEN_TARGET": (0.6, 0.75, 0.9),
        "HEAD_SHARE": (0.3, 0.5, 0.7),
        "HEAD_REG": (200.0, 300.0, 500.0),
    },
)
"""What is served has the middle ones."""


def tune(peer: Peer, train: Training, held: np.ndarray, films: np.ndarray) -> dict[str, Any]:
    """Choose parameters by NDCG@10 on rows held out of the training, one parameter after another.

    Args:
        peer: the model.
        train: all training rows.
        held: which of them are held out, (n,).
        films: which may be listed, (films,).
    """
    known, asked = (Training(*(column[kept] for column in train[:3]), train.shape)
                    for kept in (~held, held))  # fmt: skip
    wanted = asked.matrix(liked=True) > 0
    users = np.flatnonzero(wanted.any(axis=1) & (known.matrix(False).sum(axis=1) > 0))
    found: dict[str, float] = {}

    def quality(parameters: dict[str, Any]) -> float:
        key = json.dumps(parameters)
        if key not in found:
            top = best_films(peer, known, parameters, users, films)
            found[key] = ndcg(top, wanted[users])
        return found[key]

    chosen = {name: values[len(values) // 2] for name, values in peer.grid.items()}
    for _ in range(ROUNDS):
        for name, values in peer.grid.items():
            if len(values) > 1:
                chosen[name] = max(values, key=lambda value: quality({**chosen, name: value}))
    return chosen


def best_films(
    peer: Peer, train: Training, parameters: dict[str, Any], users: np.ndarray, films: np.ndarray
) -> np.ndarray:
    """Fit, and return the best films that each user did not rate, (users, `TOP`), -1 for none.

    Whom the model knows nothing of, -1 or without a rating that it uses, gets the most liked films.
    """
    scores = np.asarray(peer.fit(train, **parameters))[users].astype(np.float64)
    if peer.fit is not most_rated:
        scores[(users < 0) | (np.ptp(scores, axis=1) == 0)] = most_rated(train, True)[0]
    seen = (train.matrix(liked=False) > 0)[users]
    seen[users < 0] = False
    scores[seen | ~films] = -np.inf
    top = np.sort(np.argpartition(-scores, TOP, axis=1)[:, :TOP], axis=1)
    order = np.argsort(-np.take_along_axis(scores, top, axis=1), axis=1, kind="stable")
    top = np.take_along_axis(top, order, axis=1)
    return np.where(np.isfinite(np.take_along_axis(scores, top, axis=1)), top, -1)


def ndcg(top: np.ndarray, wanted: np.ndarray) -> float:
    """Return the mean NDCG of lists, as `evaluation.metrics` does, which not all environments have.

    Args:
        top: (users, places), -1 for none.
        wanted: (users, films), for each user one at least.
    """
    hits = np.take_along_axis(wanted, np.maximum(top, 0), axis=1) & (top >= 0)
    discounts = 1 / np.log2(np.arange(2, top.shape[1] + 2))
    best = np.cumsum(discounts)[np.minimum(wanted.sum(axis=1), top.shape[1]) - 1]
    return float(np.mean(hits @ discounts / best))


def main(name: str, cases: list[str]) -> None:
    """Write the lists of a peer for each case, a folder; print a line when one is done."""
    (peer,) = (peer for peer in (*PEERS, NESTED) if peer.name == name)
    for case in map(Path, cases):
        STARS.clear()
        with np.load(case / "train.npz") as kept:
            arrays = dict(kept)
        users, films, stars = (arrays[key] for key in ("users", "films", "stars"))
        train = Training(users, films, stars, tuple(arrays["shape"].tolist()))
        parameters = tune(peer, train, arrays["held"], arrays["open"])
        top = best_films(peer, train, parameters, arrays["asked"], arrays["open"])
        part = case / f"{name}.part.npz"
        np.savez_compressed(part, top=top.astype(np.int32), parameters=json.dumps(parameters))
        part.replace(case / f"{name}.npz")
        print(case, json.dumps(parameters), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
