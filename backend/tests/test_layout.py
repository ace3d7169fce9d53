"""The folder that an app copies is laid out as docs/architecture.md says."""

from __future__ import annotations

import ast

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


def test_no_module_has_more_than_300_lines() -> None:
    lines = {
        str(path.relative_to(ML)): path.read_text(encoding="utf-8").count("\n") for path in MODULES
    }
    assert {module: count for module, count in lines.items() if count > 300} == {}


def test_surprise_is_imported_in_one_place() -> None:
    """It makes a folder in the home when it is imported, which `surprise_classes` prevents."""
    found = set()
    for path in MODULES:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for_types = {
            id(node)
            for test in ast.walk(tree)
            if isinstance(test, ast.If) and ast.unparse(test.test) == "TYPE_CHECKING"
            for node in ast.walk(test)
        }
        for node in ast.walk(tree):
            names = [name.name for name in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and not node.level:
                names = [node.module or ""]
            if id(node) not in for_types and "surprise" in {name.split(".")[0] for name in names}:
                found.add(path.name)
    assert found == {"surprise_classes.py"}


def test_modules_import_each_other_relatively_and_no_config_of_the_app() -> None:
    wrong = {}
    for path in MODULES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [name.name for name in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and not node.level:
                names = [node.module or ""]
            if {name.split(".")[0] for name in names} & {"ml", "config"}:
                wrong[str(path.relative_to(ML))] = names
    assert wrong == {}
