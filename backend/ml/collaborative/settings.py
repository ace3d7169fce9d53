"""Settings of the build, from the environment and the `.env` beside the folder `ml`."""

from __future__ import annotations

import os
import re
import string
from difflib import SequenceMatcher
from typing import TYPE_CHECKING, Literal, NamedTuple, get_args

from pydantic import SecretStr, ValidationError, ValidationInfo, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from .env_file import ENCODING, names_in
from .errors import InputError
from .paths import ENV_FILE

if TYPE_CHECKING:
    from pathlib import Path

Scale = Literal["0.5-5", "1-5", "1-10", "thumbs"]
SOURCES = ("SUPABASE_URL", "SUPABASE_SERVICE_ROLE_KEY", "SUPABASE_DB_URL")
"""What the app's ratings are read with."""
PREFIXES = ("SUPABASE_", "APP_RATINGS_", "MOVIELENS_")
OF_APPS = re.compile(
    "SUPABASE_(ANON_KEY|PUBLISHABLE_KEY|JWT_SECRET|JWKS?(_URL)?|ACCESS_TOKEN|PROJECT_(REF|ID)|"
    "DB_PASSWORD|AUTH_.*|STORAGE_.*|BUCKET.*|WEBHOOK_.*)"
)
"""Other names with these prefixes that apps have for themselves."""
PLACEHOLDER = re.compile(
    r"\[[^\]:/]*\]|:\[.*\]@|<[^<>]*>|\$\{\w+\}|\{\{.*\}\}|[/.]PROJECT[.:@]|"
    r"(?i:\byour[-_ ](project|password|supabase|service|key))"
)
"""What pages put in a value's place, Supabase's and ours too; an IPv6 address has colons."""
SECRET = re.compile(r"eyJ[\w-]{5}|sb_secret_|sb_publishable_|sbp_[0-9a-f]{8}|postgres(ql)?://")
"""How keys and connection strings begin."""
WORDS = re.compile(r"_*(([^\W\d_]+[0-9]{0,4}|[0-9]{1,4})([ _.-]+|$))+")
"""A name of words, with a number at most behind each; anything else could be a secret."""
INVISIBLE = string.whitespace + "\u00a0\u200b\u2060\ufeff"
"""Characters around a value that are no part of it: blanks, and those of no width."""
SIMILAR = 0.9
"""From 0 to 1: a name that is as similar to one of ours is a mistyped one."""
MAX_NAME = 63
"""Bytes of a name in Postgres."""


class AppTable(NamedTuple):
    """Where the app's ratings are: the schema, the table, and its columns."""

    schema: str = "public"
    table: str = "ratings"
    user: str = "user_id"
    movie: str = "movie_id"
    rating: str = "rating"

    @property
    def columns(self) -> tuple[str, str, str]:
        """The columns of user, film and rating."""
        return self.user, self.movie, self.rating

    @property
    def expected(self) -> str:
        """What the database must have, and which settings change that, for error messages."""
        return (
            f"expected a table {self} with the columns {', '.join(self.shown.columns)}; "
            "APP_RATINGS_TABLE and its kind set other names, see .env.example"
        )

    @property
    def shown(self) -> AppTable:
        """The names as they may be printed: one that is not of words could be a secret."""
        return AppTable(*(name if WORDS.fullmatch(name) else "..." for name in self))

    @property
    def in_sql(self) -> tuple[str, str]:
        """The schema and the table as they are written in SQL, of the names that are shown."""
        schema, table = (
            name if re.fullmatch("[a-z_]+[0-9]*", name) else f'"{name}"' for name in self.shown[:2]
        )
        return schema, table

    def __str__(self) -> str:
        return f"{self.shown.schema}.{self.shown.table}"


class Settings(BaseSettings):
    """Values of the environment, then of `.env`. An empty variable counts as not set in both."""

    model_config = SettingsConfigDict(
        env_file=ENV_FILE,
        env_file_encoding=ENCODING,
        hide_input_in_errors=True,
        extra="ignore",
        frozen=True,
    )

    supabase_url: str | None = None
    """Base URL of the Supabase project, `https://PROJECT.supabase.co`."""

    supabase_service_role_key: SecretStr | None = None
    """Key that reads every row of the app's ratings; never printed."""

    supabase_db_url: SecretStr | None = None
    """The project's database, `postgresql://USER:PASSWORD@HOST:PORT/DATABASE`. If it is set, the
    app's ratings are read from it and not over REST. Never printed."""

    app_ratings_schema: str = "public"
    app_ratings_table: str = "ratings"
    app_ratings_user: str = "user_id"
    app_ratings_movie: str = "movie_id"
    app_ratings_rating: str = "rating"
    """See `app_table`."""

    app_ratings_role: str = "service_role"
    """The database role of the key: row-level security must not apply to it."""

    app_ratings_scale: Scale = "0.5-5"
    """The scale that the app's users rate on, see `app_ratings.scales`."""

    movielens_base_url: str | None = None
    """Where MovieLens archives are looked for before GroupLens: http(s)://, file:// or a folder."""

    cf_file_mode: int | None = None
    """Mode of the files that builds write, in octal digits; None: see `files.mode_for`."""

    @property
    def app_table(self) -> AppTable:
        """Where the app's ratings are."""
        return AppTable(
            self.app_ratings_schema,
            self.app_ratings_table,
            self.app_ratings_user,
            self.app_ratings_movie,
            self.app_ratings_rating,
        )

    @field_validator("*", mode="before")
    @classmethod
    def _check(cls, value: object, info: ValidationInfo) -> object:
        """Return the default for a blank value; refuse what cannot be meant, without quoting it."""
        if not isinstance(value, str):
            return value
        name = (info.field_name or "").upper()
        try:
            value.encode()
        except UnicodeEncodeError:
            raise ValueError(
                "the value is not UTF-8: write it in UTF-8 (in a URL, other letters as %XX)"
            ) from None
        value = value.strip(INVISIBLE)
        if not value:
            return cls.model_fields[name.lower()].default
        if len(value) > 1 and value[0] == value[-1] and value[0] in "\"'":
            raise ValueError(
                "the value has quotes around it, which docker's --env-file leaves in: write it "
                "without them"
            )
        if name in SOURCES and PLACEHOLDER.search(value):
            raise ValueError(
                "the value has a placeholder: put your own in its place, without brackets (in a "
                "password, [ is %5B, ] is %5D, < is %3C, > is %3E, $ is %24, { is %7B)"
            )
        if name == "CF_FILE_MODE":
            if not re.fullmatch("(0|0o)?6[0246]{2}", value):
                raise ValueError(
                    "expected the mode of a file in octal digits: 600, 640 (a group reads it), "
                    "660 (a group writes it), 644 or the like"
                )
            return int(value[-3:], 8)
        # What follows could be a secret in the wrong place, so it is not repeated.
        if name == "APP_RATINGS_SCALE" and value not in get_args(Scale):
            raise ValueError(
                f"expected one of {', '.join(get_args(Scale))}; "
                "for another scale make a view, see docs/app-database.md"
            )
        if name not in SOURCES[1:] and SECRET.match(value):
            raise ValueError("found what looks like a secret: is it in the place of another?")
        if name.startswith("APP_RATINGS_") and len(value.encode()) > MAX_NAME:
            raise ValueError(f"expected a name of at most {MAX_NAME} bytes")
        return value


def read_settings(env_file: Path = ENV_FILE) -> Settings:
    """Return the settings as they are now.

    Raises:
        InputError: the file cannot be read, or a variable has an invalid value.
    """
    lines = names_in(env_file)
    try:
        return Settings(_env_file=env_file)  # type: ignore[call-arg]
    except ValidationError as error:
        said = []
        for one in error.errors(include_url=False, include_input=False):
            name = str(one["loc"][0]).upper()
            where = (
                "the environment" if name in _environment() else f"{env_file}, line {lines[name]}"
            )
            said.append(f"{where}, {name}: {one['msg'].removeprefix('Value error, ')}")
    raise InputError("; ".join(said))


def describe_unknown(settings: Settings, env_file: Path = ENV_FILE) -> list[str]:
    """Return a warning for each variable that is not ours and looks like a mistyped one.

    It begins as ours do, or is very similar to one. Names that apps have for themselves are no
    mistake once one of ours is set. Other names that begin with SUPABASE_ are not mistakes where
    the app's ratings can be read, unless they are very similar.

    Raises:
        InputError: the file cannot be read.
    """
    lines = names_in(env_file)
    known = {name.upper() for name in Settings.model_fields}
    given = [name for name in SOURCES if getattr(settings, name.lower())]
    complete = "SUPABASE_DB_URL" in given or len(given) > 1
    said = []
    for name in sorted({*lines, *_environment()} - known):
        if OF_APPS.fullmatch(name) and given:
            continue
        nearest, similarity = _nearest(name, known)
        others = complete and name.startswith("SUPABASE_")
        if similarity < SIMILAR and (others or not name.startswith(PREFIXES)):
            continue
        where = f"{env_file}, line {lines[name]}" if name in lines else "the environment"
        said.append(f"{where}: {name} is not a setting; is {nearest} meant?")
    return said


def _nearest(name: str, known: set[str]) -> tuple[str, float]:
    """Return the most similar known name, also by its last word; and how similar one is, to 1."""

    def similarity(other: str) -> float:
        return SequenceMatcher(None, name, other).ratio()

    def same_word(other: str) -> bool:
        return name.rpartition("_")[2] == other.rpartition("_")[2]

    nearest = max(sorted(known), key=lambda other: similarity(other) + 0.2 * same_word(other))
    return nearest, max(map(similarity, known))


def _environment() -> set[str]:
    """Return the names of the environment's variables, in capitals as settings are read."""
    return {name.upper() for name in os.environ}
