"""Settings of the backend, from the environment and `backend/.env`."""

from __future__ import annotations

from pathlib import Path

from pydantic import SecretStr  # noqa: TC002  pydantic reads the annotation at run time
from pydantic_settings import BaseSettings, SettingsConfigDict


class Settings(BaseSettings):
    """What the environment says. A variable that is empty counts as not set."""

    model_config = SettingsConfigDict(
        env_file=Path(__file__).with_name(".env"),
        env_file_encoding="utf-8",
        env_ignore_empty=True,
        extra="ignore",
    )

    supabase_url: str | None = None
    """Base URL of the Supabase project, `https://PROJECT.supabase.co`."""

    supabase_service_role_key: SecretStr | None = None
    """Key that reads every row of the table `ratings`; never printed."""

    movielens_base_url: str | None = None
    """Where MovieLens archives are looked for before GroupLens: https, file:// or a folder."""


settings = Settings()
