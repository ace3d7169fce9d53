"""Build with default flags on the catalogs of real apps: films covered, errors, exit codes.

Run it in `backend/`: python -m benchmarks.catalogs FOLDER
FOLDER has one file of TMDB ids a catalog, an id a line, `NAME.txt`.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import joblib
import numpy as np
from tqdm import tqdm

from ml.collaborative.paths import DATA_DIR

DATASETS = ("ml-100k", "ml-latest-small")
SEEDS = (0, 1, 2)
MODELS = ("user and item biases", "SVD", "Bayesian")


def build(catalog: Path, dataset: str, seed: int, data_dir: Path) -> tuple[int, dict[str, float]]:
    """Return the exit code of a first build, and films and RMSE by model."""
    with TemporaryDirectory() as folder:
        command = [
            sys.executable, "-m", "ml.build_collaborative", "--catalog", catalog, "--dataset",
            dataset, "--seed", seed, "--data-dir", data_dir, "--models-dir", folder,
        ]  # fmt: skip
        done = subprocess.run([*map(str, command)], capture_output=True, text=True, check=False)
        path = Path(folder) / "manifest.json"
        if not path.is_file():
            return done.returncode, {}
        manifest = json.loads(path.read_text(encoding="utf-8"))
    found = {score["model"]: score["rmse"] for score in manifest["metrics"] if "rmse" in score}
    found |= {"covered": manifest["catalog"]["covered"], "films": manifest["catalog"]["films"]}
    found["algorithm"] = manifest["algorithm"]
    return done.returncode, found


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--data-dir", type=Path, default=DATA_DIR)
    args = parser.parse_args()
    files = sorted(args.folder.glob("*.txt"))
    print("| catalog | set | films with ratings | biases / svd / bayesian | published | exit |")
    print("|---|---|---:|---|---|---|")
    with TemporaryDirectory() as folder, tqdm(total=len(files) * len(DATASETS) * 3) as bar:
        for file in files:
            catalog = Path(folder) / "movie_ids.pkl"
            joblib.dump([int(line) for line in file.read_text().split()], catalog)
            for dataset in DATASETS:
                found = []
                for seed in SEEDS:
                    found.append(build(catalog, dataset, seed, args.data_dir))
                    bar.update()
                codes = ", ".join(str(code) for code, _ in found)
                whole = [values for _, values in found if values]
                if not whole:
                    print(f"| {file.stem} | {dataset} | 0 | | | {codes} |")
                    continue
                rmse = " / ".join(f"{np.mean([v[m] for v in whole]):.4f}" for m in MODELS)
                names = ", ".join(str(values["algorithm"]) for values in whole)
                covered = f"{whole[0]['covered']} of {whole[0]['films']}"
                print(f"| {file.stem} | {dataset} | {covered} | {rmse} | {names} | {codes} |")


if __name__ == "__main__":
    main()
