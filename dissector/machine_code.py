# SPDX-License-Identifier: GPL-2.0-or-later
"""Machine code of kernels: Numba makes it, a file keeps it, llvmlite alone loads it.

It is the object code of one C function: of an array it takes the address and the shape, and behind the
kernel's arguments comes the address of an array of int64 for `DONE` and the results.  Only public
interfaces are used (`numba.cfunc`, the ORC JIT of llvmlite), and nothing in the code needs Numba when it
runs: the guard around the kernel keeps exceptions, and with them the interpreter, out of it.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib
import itertools
import os
import re
import sys
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from types import CodeType, FunctionType
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from dissector.compiled import Array

Function = Callable[..., Any]

DONE = 1
"""Stands in front of the results of a kernel that met no exception."""
PARTS: set[Function] = set()
"""Functions that are compiled into the kernels that call them."""

_SYMBOL = "kernel"
_REFERENCE_COUNT = re.compile(r"^.*\bcall void @NRT_(?:in|de)cref\(.*\n", re.M)
"""A line of LLVM's assembler that counts references to an array.  Those of kernels are all lent by Python."""
_DESTRUCTOR = "NRT_MemInfo_call_dtor"
"""What calls it is not called itself, without these lines."""
_numbers = itertools.count()


def load(function: Function, parameters: dict[str, Array | type], results: int) -> tuple[int, object]:
    """The address of a kernel's C function, and what must be kept as long as it is called.

    `parameters` are arrays, int and bool.  Made anew, in some seconds, where no file has it.
    """
    wrapper = _wrapper(parameters, results)
    key = _key(function, wrapper)
    code = _read(function, key)
    if code is None:
        code = _make(function, parameters, wrapper)
        _write(function, key, code)
    return _link(code)


def _wrapper(parameters: dict[str, Array | type], results: int) -> str:
    """Python source of the C function around a kernel, for Numba."""
    outer, inner = [], []
    for name, kind in parameters.items():
        shape = [] if isinstance(kind, type) else [f"{name}_{axis}" for axis in range(kind.ndim)]
        outer += [name, *shape]
        inner.append(f"_carray({name}, ({', '.join(shape)},))" if shape else name)
    call = f"_kernel({', '.join(inner)})"
    if results:
        call = f"{', '.join(f'_result[{1 + i}]' for i in range(results))} = {call}"
    return (f"def entry({', '.join(outer)}, _result):\n    try:\n        {call}\n        _result[0] = {DONE}\n"
            "    except Exception:\n        pass\n")


def _make(function: Function, parameters: dict[str, Array | type], wrapper: str) -> bytes:
    """Object code of a kernel."""
    from llvmlite import binding

    numba: Any = importlib.import_module("numba")  # where it has types, they are of its inside
    types = numba.types
    scalars = {int: types.int64, bool: types.boolean}
    inner: list[Any] = []
    outer: list[Any] = []
    for kind in parameters.values():
        if isinstance(kind, type):
            inner.append(scalars[kind])
            outer.append(scalars[kind])
        else:
            item = numba.from_dtype(kind.dtype)
            inner.append(types.Array(item, kind.ndim, "C", readonly=not kind.writable))
            outer += [types.CPointer(item), *[types.int64] * kind.ndim]
    names = {"_kernel": _jitted(function, tuple(inner)), "_carray": numba.carray}
    exec(wrapper, names)
    entry = numba.cfunc(types.void(*outer, types.CPointer(types.int64)))(names["entry"])
    module = binding.parse_assembly(_REFERENCE_COUNT.sub("", entry.inspect_llvm()))
    for part in module.functions:
        if part.name == entry.native_name:
            part.name = _SYMBOL
        elif not part.is_declaration:
            part.linkage = "internal"
            part.add_function_attribute("alwaysinline")
    wanted = [f.name for f in module.functions if f.is_declaration and f.name != _DESTRUCTOR
              and f.name.startswith(("NRT_", "numba_", "Py"))]
    if wanted:
        raise TypeError(f"{function.__name__} cannot run without Numba ({', '.join(wanted)}): it makes an array, or "
                        "copies one into another where their shapes may differ")
    # Position-independent: its place in memory is another one each time.
    machine = binding.Target.from_triple(binding.get_process_triple()).create_target_machine(
        cpu=binding.get_host_cpu_name(), features=binding.get_host_cpu_features().flatten(), opt=3, reloc="pic",
        codemodel="small")
    # Numba leaves each part a function of its own, with some ten arguments for an array: twice as slow.
    builder = binding.create_pass_builder(machine, binding.create_pipeline_tuning_options(speed_level=3))
    builder.getModulePassManager().run(module, builder)
    return machine.emit_object(module)


@functools.cache
def _jitted(function: Function, signature: object = None) -> Any:
    """A function for Numba, which knows compiled functions only as its own."""
    numba: Any = importlib.import_module("numba")
    parts = {name: _jitted(value) for name, value in _globals(function) if _is_part(value)}
    copy = FunctionType(function.__code__, {**function.__globals__, **parts}, function.__name__)
    # Wrappers for those who call it from elsewhere would take a fifth of the time.
    return numba.njit(signature, no_cpython_wrapper=True, no_cfunc_wrapper=True)(copy)


def _is_part(value: object) -> bool:
    return isinstance(value, FunctionType) and value in PARTS


def _globals(function: Function) -> Iterator[tuple[str, Any]]:
    names = function.__globals__
    return ((name, names[name]) for name in function.__code__.co_names if name in names)


@functools.cache
def _jit() -> Any:
    from llvmlite import binding

    binding.initialize_native_target()
    binding.initialize_native_asmprinter()
    return binding.create_lljit_compiler(use_jit_link=True)


def _link(code: bytes) -> tuple[int, object]:
    from llvmlite import binding

    library = binding.JITLibraryBuilder().add_object_img(code).add_current_process()
    tracker = library.export_symbol(_SYMBOL).link(_jit(), f"{_SYMBOL}{next(_numbers)}")
    return tracker[_SYMBOL], tracker


def _key(function: Function, wrapper: str) -> bytes:
    """Another one wherever the machine code may be another one."""
    facts = [_described(function), wrapper, _circumstances()]
    return hashlib.sha256(repr(facts).encode()).digest()


def _described(function: Function) -> list[Any]:
    """What a function does: byte code, and the numbers and parts that it finds in its module."""
    facts: list[Any] = [function.__name__, _code(function.__code__)]
    for name, value in _globals(function):
        if _is_part(value):
            facts.append((name, _described(value)))
        elif value is np:
            facts.append(name)
        elif isinstance(value, (int, float, tuple, np.generic)):
            facts.append((name, repr(value)))
        else:
            raise TypeError(f"{function.__name__}: {name} is no number, tuple or compiled function, nor NumPy")
    return facts


def _code(code: CodeType) -> list[Any]:
    constants = [_code(c) if isinstance(c, CodeType) else repr(c) for c in code.co_consts]
    return [code.co_code, constants, code.co_names, code.co_varnames]


@functools.cache
def _circumstances() -> list[Any]:
    """How it is made (this file), versions, processor, settings."""
    import llvmlite
    from llvmlite import binding

    # Asking importlib.metadata would take as long as loading all kernels does.
    numba = find_spec("numba")
    site = Path(numba.origin).parent.parent if numba and numba.origin else Path()
    settings = {name: value for name, value in os.environ.items() if name.startswith("NUMBA_")}
    settings.pop("NUMBA_CACHE_DIR", None)
    return [Path(__file__).read_bytes(), sys.version, np.__version__, llvmlite.__version__,
            sorted(folder.name for folder in site.glob("numba-*-info")), sorted(settings.items()),
            binding.get_process_triple(), binding.get_host_cpu_name(), binding.get_host_cpu_features().flatten()]


def _paths(function: Function, key: bytes) -> Iterator[Path]:
    """Where a kernel's file may be: the places of Numba's own cache, in its order."""
    source = Path(function.__code__.co_filename).absolute()
    # Numba's folder and the user's hold the files of several installations.
    tree = f"{source.parent.name}_{hashlib.sha256(bytes(source.parent)).hexdigest()[:16]}"
    user = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    name = f"{source.stem}.{function.__name__}.{sys.implementation.cache_tag}-{key.hex()[:16]}.o"
    if folder := os.environ.get("NUMBA_CACHE_DIR"):
        yield Path(folder, tree, name)
    yield Path(source.parent, "__pycache__", name)
    if os.path.isabs(user):
        yield Path(user, "coloscope", tree, name)


def _read(function: Function, key: bytes) -> bytes | None:
    """The code of a kernel, if a file has it that is whole."""
    for path in _paths(function, key):
        try:
            octets = path.read_bytes()
        except OSError:
            continue
        digest, code = octets[:len(key)], octets[len(key):]
        if digest == hashlib.sha256(key + code).digest():
            return code
    return None


def _write(function: Function, key: bytes, code: bytes) -> None:
    """Keep the code of a kernel where that is possible, and no older one beside it."""
    for path in _paths(function, key):
        # Whoever reads meanwhile finds all or nothing.
        new = path.with_suffix(f".{os.getpid()}")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            new.write_bytes(hashlib.sha256(key + code).digest() + code)
            new.replace(path)
            for old in path.parent.glob(f"{path.name.rpartition('-')[0]}-*.o"):
                if old != path:
                    old.unlink(missing_ok=True)
            return
        except OSError:
            with contextlib.suppress(OSError):
                new.unlink()
