"""Small things that several test files need."""

from __future__ import annotations

import signal
import subprocess
from pathlib import Path


def interrupt(process: subprocess.Popen[str]) -> tuple[str, str]:
    """Press Ctrl-C; return the rest of stdout and stderr once the process has ended."""
    process.send_signal(signal.SIGINT)
    return process.communicate(timeout=60)


def contents(folder: Path) -> dict[str, bytes]:
    """Every file in a folder but its lock, by name."""
    return {
        path.name: path.read_bytes()
        for path in folder.iterdir()
        if path.is_file() and path.name != ".lock"
    }
