"""The README is true: its snippet runs, its transcripts are printed, its flags are there."""

from __future__ import annotations

import re
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
from helpers import BACKEND, copy_backend

from benchmarks.service_load import wait_until
from ml import build_collaborative, download_movielens

Run = Callable[..., subprocess.CompletedProcess[str]]
README = (BACKEND.parent / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


def errors_of(model: str, text: str) -> list[float]:
    """RMSE and MAE in the line that ends with the model's name."""
    (line,) = (line for line in text.splitlines() if line.endswith(f"  {model}"))
    return [float(number) for number in re.findall(r"\d+\.\d+", line)]


def test_the_services_snippets_run_over_http_before_and_after_the_first_build(
    script_env: dict[str, str], tmp_path: Path
) -> None:
    """The first as it stands, the second added to it, in a backend of their own."""
    copy_backend(tmp_path)
    first, second, _ = blocks("python")
    service = (first + second).replace("sleep(60)", "sleep(0.05)")
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
            subprocess.run(
                [sys.executable, "-m", "ml.build_collaborative", "--dataset", "sample", "--quiet"],
                cwd=tmp_path, env=script_env, check=True,
            )  # fmt: skip
            wait_until(lambda: client.get("/users/ml_sample_155/films").json(), "a release")
            known = client.get("/users/ml_sample_155/films", params={"n": 5}).json()
            assert known[0]["movie_id"] == 862  # as the demo says
            new = client.post("/films", json={"862": 5.0, "12": 5, "603": 0.5}).json()
            wrong = client.post("/films", json={"862": 7})
        server.terminate()
        server.communicate(timeout=30)
    assert len(new) == 10
    assert wrong.status_code == 422
    assert wrong.json() == {"detail": "film 862 has 7.0 stars, expected 0.5 to 5"}
    assert not {862, 12, 603} & {film["movie_id"] for film in new}


def test_the_old_way_snippet_runs_on_a_build(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    done = run("ml.build_collaborative", "--dataset", "sample", "--models-dir",
               tmp_path / "ml" / "models")  # fmt: skip
    assert done.returncode == 0, done.stderr
    monkeypatch.chdir(tmp_path)
    exec(blocks("python")[-1], {})
    est, impossible, users = capsys.readouterr().out.split()
    assert 1 <= float(est) <= 5
    assert (impossible, users) == ("False", "600")


def test_the_refused_publish_and_the_rollback_are_what_is_printed(
    run: Run, tmp_path: Path, movielens_archives: Path
) -> None:
    """All but build ids and folders, which no two builds share; figures to a thousandth."""

    def build(*args: str) -> subprocess.CompletedProcess[str]:
        return run(
            "ml.build_collaborative", "--catalog", "all", "--models-dir", tmp_path / "ml",
            "--data-dir", tmp_path / "data", *args, MOVIELENS_BASE_URL=str(movielens_archives),
        )  # fmt: skip

    def plain(text: str) -> list[str]:
        text = re.sub(r"\d{8}-\d{6}-[0-9a-f]{6}", "ID", text)
        text = re.sub(r"\d{4}-\d\d-\d\d \d\d:\d\d", "TIME", text)
        text = re.sub(r"is in \S+/refused/", "is in ml/models/refused/", text)
        return re.sub(
            r"(0|1)\.\d{4}\b", lambda number: f"{float(number[0]):.2f}", text
        ).splitlines()

    assert build().returncode == 0
    assert build("--algorithm", "bayesian").returncode == 0
    refused = build("--lr", "1e-300")
    assert refused.returncode == 5
    shown = next(block for block in blocks("console") if "refused to publish" in block)
    assert plain(shown)[1] == plain(refused.stderr)[-1]
    shown = next(block for block in blocks("console") if "--rollback" in block)
    found = build("--rollback").stdout.splitlines() + build("--list").stdout.splitlines()
    commands = [line for line in shown.splitlines() if not line.startswith("$ ")]
    assert plain("\n".join(commands)) == plain("\n".join(found))


def test_the_demos_transcript_is_what_it_prints(run: Run, tmp_path: Path) -> None:
    done = run("ml.build_collaborative", "--dataset", "sample", "--models-dir", tmp_path)
    (shown,) = (block for block in blocks("console") if block.startswith("ml_sample_155"))
    assert shown in done.stdout


def test_the_main_jobs_transcript_is_what_it_prints(
    run: Run, tmp_path: Path, movielens_archives: Path
) -> None:
    shown = blocks("console")[0]
    done = run(
        "ml.build_collaborative", "--catalog", "all", "--cv", "5", "--data-dir", tmp_path / "data",
        "--models-dir", tmp_path, MOVIELENS_BASE_URL=str(movielens_archives),
    )  # fmt: skip
    number = r"\d+\.\d+"
    wordings = [re.sub(number, "#", text) for text in (shown, done.stdout)]
    kept = [
        [line for line in text.splitlines() if "#" in line or line[:1].isupper()]
        for text in wordings
    ]
    same = [[x for x in lines if ".pkl" not in x and "Release " not in x] for lines in kept]
    assert same[0] == same[1]
    for model in ("SVD", "user and item biases", "global mean"):
        said, found = (errors_of(model, text) for text in (shown, done.stdout))
        assert said == pytest.approx(found, abs=0.001), model


def test_the_download_transcript_is_what_it_prints(
    run: Run, tmp_path: Path, movielens_archives: Path
) -> None:
    done = run("ml.download_movielens", "--catalog", "all", "--data-dir", tmp_path,
               MOVIELENS_BASE_URL=str(movielens_archives))  # fmt: skip
    assert done.returncode == 0
    assert done.stdout in README


@pytest.mark.parametrize("script", [build_collaborative, download_movielens])
def test_every_flag_and_exit_code_is_in_the_readme(
    script: object, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        script.main(["--help"])  # type: ignore[attr-defined]
    shown = capsys.readouterr().out
    flags = set(re.findall(r"--[a-z-]+", shown)) - {"--help"}
    assert len(flags) > 5
    assert {flag for flag in flags if f"`{flag}" not in README} == set()
    for code in re.findall(r"^  (\d)  ", shown, flags=re.MULTILINE):
        assert f"\n| {code} | " in README


def test_every_module_is_in_the_readme() -> None:
    folder = BACKEND / "ml"
    modules = {path.name for path in folder.glob("*.py")} - {"__init__.py"}
    assert {name for name in modules if f"`ml/{name}`" not in README} == set()
