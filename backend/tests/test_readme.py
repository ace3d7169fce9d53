"""The README is true: its snippet runs, its transcripts are printed, its flags are there."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from ml import build_collaborative, download_movielens

Run = Callable[..., subprocess.CompletedProcess[str]]
README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


def errors_of(model: str, text: str) -> list[float]:
    """RMSE and MAE in the line that ends with the model's name."""
    (line,) = (line for line in text.splitlines() if line.endswith(f"  {model}"))
    return [float(number) for number in re.findall(r"\d+\.\d+", line)]


def test_the_services_snippet_runs_on_a_build(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = run("ml.build_collaborative", "--dataset", "sample", "--models-dir",
               tmp_path / "ml" / "models")  # fmt: skip
    assert done.returncode == 0, done.stderr
    monkeypatch.chdir(tmp_path)
    (snippet,) = blocks("python")
    names: dict[str, Callable[[str, int], float | None]] = {}
    exec(snippet, names)
    score = names["collaborative_score"]("ml_sample_155", 862)
    assert score is not None
    assert 4 < score <= 5
    assert names["collaborative_score"]("nobody", 862) is None
    assert names["collaborative_score"]("ml_sample_155", 1) is None


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
    assert [x for x in kept[0] if ".pkl" not in x] == [x for x in kept[1] if ".pkl" not in x]
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
    folder = Path(__file__).parents[1] / "ml"
    modules = {path.name for path in folder.glob("*.py")} - {"__init__.py"}
    assert {name for name in modules if f"`ml/{name}`" not in README} == set()
