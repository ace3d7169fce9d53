"""What the command lines share: flags, log lines, and errors as exit codes."""

from __future__ import annotations

import argparse
import errno
import logging
import math
import os
import stat
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from . import process
from .algorithms.training import ALGORITHMS, AUTO, PLAN
from .catalog import ALL
from .datasets import DEFAULT_DATASET, NAMES, parse_datasets
from .errors import MlError, UsageError
from .paths import DATA_DIR, MODELS_DIR, expand
from .spark import ALS

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

INTERRUPTED = 130
SHOWN = 5
"""A user's favourite films that are printed."""
EXIT_CODES = """\
exit codes:
  0  done
  1  the machine is in the way (disk full, no permission, no memory)
  2  wrong usage
  3  an input is missing or not what it should be
"""
STOPPED_CODES = "  130, 143, 129  stopped by Ctrl-C, TERM or HUP\n"
SOURCE_CODES = f"""\
{EXIT_CODES}\
  4  MovieLens or the app's database could not be reached
{STOPPED_CODES}"""
BUILD_CODES = f"""\
{EXIT_CODES}\
  4  MovieLens or the app's database could not be read, or the published model has app ratings
     and none came, or a Spark cluster failed
  5  the gate refused the model
{STOPPED_CODES}On every code but 0 the published files stay as they were.
"""

logger = logging.getLogger(__package__)


class Parser(argparse.ArgumentParser):
    """A parser whose errors are one line, not buried beneath the usage of every flag."""

    def _print_message(self, message: str, file: Any = None) -> None:
        """Print help or an error; where it cannot be printed the exit code stays as it is."""
        with suppress(OSError, ValueError):
            (file or sys.stderr).write(message)

    def error(self, message: str) -> NoReturn:
        """Say what is wrong and where help is; exit 2."""
        self.exit(2, f"error: {message}\nsee {self.prog} --help\n")


def make_parser(module: str, description: str, exit_codes: str = "") -> argparse.ArgumentParser:
    """Return a parser without flags, whose help ends with the exit codes."""
    return Parser(
        prog=f"python -m {module}",
        description=description,
        epilog=exit_codes,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,  # a shortened flag would change its meaning with the next new flag
    )


def add_noise_flags(parser: argparse.ArgumentParser) -> None:
    """Add --quiet and --verbose."""
    noise = parser.add_mutually_exclusive_group()
    noise.add_argument(
        "--quiet",
        action="store_true",
        help="print warnings, errors and what was asked for, nothing else",
    )
    noise.add_argument("--verbose", action="store_true", help="print more log lines")


def add_data_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags that say which ratings are read."""
    add = parser.add_argument
    add("--dataset", type=datasets, default=DEFAULT_DATASET, metavar="NAME[,NAME]",
        help=f"ratings to use: {', '.join(NAMES)} (default %(default)s)")  # fmt: skip
    add("--catalog", type=catalog_path, metavar="PATH|all",
        help="the app's TMDB ids, a joblib dump (default ml/models/movie_ids.pkl), "
        "or all: every film that has a TMDB id (the default for the sample)")  # fmt: skip
    add_data_dir_flag(parser)


def add_data_dir_flag(parser: argparse.ArgumentParser) -> None:
    """Add --data-dir."""
    parser.add_argument("--data-dir", type=folder, default=DATA_DIR, metavar="DIR",
        help="where MovieLens files are kept (default ml/data)")  # fmt: skip


def add_models_flag(parser: argparse.ArgumentParser) -> None:
    """Add --models-dir."""
    parser.add_argument("--models-dir", type=folder, default=MODELS_DIR, metavar="DIR",
        help="where the releases are (default ml/models)")  # fmt: skip


def add_training_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags that choose an algorithm, its parameters and its seed."""
    als, add = ALS.defaults, parser.add_argument
    add("--algorithm", choices=[AUTO, *ALGORITHMS],
        help="auto (default): the better of svd and bayesian; or one of them")  # fmt: skip
    add("--factors", type=at_least(1),
        help=f"length of the vectors (default {PLAN.factors}; ALS {als.factors})")  # fmt: skip
    add("--epochs", type=at_least(1),
        help=f"svd, ALS: passes (default {PLAN.epochs}; ALS {als.epochs})")  # fmt: skip
    add("--lr", type=positive, help=f"svd: learning rate (default {PLAN.lr})")
    add("--reg", type=positive,
        help=f"svd, ALS: regularisation (default {PLAN.reg}; ALS {als.reg})")  # fmt: skip
    add("--seed", type=at_least(0), default=0,
        help="the same seed and data give the same model (default %(default)s)")  # fmt: skip


def datasets(text: str) -> str:
    """Return the names of one data set or several (an argparse type)."""
    try:
        return ",".join(parse_datasets(text))
    except UsageError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def file(text: str) -> Path:
    """Return a path, ~ expanded (an argparse type).

    A link that leads nowhere, or a folder that may not be entered, is an error where it is used.
    """
    if not text.strip():
        raise argparse.ArgumentTypeError(f"{text!r} is not a path")
    path = expand(text)
    if text.startswith("~") and path == Path(text):
        raise argparse.ArgumentTypeError(f"{text!r} has no home; a file of that name is ./{text}")
    try:
        path.stat()
    except FileNotFoundError:
        pass
    except OSError as error:
        if error.errno in (errno.ENAMETOOLONG, errno.ELOOP):
            shown = repr(text if len(text) < 80 else f"{text[:60]}…")
            raise argparse.ArgumentTypeError(f"{shown}: {error.strerror}") from None
    return path


def folder(text: str) -> Path:
    """Return the path of a folder, which need not exist yet (an argparse type)."""
    path = file(text)
    with suppress(OSError):
        if not stat.S_ISDIR(path.stat().st_mode):
            raise argparse.ArgumentTypeError(f"{text!r} is not a folder")
    return path


def at_least(lowest: int) -> Callable[[str], int]:
    """Return an argparse type: an integer from `lowest` to what NumPy takes as a seed."""

    def integer(text: str) -> int:
        if not (text.isdecimal() and lowest <= int(text) < 2**32):
            raise argparse.ArgumentTypeError(
                f"{text!r} is not an integer from {lowest} to {2**32 - 1}"
            )
        return int(text)

    return integer


def positive(text: str) -> float:
    """Return a finite number above zero (an argparse type)."""
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not 0 < number < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0")
    return number


def hadoop_path(text: str) -> str:
    """Return a path or URL for Spark (an argparse type)."""
    if not text.strip():
        raise argparse.ArgumentTypeError("expected a path or URL, found nothing")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise argparse.ArgumentTypeError("the path has bytes that are not UTF-8") from None
    return str(file(text)) if text.startswith("~") else text


def catalog_path(text: str) -> str:
    """Return the path of a catalog, or `all` (an argparse type)."""
    if text == ALL:
        return text
    if not text.strip():
        raise argparse.ArgumentTypeError(f"{text!r} is not a path: name a joblib dump, or {ALL}")
    path = file(text)
    if text.lower() == ALL and not path.exists():
        raise argparse.ArgumentTypeError(f"there is no file {text!r}; for every film say {ALL}")
    return str(path) if str(path) != ALL else f"./{ALL}"


def use_file_mode() -> None:
    """Give new files the mode that CF_FILE_MODE says, from here on, see `files.use_mode`.

    Raises:
        InputError: see `settings.read_settings`.
    """
    from .files import use_mode
    from .settings import read_settings

    use_mode(read_settings().cf_file_mode)


def print_result(lines: Sequence[str]) -> None:
    """Print what a command was asked for.

    Raises:
        OSError: it cannot be printed; that a reader such as `head` has enough is no error.
    """
    try:
        process.print_out("\n".join(lines))
    except OSError as error:
        sys.stdout = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115  until exit
        if not isinstance(error, BrokenPipeError):
            error.filename = "standard output"
            raise


def print_lines(lines: Sequence[str]) -> None:
    """Print a summary; where stdout is full or closed, only warn, for the work itself is done."""
    try:
        process.print_out("\n".join(lines))
    except (OSError, UnicodeEncodeError) as error:
        logger.warning("done, but the summary could not be printed: %s", error)
        sys.stdout = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115  until exit


def run(work: Callable[[argparse.Namespace], None], args: argparse.Namespace) -> int:
    """Run a command's work; return its exit code, with any error as a line on stderr."""
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(levelname)s: %(message)s"))
    logger.addHandler(handler)
    level = logger.level
    logger.setLevel(
        logging.WARNING if args.quiet else logging.DEBUG if args.verbose else logging.INFO
    )
    try:
        with process.working():
            work(args)
    except MlError as error:
        code, message = error.exit_code, str(error)
    except process.Stopped as error:
        code, message = error.exit_code, str(error)
    except KeyboardInterrupt:
        code, message = INTERRUPTED, process.STOPPED
    except Exception as error:
        code, message = 1, process.describe(error) or ""
        if not message:
            logger.debug("what happened", exc_info=error)
            message = process.describe_fault(error)
    else:
        return 0
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
    process.say(f"error: {message}")
    return code
