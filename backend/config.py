"""Settings of the backend, from the environment and `backend/.env`."""

from __future__ import annotations

from pathlib import Path

from pydantic import SecretStr, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict


class Settings(BaseSettings):
    """What the environment says, then `.env`. A variable that is empty is not set in either."""

    model_config = SettingsConfigDict(
        env_file=Path(__file__).with_name(".env"),
        env_file_encoding="utf-8",
        extra="ignore",
    )

    supabase_url: str | None = None
    """Base URL of the Supabase project, `https://PROJECT.supabase.co`."""

    supabase_service_role_key: SecretStr | None = None
    """Key that reads every row of the table `ratings`; never printed."""

    movielens_base_url: str | None = None
    """Where MovieLens archives are looked for before GroupLens: https, file:// or a folder."""

    @field_validator("*", mode="before")
    @classmethod
    def _blank_is_not_set(cls, value: object) -> object:
        return value.strip() or None if isinstance(value, str) else value


settings = Settings()
