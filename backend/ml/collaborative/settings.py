"""Settings of the build, from the environment and the `.env` beside the folder `ml`."""

from __future__ import annotations

from typing import Literal, NamedTuple

from pydantic import SecretStr, ValidationError, ValidationInfo, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from .errors import InputError
from .paths import ENV_FILE


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
            f"expected a table {self} with the columns {', '.join(self.columns)}; "
            "APP_RATINGS_TABLE and its kind set other names, see .env.example"
        )

    def __str__(self) -> str:
        return f"{self.schema}.{self.table}"


class Settings(BaseSettings):
    """Values of the environment, then of `.env`. An empty variable counts as not set in both."""

    model_config = SettingsConfigDict(
        env_file=ENV_FILE,
        env_file_encoding="utf-8-sig",
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

    app_ratings_scale: Literal["0.5-5", "1-5", "1-10", "thumbs"] = "0.5-5"
    """The scale that the app's users rate on, see `app_ratings.scales`."""

    movielens_base_url: str | None = None
    """Where MovieLens archives are looked for before GroupLens: http(s)://, file:// or a folder."""

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
    def _blank_is_not_set(cls, value: object, info: ValidationInfo) -> object:
        if not isinstance(value, str):
            return value
        return value.strip() or cls.model_fields[info.field_name or ""].default


def read_settings() -> Settings:
    """Return the settings as they are now.

    Raises:
        InputError: a variable has an invalid value.
    """
    try:
        return Settings()
    except ValidationError as error:
        said = "; ".join(
            f"{str(one['loc'][0]).upper()} is {one['input']!r}: {one['msg']}"
            for one in error.errors(include_url=False)
        )
    except ValueError as error:
        said = str(error)
    raise InputError(f"{ENV_FILE} or the environment is not usable: {said}") from None
