"""Python functions over arrays, compiled by numba once and then loaded with llvmlite alone.

Importing numba takes several times as long as training on ML-100K does, so it is imported only
where the compiled code, kept on disk as LLVM IR, is not there or not of this machine, these
versions and this source.
"""

from __future__ import annotations

import ctypes
import hashlib
import inspect
import logging
import os
from contextlib import contextmanager, suppress
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

logger = logging.getLogger(__name__)


class Argument(NamedTuple):
    """The type of a compiled function's argument."""

    dtype: str
    dimensions: int = 0
    """0: a plain number."""
    changed: bool = False
    """Whether the function writes into the array."""


@cache
def compiled(
    function: Callable[..., float], *arguments: Argument, apart: bool = False
) -> Callable[..., float]:
    """Compile a function to machine code; other threads run while it does.

    Args:
        function: takes numbers and arrays in C order, changes arrays in place, gives a float. It
            may use arithmetic and loops (`x**0.5` for a root), but make no array and call nothing.
        arguments: the types of its arguments, all positional.
        apart: whether an array that is changed never shares memory with another: the code need not
            look whether they do.

    Returns:
        The same, compiled. Arrays of another dtype, number of dimensions or order, or read-only
        where they are changed, are refused with a TypeError; ids that are used as indices are the
        caller's to check.
    """
    name = "_".join([function.__name__, *(kind.dtype for kind in arguments if kind.dimensions)])
    engine = _load(function, name, arguments, apart)
    prototype = ctypes.CFUNCTYPE(ctypes.c_int32, *[ctypes.c_void_p] * 2, *_flat_types(arguments))
    code = prototype(engine.get_function_address(name))

    def run(*values: Any) -> float:
        result = ctypes.c_double()
        flat: list[Any] = []
        for value, kind in zip(values, arguments, strict=True):
            flat += _flat_array(value, kind) if kind.dimensions else [value]
        if code(ctypes.byref(result), ctypes.byref(ctypes.c_void_p()), *flat):
            raise RuntimeError(f"{name} failed")
        return result.value

    run.engine = engine  # type: ignore[attr-defined]  # the code lives as long as its engine
    return run


def _flat_types(arguments: tuple[Argument, ...]) -> list[Any]:
    """Return the types that numba passes arguments as: an array is seven values or more."""
    pointer, integer = ctypes.c_void_p, ctypes.c_int64
    flat: list[Any] = []
    for kind in arguments:
        if kind.dimensions:
            flat += [pointer, pointer, integer, integer, pointer, *[integer] * 2 * kind.dimensions]
        else:
            flat.append({"float64": ctypes.c_double, "int64": integer}[kind.dtype])
    return flat


def _flat_array(array: Any, kind: Argument) -> list[Any]:
    """Return owner and parent (none), size, bytes an item, address, shape and strides."""
    whole = array.flags.c_contiguous and array.flags.aligned
    if (array.dtype, array.ndim, whole) != (kind.dtype, kind.dimensions, True):
        raise TypeError(
            f"compiled code takes {kind.dtype} arrays of {kind.dimensions} dimensions in C order, "
            f"not {array.dtype} of {array.ndim}"
        )
    if kind.changed and not array.flags.writeable:
        raise TypeError("compiled code would write into a read-only array")
    address = array.ctypes.data
    return [None, None, array.size, array.itemsize, address, *array.shape, *array.strides]


def _load(
    function: Callable[..., float], name: str, arguments: tuple[Argument, ...], apart: bool
) -> Any:
    """Return the engine that has the function, from the cache where it is there and whole.

    It is cached beside the source, or in the user's cache folder where that is read-only; where
    neither can be written, each process compiles it again.
    """
    import llvmlite.binding as llvm

    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    cpu, features = llvm.get_host_cpu_name(), llvm.get_host_cpu_features().flatten()
    machine = llvm.Target.from_default_triple().create_target_machine(cpu, features, opt=3)
    versions = [f"{library} {version(library)}" for library in ("numba", "llvmlite")]
    made_for = "\n".join([*versions, machine.triple, cpu, features]).encode()
    source = Path(inspect.getfile(function))
    key = hashlib.sha256(made_for + source.read_bytes() + Path(__file__).read_bytes()).hexdigest()
    file = f"{source.stem}.{name}.{key[:16]}.ll"
    folders = list(_folders(source))
    ir = next(_read(folder / file for folder in folders), None)
    if ir is None:
        with _without_numbas_settings():
            ir = _make(function, name, arguments, apart, machine)
        _write(ir, [folder / file for folder in folders])
    module = llvm.parse_assembly(ir)
    module.verify()
    engine = llvm.create_mcjit_compiler(module, machine)
    engine.finalize_object()
    return engine


@contextmanager
def _without_numbas_settings() -> Iterator[None]:
    """Hide NUMBA_... variables, meant for other code, which would slow this one or stop it."""
    hidden = {name: os.environ.pop(name) for name in list(os.environ) if name[:6] == "NUMBA_"}
    try:
        yield
    finally:
        os.environ.update(hidden)


def _make(
    function: Callable[..., float],
    name: str,
    arguments: tuple[Argument, ...],
    apart: bool,
    machine: Any,
) -> str:
    """Return the function as LLVM IR, made by numba, under a plain name and without wrappers."""
    import llvmlite.binding as llvm
    from numba import njit, types
    from numba.core.compiler import Compiler

    class Apart(Compiler):  # type: ignore[misc]
        def define_pipelines(self) -> Any:
            self.state.flags.noalias = True
            return super().define_pipelines()

    signature = types.float64(
        *(
            types.Array(getattr(types, kind.dtype), kind.dimensions, "C")
            if kind.dimensions
            else getattr(types, kind.dtype)
            for kind in arguments
        )
    )
    options: dict[str, Any] = {"fastmath": {"reassoc", "contract"}, "error_model": "numpy"}
    if apart:
        options["pipeline_class"] = Apart
    made = njit(signature, **options)(function).overloads[signature.args]
    module = llvm.parse_assembly(made.library.get_llvm_str())
    wanted = module.get_function(made.fndesc.llvm_func_name)
    for other in module.functions:
        if not other.is_declaration and other.name != wanted.name:
            other.linkage = "internal"
    passes = llvm.create_new_module_pass_manager()
    passes.add_global_dead_code_eliminate_pass()
    passes.run(module, llvm.create_pass_builder(machine, llvm.create_pipeline_tuning_options()))
    wanted.name = name
    outside = [f.name for f in module.functions if f.is_declaration and f.name[:5] != "llvm."]
    if outside:  # resolving one that is not there would end the process
        raise RuntimeError(f"{name} calls code outside its module: {', '.join(outside)}")
    return str(module)


def _folders(source: Path) -> Iterator[Path]:
    yield source.parent / "__pycache__"
    import platformdirs

    with suppress(RuntimeError):  # a user without a home
        folder = platformdirs.user_cache_path("movie-collaborative-filtering")
        if folder.is_absolute():  # else it is ~, of a user without an account
            yield folder


def _read(paths: Iterable[Path]) -> Iterator[str]:
    """Return what is kept there, if it is whole: its first line is the hash of the rest."""
    for path in paths:
        with suppress(OSError):
            first, _, ir = path.read_bytes().partition(b"\n")
            if first == _hash_line(ir):
                yield ir.decode()


def _write(ir: str, paths: Iterable[Path]) -> None:
    """Keep it in the first place that can be written."""
    content = ir.encode()
    for path in paths:
        temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary.write_bytes(_hash_line(content) + b"\n" + content)
            temporary.replace(path)
        except OSError as error:
            logger.debug("compiled code cannot be kept in %s: %s", path.parent, error)
            with suppress(OSError):
                temporary.unlink()
        else:
            return


def _hash_line(ir: bytes) -> bytes:
    return b"; " + hashlib.sha256(ir).hexdigest().encode()
