"""README and pages are true: snippets run, transcripts are what is printed, flags exist."""

from __future__ import annotations

import re
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import httpx
import joblib
import pytest
from helpers import BACKEND, copy_backend, popular_films

from benchmarks.service_load import wait_until
from ml import build_collaborative, download_movielens
from ml.collaborative import __main__ as tool
from ml.collaborative import errors

Run = Callable[..., subprocess.CompletedProcess[str]]
PAGES = {
    path.stem: path.read_text(encoding="utf-8")
    for path in (BACKEND.parent / "README.md", *(BACKEND / "docs").glob("*.md"))
}
README = PAGES["README"]


def blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGES[page], flags=re.DOTALL)


def transcript(page: str, command: str) -> str:
    """What a page shows below the one command that has this text."""
    parts = [
        part for block in blocks(page, "console") for part in re.split(r"^\$ ", block, flags=re.M)
    ]
    (shown,) = (part for part in parts if command in part.partition("\n")[0])
    return shown.partition("\n")[2]


def plain(text: str) -> list[str]:
    """Lines without what no two builds share: ids, times, folders; figures to a thousandth."""
    text = re.sub(r"\d{8}-\d{6}-[0-9a-f]{6}", "ID", text)
    text = re.sub(r"\d{4}-\d\d-\d\d \d\d:\d\d", "TIME", text)
    text = re.sub(r"\S+/(refused/|\w+\.pkl)", r"\1", text)
    text = re.sub(r"\b\d+\.\d+ (s|MB)\b", r"N \1", text)
    return re.sub(r"\d\.\d{4}\b", lambda number: f"{float(number[0]):.2f}", text).splitlines()


def test_the_services_snippets_run_over_http_before_and_after_the_first_build(
    script_env: dict[str, str], tmp_path: Path
) -> None:
    """The first as it stands, the second added to it, in a backend of their own; then README's."""
    copy_backend(tmp_path)
    first, second, _ = blocks("serving", "python")
    service = (first + second).replace("seconds=60", "seconds=0.05")
    (tmp_path / "service.py").write_text(service, encoding="utf-8")
    code = "import sys, uvicorn; uvicorn.run('service:app', fd=int(sys.argv[1]))"
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = subprocess.Popen(
            [sys.executable, "-c", code, str(listener.fileno())], cwd=tmp_path, env=script_env,
            pass_fds=[listener.fileno()], stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        with httpx.Client(base_url=url, timeout=30) as client:
            assert client.get("/users/ml_sample_155/films").json() == []
            assert client.post("/films", json={"862": 5.0}).json() == []
            assert client.get("/health").json()["status"] == "waiting"
            subprocess.run(
                [sys.executable, "-m", "ml.build_collaborative", "--dataset", "sample", "--quiet"],
                cwd=tmp_path, env=script_env, check=True,
            )  # fmt: skip
            wait_until(lambda: client.get("/users/ml_sample_155/films").json(), "a release")
            known = client.get("/users/ml_sample_155/films", params={"n": 5}).json()
            new = client.post("/films", json={"862": 5.0, "12": 5, "603": 0.5}).json()
            wrong = client.post("/films", json={"862": 7})
        server.terminate()
        server.communicate(timeout=30)
    assert len(known) == 5
    assert len(new) == 10
    assert wrong.status_code == 422
    assert wrong.json() == {"detail": "film 862 has 7.0 stars, expected 0.5 to 5"}
    assert not {862, 12, 603} & {film["movie_id"] for film in new}
    (snippet,) = blocks("README", "python")
    done = subprocess.run([sys.executable, "-c", snippet], cwd=tmp_path, env=script_env,
                          check=True, capture_output=True, text=True)  # fmt: skip
    films, stars = done.stdout.splitlines()
    assert films.count("Recommendation(") == 5
    assert all(1 <= float(number) <= 5 for number in stars.strip("[]").split())


def test_the_pickles_snippet_runs_on_a_build(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    done = run("ml.build_collaborative", "--dataset", "sample", "--models-dir",
               tmp_path / "ml" / "models")  # fmt: skip
    assert done.returncode == 0, done.stderr
    monkeypatch.chdir(tmp_path)
    exec(blocks("serving", "python")[-1], {})
    est, impossible, users = capsys.readouterr().out.split()
    assert 1 <= float(est) <= 5
    assert (impossible, users) == ("False", "600")


def test_the_transcripts_are_what_is_printed(
    run: Run, tmp_path: Path, movielens_archives: Path
) -> None:
    """Build, recommend, export, a refused publish, a rollback and the list, in one folder."""
    models, data = ["--models-dir", tmp_path / "ml"], ["--data-dir", tmp_path / "data"]

    def build(*args: str) -> subprocess.CompletedProcess[str]:
        return run("ml.build_collaborative", "--catalog", "all", *models, *data, *args,
                   MOVIELENS_BASE_URL=str(movielens_archives))  # fmt: skip

    def command(*args: object) -> list[str]:
        done = run("ml.collaborative", *args, *models)
        assert done.returncode == 0, done.stderr
        return plain(done.stdout.replace(f"{tmp_path}/", ""))

    joblib.dump(popular_films(), tmp_path / "movie_ids.pkl")
    popular = "--catalog", str(tmp_path / "movie_ids.pkl")
    warned = build(*popular, "--quiet")
    assert transcript("README", "build_collaborative --quiet") == warned.stderr
    shown = transcript("README", "--dataset ml-latest-small 2>/dev/null")
    assert plain(shown) == plain(build(*popular, "--dataset", "ml-latest-small").stdout)
    stars = ["--stars", "27205=5", "157336=4.5", "-n", "5"]
    shown = transcript("README", " ".join(stars))
    assert command("recommend", *stars, *data) == plain(shown)
    assert build("--algorithm", "svd").returncode == 0
    assert command("export", tmp_path / "top.parquet") == plain(transcript("serving", " export "))
    assert build("--algorithm", "bayesian").returncode == 0
    refused = build("--lr", "1e-300")
    assert refused.returncode == 5
    assert plain(transcript("releases", "--lr 1e-300"))[0] == plain(refused.stderr)[-1]
    assert command("rollback") == plain(transcript("releases", "collaborative rollback"))
    assert command("releases") == plain(transcript("releases", "collaborative releases"))


def test_the_download_transcript_is_what_it_prints(
    run: Run, tmp_path: Path, movielens_archives: Path
) -> None:
    done = run("ml.download_movielens", "--catalog", "all", "--data-dir", tmp_path,
               MOVIELENS_BASE_URL=str(movielens_archives))  # fmt: skip
    assert done.returncode == 0
    assert done.stdout == transcript("movielens", "ml.download_movielens")


def test_the_page_of_the_command_line_has_every_flag_command_and_exit_code_and_no_other(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "200")  # no flag is broken at a hyphen

    def shown(main: Callable[[list[str]], int], *command: str) -> str:
        with pytest.raises(SystemExit):
            main([*command, "--help"])
        return capsys.readouterr().out

    overview = shown(tool.main)
    commands = re.findall(r"^    ([a-z]+[a-z-]*)\b", overview, flags=re.MULTILINE)
    assert len(commands) == 8
    helps = [shown(build_collaborative.main), shown(download_movielens.main), overview]
    helps += [shown(tool.main, command) for command in commands]
    flags = set(re.findall(r"(?<![\w-])--?[a-z][a-z-]*", "".join(helps))) - {"-h", "--help", "-m"}
    page = PAGES["command-line"]
    assert set(re.findall(r"`(--?[a-z][a-z-]*)", page)) == flags
    assert set(re.findall(r"`(--[a-z-]+)", README)) <= flags
    assert [command for command in commands if not re.search(rf"\| `{command}\b", page)] == []
    codes = re.findall(r"^  (\d[\d, ]*)  ", "".join(helps), flags=re.MULTILINE)
    for text in (page, README):
        assert set(re.findall(r"^\| (\d[\d, ]*) \|", text, flags=re.MULTILINE)) == set(codes)
    build_flags = set(re.findall(r"(?<![\w-])--[a-z-]+", helps[0])) - {"--help"}
    assert len(build_flags) <= 22


def test_the_readme_is_short() -> None:
    assert len(README.encode()) <= 9216


def test_the_page_on_architecture_has_every_room_and_every_error() -> None:
    folder, page = Path(errors.__file__).parent, PAGES["architecture"]
    rooms = {path.parent.name for path in folder.glob("*/__init__.py")}
    assert set(re.findall(r"^\| `(\w+)/` \|", page, flags=re.MULTILINE)) == rooms
    for name, error in vars(errors).items():
        if isinstance(error, type) and issubclass(error, errors.MlError):
            line = re.search(rf"\b{name}\b(.*)", page)
            assert line, name
            if "exit_code" in vars(error):
                assert line[1].split()[0] == str(error.exit_code), name


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_to_files(page: str) -> None:
    folder = BACKEND.parent if page == "README" else BACKEND / "docs"
    links = re.findall(r"\]\((?!http)([^)#]+)", PAGES[page])
    assert [link for link in links if not (folder / link).exists()] == []
