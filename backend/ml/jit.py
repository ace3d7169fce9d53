"""Compiled code kept as LLVM IR on disk and loaded with llvmlite alone.

Importing numba takes several times as long as training on ML-100K does, so numba is imported only
to make the code: once for each machine, version and state of the source.
"""

from __future__ import annotations

import hashlib
import logging
from contextlib import suppress
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

logger = logging.getLogger("ml.jit")

_engines: list[Any] = []
"""What owns the loaded code, to the end of the process."""


def load(source: Path, name: str, make: Callable[[], tuple[str, str]]) -> int:
    """The address of a compiled function.

    Args:
        source: the file with the code that `make` compiles; when it changes, so does the cache.
        name: of the function, unique in `source`.
        make: gives LLVM IR for this machine and the function's name in it. Called where the cache
            has none, or a damaged one. The function must not call others outside its module.

    Cached beside `source` as Python does, or in the user's cache folder where that is read-only;
    where neither can be written, the code is made in each process.
    """
    import llvmlite.binding as llvm

    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    cpu, features = llvm.get_host_cpu_name(), llvm.get_host_cpu_features().flatten()
    machine = llvm.Target.from_default_triple().create_target_machine(cpu, features, opt=3)
    made_by = f"numba {version('numba')}, llvmlite {version('llvmlite')}, {cpu}, {features}"
    key = hashlib.sha256(made_by.encode() + source.read_bytes()).hexdigest()[:16]
    cached = f"{source.stem}.{name}.{key}.ll"
    engine = next(_read(cached, source, name, machine), None)
    if engine is None:
        ir = _keep_only(*make(), name, machine)
        _write(cached, source, ir)
        engine = _engine(ir, machine)
    _engines.append(engine)
    return int(engine.get_function_address(name))


def _keep_only(ir: str, function: str, name: str, machine: Any) -> str:
    """The IR of one function, renamed, without what else its module holds."""
    import llvmlite.binding as llvm

    module = llvm.parse_assembly(ir)
    for other in module.functions:
        if not other.is_declaration and other.name != function:
            other.linkage = "internal"
    passes = llvm.create_new_module_pass_manager()
    passes.add_global_dead_code_eliminate_pass()
    passes.run(module, llvm.create_pass_builder(machine, llvm.create_pipeline_tuning_options()))
    module.get_function(function).name = name
    outside = [f.name for f in module.functions if f.is_declaration and f.name[:5] != "llvm."]
    if outside:  # resolving one that is not there would end the process
        raise RuntimeError(f"{name} calls code outside its module: {', '.join(outside)}")
    return str(module)


def _engine(ir: str, machine: Any) -> Any:
    """IR as machine code; RuntimeError where it is damaged."""
    import llvmlite.binding as llvm

    module = llvm.parse_assembly(ir)
    module.verify()
    engine = llvm.create_mcjit_compiler(module, machine)
    engine.finalize_object()
    return engine


def _folders(source: Path) -> Iterator[Path]:
    yield source.parent / "__pycache__"
    import platformdirs

    yield platformdirs.user_cache_path("movie-collaborative-filtering")


def _read(cached: str, source: Path, name: str, machine: Any) -> Iterator[Any]:
    """The cached code that is whole."""
    for folder in _folders(source):
        with suppress(OSError, RuntimeError, UnicodeDecodeError):
            ir = (folder / cached).read_text(encoding="utf-8")
            if f"@{name}(" in ir:
                yield _engine(ir, machine)


def _write(cached: str, source: Path, ir: str) -> None:
    """Keep it in the first folder that can be written."""
    from .files import replace_together

    for folder in _folders(source):
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with replace_together(folder / cached) as (file,):
                file.write(ir.encode())
        except OSError as error:
            logger.debug("compiled code cannot be kept in %s: %s", folder, error)
        else:
            return
