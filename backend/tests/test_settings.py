"""Settings: from the environment and .env, and secrets never print."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from helpers import BACKEND

from ml.collaborative.settings import Settings


def test_the_environment_wins_over_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / ".env").write_text(
        "SUPABASE_URL=https://file.supabase.co\n"
        "SUPABASE_SERVICE_ROLE_KEY=from-file\n"
        "SOMETHING_OF_THE_APP=1\n",
        encoding="utf-8",
    )
    monkeypatch.setenv("SUPABASE_URL", "https://env.supabase.co")
    monkeypatch.delenv("SUPABASE_SERVICE_ROLE_KEY", raising=False)
    settings = Settings(_env_file=tmp_path / ".env")
    assert settings.supabase_url == "https://env.supabase.co"
    assert settings.supabase_service_role_key is not None
    assert settings.supabase_service_role_key.get_secret_value() == "from-file"


def test_an_empty_variable_is_not_set_whatever_the_file_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / ".env").write_text("SUPABASE_URL=https://file.supabase.co\n", encoding="utf-8")
    for name in ("SUPABASE_URL", "SUPABASE_SERVICE_ROLE_KEY", "MOVIELENS_BASE_URL"):
        monkeypatch.setenv(name, "")
    settings = Settings(_env_file=tmp_path / ".env")
    assert settings.supabase_url is None
    assert settings.supabase_service_role_key is None
    assert settings.movielens_base_url is None


def test_the_key_never_prints(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SUPABASE_SERVICE_ROLE_KEY", "eyJsecret")
    settings = Settings(_env_file=None)
    assert "eyJsecret" not in f"{settings!r} {settings} {settings.model_dump()}"


def test_every_setting_stands_in_the_example() -> None:
    example = (BACKEND / ".env.example").read_text(encoding="utf-8")
    names = {line.split("=")[0] for line in example.splitlines() if "=" in line and line[0] != "#"}
    assert names == {name.upper() for name in Settings.model_fields}


def test_a_scale_that_is_none_is_one_line(
    run: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    done = run("ml.build_collaborative", "--models-dir", tmp_path, APP_RATINGS_SCALE="1..5")
    assert done.returncode == 3
    assert done.stderr == (
        f"error: {BACKEND / '.env'} or the environment is not usable: APP_RATINGS_SCALE is '1..5': "
        "Input should be '0.5-5', '1-5', '1-10' or 'thumbs'\n"
    )
