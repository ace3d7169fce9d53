"""Find the names in a `.env` file, each with its line; refuse a file that cannot be read whole."""

from __future__ import annotations

import io
import re
import stat
from typing import TYPE_CHECKING

from dotenv.parser import parse_stream

from .errors import InputError

if TYPE_CHECKING:
    from pathlib import Path

ENCODING = "utf-8-sig"
LINES = "expected lines NAME=VALUE"
PASSED_ON = "(?!SUPABASE_|APP_RATINGS_|MOVIELENS_)[A-Z][A-Z0-9_]*"
"""A name that may be without a value: it is not of our settings."""


def names_in(path: Path) -> dict[str, int]:
    """Return the line, from 1, that each name is set on last; names in capitals.

    There are none where there is no file. Values are not looked at and never in an error.

    Raises:
        InputError: it is not a file, cannot be read, or has a line that is not NAME=VALUE.
    """
    try:
        mode = path.stat().st_mode
        if stat.S_ISCHR(mode):  # /dev/null: an empty file for docker
            return {}
        if not stat.S_ISREG(mode):
            kind = "a folder" if stat.S_ISDIR(mode) else "not a regular file"
            raise InputError(
                f"{path} is {kind}: {LINES} in a file; delete it, or put the file in its place "
                "(docker makes a folder where a file to be mounted is missing)"
            )
        data = path.read_bytes()
    except FileNotFoundError:
        if path.is_symlink():
            raise InputError(f"{path} is a link to a file that does not exist") from None
        return {}
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from None
    try:
        text = data.decode(ENCODING)
    except UnicodeDecodeError as error:
        line = 1 + data.count(b"\n", 0, error.start)
        raise InputError(f"{path}, line {line}: not UTF-8; save the file as UTF-8") from None
    if "\0" in text:  # UTF-16 without a byte-order mark
        raise InputError(f"{path}: not UTF-8; save the file as UTF-8")
    found = {}
    for binding in parse_stream(io.StringIO(text)):
        said = binding.original.string
        blank = said[: len(said) - len(said.lstrip())]
        line = binding.original.line + len(re.findall(r"\r\n|\n|\r", blank))
        # Docker passes a variable of this name on; other words are parts of a broken value.
        alone = binding.key is not None and binding.value is None
        if binding.error or (alone and not re.fullmatch(PASSED_ON, binding.key or "")):
            raise InputError(f"{path}, line {line}{_variable(said)}: {_malformed(said)}")
        if binding.key is not None:
            # A byte-order mark, where files were put together, or a character from a web page.
            if not binding.key.isprintable():
                raise InputError(
                    f"{path}, line {line}: the name has an invisible character in it: delete it, "
                    "and type the name anew"
                )
            found[binding.key.upper()] = line
    return found


def _variable(line: str) -> str:
    """Return the name at the line's beginning, for an error; blank where it could be a secret."""
    name = re.match(r"\s*(?:export\s+)?([A-Z][A-Z0-9]*(?:_[A-Z0-9]+)+)\s*(?:[=:]|$)", line)
    return f", {name[1]}" if name else ""


def _malformed(line: str) -> str:
    """Return what is wrong with a line."""
    value = line.partition("=")[2].lstrip()
    if value[:1] in {'"', "'"}:
        return f"{LINES}, found a quote that does not end, or text behind it"
    return f"{LINES}{'' if '=' in line else ', found no ='}"
