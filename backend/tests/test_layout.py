"""The folder that an app copies is laid out as docs/architecture.md says."""

from __future__ import annotations

from helpers import BACKEND

ML = BACKEND / "ml"
MODULES = [*ML.rglob("*.py")]


def test_beside_the_two_scripts_there_is_one_folder() -> None:
    """What is made by builds, `data` and `models`, is not committed."""
    found = {path.name for path in ML.iterdir()} - {"__pycache__", "data", "models"}
    assert found == {
        "__init__.py", "build_collaborative.py", "collaborative", "download_movielens.py",
    }  # fmt: skip


def test_no_room_has_more_than_ten_modules() -> None:
    rooms = {path.parent for path in MODULES} - {ML, ML / "collaborative"}
    sizes = {str(room.relative_to(ML)): len({*room.glob("*.py")} - {room / "__init__.py"})
             for room in rooms}  # fmt: skip
    assert {room: size for room, size in sizes.items() if size > 10} == {}
