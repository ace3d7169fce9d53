"""Ratings of several MovieLens sets as one table, their users kept apart."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..ratings import (
    COLUMNS,
    NOT_APP_PREFIX,
    MappedRatings,
    make_ratings,
    sources_of,
    with_sources,
)
from .registry import SEPARATOR

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pandas as pd


def user_prefix(dataset: str, *, first: bool) -> str:
    """Return what user ids of a set begin with: `ml_` of the first, else one of its own.

    All begin with `NOT_APP_PREFIX`: they are not the app's. MovieLens's ids are numbers, so no id
    of the first set begins as those of another.
    """
    if first:
        return NOT_APP_PREFIX
    return f"{NOT_APP_PREFIX}{dataset.removeprefix('ml-').replace('-', '_')}_"


def combine_sets(sets: Sequence[MappedRatings]) -> MappedRatings:
    """Return the ratings of several sets as those of one, the first set's first.

    Users are kept apart by the prefix of their ids, see `user_prefix`. Stars stay as they are;
    where one set has half stars, the scale of all is that of half stars. `tmdb_ids` has the name of
    the set before each film id, as the sets number their films in their own ways.

    Args:
        sets: at least one, all kept to the same catalog.
    """
    import numpy as np
    import pandas as pd
    from pandas.api.types import union_categoricals

    first, *others = sets
    if not others:
        return first
    users = [first.ratings["user_id"], *(_rename_users(mapped) for mapped in others)]
    ratings = make_ratings(
        union_categoricals(users),
        *(np.concatenate([mapped.ratings[name] for mapped in sets]) for name in COLUMNS[1:]),
    )
    sources = [source for mapped in sets for source in sources_of(mapped.ratings)]
    times = [mapped.times for mapped in sets if mapped.times is not None]
    return MappedRatings(
        dataset=SEPARATOR.join(mapped.dataset for mapped in sets),
        ratings=with_sources(ratings, *sources),
        loaded=sum(mapped.loaded for mapped in sets),
        mapped=sum(mapped.mapped for mapped in sets),
        in_catalog=sum(mapped.in_catalog for mapped in sets),
        catalog=first.catalog,
        tmdb_ids=pd.concat([mapped.tmdb_ids for mapped in sets], keys=[m.dataset for m in sets]),
        times=np.concatenate(times) if len(times) == len(sets) else None,
    )


def _rename_users(mapped: MappedRatings) -> pd.Series:
    """Return the users of a set that is not the first, (n,), categorical."""
    prefix = user_prefix(mapped.dataset, first=False)
    return mapped.ratings["user_id"].cat.rename_categories(
        lambda user: prefix + user.removeprefix(NOT_APP_PREFIX)
    )
