"""Which of a catalog's films have ratings, in all and by decade."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

_YEAR = re.compile(r"\((1[89]\d\d|20\d\d)(?:[-\u2013]\d*)?\)\s*$")
"""At the end of a title, as in MovieLens: "Toy Story (1995)", "Roots (1977-)"."""


@dataclass(frozen=True)
class Coverage:
    """Of a catalog: its films, those of them that have ratings, and both by decade."""

    films: int
    rated: int
    decades: Mapping[int, tuple[int, int]]
    """Rated films and films by the decade's first year, ascending; of films with a known year."""

    @property
    def share(self) -> float:
        """Of the catalog's films, those that have ratings, 0 to 1."""
        return self.rated / self.films

    def describe(self) -> list[str]:
        """Return one line, and one more by decade where the titles tell it."""
        lines = [
            f"{self.rated:,} of the catalog's {self.films:,} films have ratings ({self.share:.1%})"
        ]
        if self.decades:
            known = sum(films for _, films in self.decades.values())
            line = "by decade: " + ", ".join(
                f"{decade}s {rated:,} of {films:,}"
                for decade, (rated, films) in self.decades.items()
            )
            if known < self.films:
                line += f"; the year of {self.films - known:,} is not known"
            lines.append(line)
        return lines


def measure_coverage(
    catalog: Collection[int], rated: Collection[int], titles: Mapping[int, str]
) -> Coverage:
    """Return which part of a catalog has ratings.

    Args:
        catalog: TMDB ids, at least one.
        rated: TMDB ids of the films that have ratings, in the catalog or not.
        titles: by TMDB id, with a year at the end as in MovieLens, "Toy Story (1995)". Those of
            all films at hand, rated or not: of rated films alone every decade would be covered.
    """
    films, with_ratings = set(catalog), set(catalog) & set(rated)
    decades: dict[int, tuple[int, int]] = {}
    for film in films:
        if year := _YEAR.search(titles.get(film, "")):
            decade = int(year[1]) // 10 * 10
            covered, of = decades.get(decade, (0, 0))
            decades[decade] = covered + (film in with_ratings), of + 1
    return Coverage(len(films), len(with_ratings), dict(sorted(decades.items())))
