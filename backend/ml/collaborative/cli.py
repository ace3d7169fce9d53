"""What the two scripts share: their common flags, log lines, and errors as exit codes."""

from __future__ import annotations

import argparse
import logging
import math
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from .catalog import ALL, read_catalog
from .datasets.movielens import DEFAULT_DATASET, NAMES
from .errors import MlError
from .paths import CATALOG, DATA_DIR

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

INTERRUPTED = 130
EXIT_CODES = """\
exit codes:
  0  done
  1  the machine is in the way (disk full, no permission)
  2  wrong usage
  3  an input is missing or not what it should be
"""
DOWNLOAD_CODES = f"""\
{EXIT_CODES}\
  4  MovieLens could not be reached
"""
BUILD_CODES = f"""\
{EXIT_CODES}\
  4  MovieLens or the app's database could not be read, or the app's ratings are gone that the
     published model has, or a Spark cluster could not be reached or failed
  5  the trained model is not fit to be published
On every code but 0 what was published stays as it was.
"""

logger = logging.getLogger(__package__)


class Parser(argparse.ArgumentParser):
    """One whose errors are a line, not buried beneath the usage of every flag."""

    def error(self, message: str) -> NoReturn:
        """Say what is wrong and where help is; exit 2."""
        self.exit(2, f"error: {message}\nsee {self.prog} --help\n")


def make_parser(module: str, description: str, exit_codes: str) -> argparse.ArgumentParser:
    """A parser with the flags that both scripts take; its help ends with the exit codes."""
    parser = Parser(
        prog=f"python -m {module}",
        description=description,
        epilog=exit_codes,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,  # what a shortened flag means would change with the next flag
    )
    parser.add_argument(
        "--dataset",
        choices=NAMES,
        default=DEFAULT_DATASET,
        help=f"ratings to use (default {DEFAULT_DATASET}; sample is generated, for a first try)",
    )
    parser.add_argument(
        "--catalog",
        type=catalog_path,
        metavar="PATH|all",
        help="the app's TMDB ids, a joblib dump (default ml/models/movie_ids.pkl), "
        "or all: every film that has a TMDB id (the default for the sample)",
    )
    parser.add_argument(
        "--data-dir",
        type=folder,
        default=DATA_DIR,
        metavar="DIR",
        help="where MovieLens files are kept (default ml/data)",
    )
    add_noise(parser)
    return parser


def add_noise(parser: argparse.ArgumentParser) -> None:
    """The flags that every script has: how much it says."""
    noise = parser.add_mutually_exclusive_group()
    noise.add_argument(
        "--quiet",
        action="store_true",
        help="no log, no summary: only warnings, errors and what other flags ask for",
    )
    noise.add_argument("--verbose", action="store_true", help="more log lines")


def folder(text: str) -> Path:
    """An argparse type: the path of a folder, which need not exist yet."""
    path = Path(text)
    if not text or (path.exists() and not path.is_dir()):
        raise argparse.ArgumentTypeError(f"{text!r} is no folder")
    return path


def at_least(lowest: int) -> Callable[[str], int]:
    """An argparse type: an integer from `lowest` to what NumPy takes as a seed."""

    def integer(text: str) -> int:
        if not (text.isdecimal() and lowest <= int(text) < 2**32):
            raise argparse.ArgumentTypeError(f"{text!r} is no integer from {lowest} to {2**32 - 1}")
        return int(text)

    return integer


def positive(text: str) -> float:
    """An argparse type: a finite number above zero."""
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not 0 < number < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is no number above 0")
    return number


def some_text(text: str) -> str:
    """An argparse type: text that is not blank."""
    if not text.strip():
        raise argparse.ArgumentTypeError("expected a path or URL, found nothing")
    return text


def catalog_path(text: str) -> str:
    """An argparse type: the path of a catalog, or `all`."""
    if not text.strip():
        raise argparse.ArgumentTypeError(f"{text!r} is no path: name a joblib dump, or say {ALL}")
    if text != ALL and text.lower() == ALL and not Path(text).exists():
        raise argparse.ArgumentTypeError(f"there is no file {text!r}; for every film say {ALL}")
    return text


def resolve_catalog(catalog: str | Path | None, dataset: str) -> frozenset[int] | None:
    """The catalog's ids; None stands for every film (the sample's default).

    Raises:
        InputError: see `catalog.read_catalog`.
    """
    if catalog is None:
        catalog = ALL if dataset == "sample" else CATALOG
    return None if str(catalog) == ALL else read_catalog(catalog)


def print_lines(lines: Sequence[str]) -> None:
    """Print results; where stdout is full or closed, only warn, for the work itself is done."""
    try:
        print("\n".join(lines), flush=True)
    except (OSError, UnicodeEncodeError) as error:
        logger.warning("done, but the summary could not be printed: %s", error)
        sys.stdout = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115  until exit


def run(work: Callable[[argparse.Namespace], None], args: argparse.Namespace) -> int:
    """Run a script's work; return its exit code, any error said in a line on stderr."""
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(levelname)s: %(message)s"))
    logger.addHandler(handler)
    logger.setLevel(
        logging.WARNING if args.quiet else logging.DEBUG if args.verbose else logging.INFO
    )
    try:
        from .settings import read_settings

        read_settings()  # what is wrong with them is said at once
        work(args)
    except MlError as error:
        code, message = error.exit_code, str(error)
    except KeyboardInterrupt:
        code, message = INTERRUPTED, "interrupted; nothing is half-written"
    except OSError as error:
        where = f": {error.filename}" if error.filename else ""
        code, message = 1, f"{error.strerror or error}{where}"
    except ModuleNotFoundError as error:
        code, message = (
            1,
            (
                f"the package {error.name} is not installed: use the Python of .venv, "
                "or install requirements.txt"
            ),
        )
    except MemoryError as error:
        code, message = 1, f"not enough memory: {error}"
    else:
        return 0
    finally:
        logger.removeHandler(handler)
    print(f"error: {message}", file=sys.stderr)
    return code
