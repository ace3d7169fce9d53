"""Settings: from the environment and .env, and secrets never print."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from helpers import BACKEND

from ml.collaborative.errors import InputError
from ml.collaborative.settings import (
    PREFIXES,
    AppTable,
    Settings,
    describe_unknown,
    read_settings,
)  # fmt: skip


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


@pytest.fixture
def env_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A path for a `.env`; nothing of it is set in the environment."""
    for name in [name for name in os.environ if name.startswith(PREFIXES)]:
        monkeypatch.delenv(name)
    return tmp_path / ".env"


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("SUPABASE_URL: s3cret", ", SUPABASE_URL: expected lines NAME=VALUE, found no ="),
        ("SUPABASE_URL", ", SUPABASE_URL: expected lines NAME=VALUE, found no ="),
        ('SUPABASE_DB_URL="s3cret', ", SUPABASE_DB_URL: expected lines NAME=VALUE, found a quote"),
        ("APP_SECRET='s3cret' more", ", APP_SECRET: expected lines NAME=VALUE, found a quote"),
        ("= s3cret", ": expected lines NAME=VALUE"),
        ("s3cretS3CRETs3cret==", None),
        ("s3cretS3CRETs3cret", ": expected lines NAME=VALUE, found no ="),
        ("OF_THE_APP", None),
        ("export OF_THE_APP = 's3cret' # as is", None),
        ("SUPABASE_DB_URL=postgresql://u:[YOUR-PASSWORD]@h/d", ", SUPABASE_DB_URL: the value has"),
        ("SUPABASE_DB_URL=postgresql://u:[s3:cret]@h/d", ", SUPABASE_DB_URL: the value has a plac"),
        ("SUPABASE_DB_URL=postgresql://u:s3cret@[::1]:5432/d", None),
        ("SUPABASE_URL=https://<project>.supabase.co", ", SUPABASE_URL: the value has a placeh"),
        ("SUPABASE_URL=http://[::1]:8000", None),
        ("SUPABASE_SERVICE_ROLE_KEY=<s3cret>", ", SUPABASE_SERVICE_ROLE_KEY: the value has a p"),
        ("APP_RATINGS_SCALE=0..5", ", APP_RATINGS_SCALE: expected one of 0.5-5, 1-5"),
        ("APP_RATINGS_SCALE=483920", ", APP_RATINGS_SCALE: expected one of 0.5-5, 1-5"),
        ("SUPABASE_URL=https://PROJECT.supabase.co", ", SUPABASE_URL: the value has a placeholder"),
        ("SUPABASE_URL=https://your-project.supabase.co", ", SUPABASE_URL: the value has a placeh"),
        ("SUPABASE_SERVICE_ROLE_KEY=your-service-role-key", ", SUPABASE_SERVICE_ROLE_KEY: the val"),
        ("SUPABASE_URL=eyJs3crets3cret", ", SUPABASE_URL: found what looks like a secret"),
        ("SUPABASE_URL=sb_secret_s3cret", ", SUPABASE_URL: found what looks like a secret"),
        ("SUPABASE_URL=postgresql://u:s3cret@h/d", ", SUPABASE_URL: found what looks like a sec"),
        ("MOVIELENS_BASE_URL=eyJs3crets3cret", ", MOVIELENS_BASE_URL: found what looks like"),
        ("APP_RATINGS_ROLE=eyJs3crets3cret", ", APP_RATINGS_ROLE: found what looks like a secret"),
        ("APP_RATINGS_TABLE=sb_ratings", None),
        ("\ufeffSUPABASE_URL=s3cret", ": the name has an invisible character in it: delete it"),
        ("SUPABASE\u200b_URL=s3cret", ": the name has an invisible character in it: delete it"),
        ("APP_RATINGS_SCALE=s3cret", ", APP_RATINGS_SCALE: expected one of 0.5-5, 1-5, 1-10, thu"),
        ("APP_RATINGS_TABLE=eyJs3cret", ", APP_RATINGS_TABLE: found what looks like a secret"),
        ("APP_RATINGS_USER=" + "s3cret" * 11, ", APP_RATINGS_USER: expected a name of at most"),
    ],
)
def test_a_setting_that_cannot_be_read_is_an_error_with_file_line_and_variable(
    env_file: Path, line: str, said: str | None
) -> None:
    env_file.write_text(f"A_NAME=x\n\n{line}\nB_NAME=y\n", encoding="utf-8")
    if said is None:
        read_settings(env_file)
    else:
        with pytest.raises(InputError) as failed:
            read_settings(env_file)
        assert str(failed.value).startswith(f"{env_file}, line 3{said}")
        assert "s3" not in str(failed.value).removeprefix(str(env_file))


def test_what_is_no_readable_file_in_place_of_env_is_an_error(env_file: Path) -> None:
    assert read_settings(env_file).supabase_url is None
    env_file.mkdir()
    with pytest.raises(InputError, match=r"\.env is a folder: .*docker makes a folder where"):
        read_settings(env_file)
    env_file.rmdir()
    os.mkfifo(env_file)
    with pytest.raises(InputError, match="is not a regular file"):
        read_settings(env_file)
    env_file.unlink()
    env_file.symlink_to("nowhere")
    with pytest.raises(InputError, match="a link to a file that does not exist"):
        read_settings(env_file)
    env_file.unlink()
    env_file.symlink_to("/dev/null")
    assert read_settings(env_file).supabase_url is None
    env_file.unlink()
    env_file.write_bytes(b"A=1\nSUPABASE_URL=caf\xe9\n")
    with pytest.raises(InputError, match=r"\.env, line 2: not UTF-8; save the file as UTF-8$"):
        read_settings(env_file)


@pytest.mark.parametrize("mark", ["\ufeff", ""])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_the_first_setting_is_read_whatever_an_editor_puts_before_it(
    env_file: Path, mark: str, end: str
) -> None:
    """python-dotenv on its own loses it after a byte-order mark, up to version 1.2.2."""
    lines = ["SUPABASE_URL=https://x.supabase.co\u200b", "APP_RATINGS_TABLE=\u00a0stars", ""]
    env_file.write_bytes((mark + end.join(lines)).encode())
    settings = read_settings(env_file)
    assert settings.supabase_url == "https://x.supabase.co"
    assert settings.app_ratings_table == "stars"


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_a_file_that_powershell_wrote_is_an_error(env_file: Path, encoding: str) -> None:
    env_file.write_bytes("SUPABASE_URL=https://x.supabase.co\n".encode(encoding))
    with pytest.raises(InputError, match="not UTF-8; save the file as UTF-8"):
        read_settings(env_file)


def test_bytes_that_are_not_utf_8_in_the_environment_are_an_error(
    env_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("SUPABASE_DB_URL", "SUPABASE_URL", "APP_RATINGS_TABLE"):
        monkeypatch.setenv(name, os.fsdecode(b"postgresql://u:s3cr\xe9t@h/d"))
        with pytest.raises(InputError) as failed:
            read_settings(env_file)
        assert str(failed.value) == (
            f"the environment, {name}: the value is not UTF-8: write it in UTF-8 (in a URL, other "
            "letters as %XX)"
        )
        monkeypatch.delenv(name)


def test_names_that_could_be_secrets_are_not_shown() -> None:
    for name in ("ratings", "Rated films", "user.id", "my-app", "bewertungen_2024", "étoiles"):
        assert AppTable(table=name).shown.table == name
    for name in ("s3cretS3cret", "Tr0ub4dor&3", "p@ssword", "x7d9f2k1", "it's; drop table x --"):
        assert str(AppTable(table=name)) == "public...."
        assert name not in AppTable(table=name, user=name).expected


@pytest.mark.parametrize("quote", ["'", '"'])
def test_quotes_that_docker_leaves_in_are_an_error(
    env_file: Path, monkeypatch: pytest.MonkeyPatch, quote: str
) -> None:
    env_file.write_text(f"SUPABASE_URL={quote}https://x.supabase.co{quote}\n", encoding="utf-8")
    assert read_settings(env_file).supabase_url == "https://x.supabase.co"
    monkeypatch.setenv("SUPABASE_SERVICE_ROLE_KEY", f"{quote}s3cret{quote}")
    with pytest.raises(InputError) as failed:
        read_settings(env_file)
    assert str(failed.value).startswith(
        "the environment, SUPABASE_SERVICE_ROLE_KEY: the value has quotes around it, which docker's"
    )
    assert "s3cret" not in str(failed.value)


@pytest.mark.parametrize(
    ("lines", "unknown", "nearest"),
    [
        ("SUPABASE_KEY=x", "SUPABASE_KEY", "SUPABASE_SERVICE_ROLE_KEY"),
        ("SUPABASE_URL=x\nSUPABASE_KEY=x", "SUPABASE_KEY", "SUPABASE_SERVICE_ROLE_KEY"),
        ("SUPABASE_DATABASE_URL=x", "SUPABASE_DATABASE_URL", "SUPABASE_DB_URL"),
        ("SUPABASE_ANON_KEY=x", "SUPABASE_ANON_KEY", "SUPABASE_SERVICE_ROLE_KEY"),
        ("SUPABASE_URL=x\nSUPABASE_ANON_KEY=x\nSUPABASE_JWT_SECRET=x", None, None),
        ("SUPABASE_DB_URL=x\nSUPABASE_OF_THE_APP=x", None, None),
        ("SUPABASE_DB_URL=x\nSUPABASE_UR=x", "SUPABASE_UR", "SUPABASE_URL"),
        ("SUPABASE_DB_URL=x\nAPP_RATINGS_SCALES=x", "APP_RATINGS_SCALES", "APP_RATINGS_SCALE"),
        ("NEXT_PUBLIC_SUPABASE_URL=x\nSUPABASE_URL=", None, None),
        ("SUPABASE_SERVICE_KEY=x", "SUPABASE_SERVICE_KEY", "SUPABASE_SERVICE_ROLE_KEY"),
        ("SUPABASE_SERVICE_ROLE=x", "SUPABASE_SERVICE_ROLE", "SUPABASE_SERVICE_ROLE_KEY"),
        ("SUPABSE_URL=x", "SUPABSE_URL", "SUPABASE_URL"),
        ("APP_RATING_SCALE=x", "APP_RATING_SCALE", "APP_RATINGS_SCALE"),
        ("APP_RATINGS_COLUMN=x", "APP_RATINGS_COLUMN", "APP_RATINGS_ROLE"),
        ("MOVIELENS_URL=x", "MOVIELENS_URL", "MOVIELENS_BASE_URL"),
        ("DATABASE_URL=x\nMODELS_DIR=x\nSCALE=x", None, None),
    ],
)
def test_a_name_that_begins_like_ours_and_is_not_is_warned_of(
    env_file: Path, monkeypatch: pytest.MonkeyPatch,
    lines: str, unknown: str | None, nearest: str | None,
) -> None:  # fmt: skip
    def said() -> list[str]:
        return describe_unknown(read_settings(env_file), env_file)

    env_file.write_text(lines, encoding="utf-8")
    end = f"{unknown} is not a setting; is {nearest} meant?"
    line = lines.count("\n") + 1
    assert said() == ([f"{env_file}, line {line}: {end}"] if unknown else [])
    env_file.unlink()
    for one in lines.splitlines():
        monkeypatch.setenv(*one.split("="))
    assert said() == ([f"the environment: {end}"] if unknown else [])


def test_a_build_with_settings_that_cannot_be_read_ends_with_3(
    run: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    done = run("ml.build_collaborative", "--models-dir", tmp_path, APP_RATINGS_SCALE="1..5")
    assert done.returncode == 3
    assert done.stderr == (
        "error: the environment, APP_RATINGS_SCALE: expected one of 0.5-5, 1-5, 1-10, thumbs; "
        "for another scale make a view, see docs/app-database.md\n"
    )


@pytest.mark.skipif(os.name == "nt", reason="there the environment is Unicode")
@pytest.mark.parametrize("name", sorted(name.upper() for name in Settings.model_fields))
def test_bytes_that_are_not_utf_8_are_one_line_without_the_value(
    env_file: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, os.fsdecode(b"postgresql://u:s3cr\xe9t@h/d"))
    with pytest.raises(InputError) as raised:
        read_settings(env_file)
    assert str(raised.value).startswith(f"the environment, {name}: the value is not UTF-8: ")
    assert "s3cr" not in str(raised.value)
