"""Settings of the app; other fields than the build's, and a key that is plain text."""

from pathlib import Path

from pydantic_settings import BaseSettings, SettingsConfigDict


class Settings(BaseSettings):
    model_config = SettingsConfigDict(env_file=Path(__file__).parent / ".env")

    environment: str = "development"
    tmdb_api_key: str
    supabase_url: str
    supabase_service_role_key: str
    cors_origins: list[str] = ["http://localhost:3000"]


settings = Settings()
