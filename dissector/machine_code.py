# SPDX-License-Identifier: GPL-2.0-or-later
"""Machine code of kernels: Numba makes it, a file keeps it, and later processes call it without Numba.

It is one C function, which takes the address of a table of int64: the kernel's arguments, of an array its address and
shape, and behind them room for `DONE` and the results.  Only public interfaces are used (`numba.cfunc`,
`numba.extending`, the ORC JIT of llvmlite), and nothing in the code needs Numba when it runs: the guard around the
kernel keeps exceptions, and with them the interpreter, out of it.

Where the system has a linker, the file is a shared library, which the system itself loads: importing llvmlite, which
loads LLVM, takes 0.08 s, a third of the start.  Elsewhere it is object code for llvmlite.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import importlib
import itertools
import os
import re
import sys
import zlib
from collections.abc import Callable, Iterator
from importlib.util import find_spec
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
FOREIGN: dict[Function, Callable[[], Any]] = {}
"""Functions that are something else in kernels, and what makes that for Numba."""

_SYMBOL = "kernel"
_REFERENCE_COUNT = re.compile(r"^.*\bcall void @NRT_(?:in|de)cref\(.*\n", re.M)
"""A line of LLVM's assembler that counts references to an array.  Those of kernels are all lent by Python."""
_DESTRUCTOR = "NRT_MemInfo_call_dtor"
"""What calls it is not called itself, without these lines."""
_numbers = itertools.count()
_CHECK = 4
"""Octets of the check sum behind the code in a file.  Behind that are the facts that it was made of; what stands
behind a library's own end harms nobody."""
_PATIENCE = 60
"""Seconds for the linker, which takes a hundredth of one."""
_LIBRARY, _OBJECT = ".so", ".o"
"""Suffixes of files: a shared library, object code."""
_ABOUT_PROCESSORS = ("vendor_id", "model", "stepping", "flags", "features", "cpu family", "cpu impl", "cpu arch",
                     "cpu var", "cpu part", "isa", "cpu\t")
"""Lines of /proc/cpuinfo, of several architectures."""


def load(function: Function, parameters: dict[str, Array | type], results: int) -> tuple[int, object]:
    """The address of a kernel's C function, and what must be kept as long as it is called.

    `parameters` are arrays, int and bool.  Made anew, in some seconds, where no file has it.
    """
    wrapper = _wrapper(parameters, results)
    facts = _facts(function, parameters, wrapper)
    loaded = _read(function, facts)
    if loaded is None:
        code = _make(function, parameters, wrapper)
        library = _library(code)
        _write(function, facts, *((_LIBRARY, library) if library else (_OBJECT, code)))
        loaded = _read(function, facts)
        if loaded is None and library:  # as where files may not be executed
            _write(function, facts, _OBJECT, code)
    return loaded or _link(code)


def _wrapper(parameters: dict[str, Array | type], results: int) -> str:
    """Python source of the C function around a kernel, for Numba."""
    inner, at = [], 0
    for name, kind in parameters.items():
        if isinstance(kind, type):
            inner.append(f"_words[{at}]" if kind is int else f"_words[{at}] != 0")
            at += 1
        else:
            shape = "".join(f"_words[{at + 1 + axis}]," for axis in range(kind.ndim))
            inner.append(f"_carray(_pointer_{name}(_words[{at}]), ({shape}))")
            at += 1 + kind.ndim
    call = f"_kernel({', '.join(inner)})"
    if results:
        call = f"{', '.join(f'_words[{at + 1 + i}]' for i in range(results))} = {call}"
    return (f"def entry(_words):\n    try:\n        {call}\n        _words[{at}] = {DONE}\n"
            "    except Exception:\n        pass\n")


def _make(function: Function, parameters: dict[str, Array | type], wrapper: str) -> bytes:
    """Object code of a kernel."""
    from llvmlite import binding

    numba: Any = importlib.import_module("numba")  # where it has types, they are of its inside
    types = numba.types
    scalars = {int: types.int64, bool: types.boolean}
    inner: list[Any] = []
    names: dict[str, Any] = {"_carray": numba.carray}
    for name, kind in parameters.items():
        if isinstance(kind, type):
            inner.append(scalars[kind])
        else:
            item = numba.from_dtype(kind.dtype)
            inner.append(types.Array(item, kind.ndim, "C", readonly=not kind.writable))
            names[f"_pointer_{name}"] = _pointer(item)
    names["_kernel"] = _jitted(function, tuple(inner))
    exec(wrapper, names)
    entry = numba.cfunc(types.void(types.CPointer(types.int64)))(names["entry"])
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
def _pointer(item: Any) -> Any:
    """Makes, for Numba, a pointer to such items out of an address."""
    numba: Any = importlib.import_module("numba")

    def typed(_: Any, address: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            return builder.inttoptr(arguments[0], context.get_value_type(signature.return_type))

        return numba.types.CPointer(item)(address), generate

    return importlib.import_module("numba.extending").intrinsic(typed)


@functools.cache
def _jitted(function: Function, signature: object = None) -> Any:
    """A function for Numba, which knows compiled functions only as its own."""
    numba: Any = importlib.import_module("numba")
    parts = {name: FOREIGN[value]() if value in FOREIGN else _jitted(value)
             for name, value in _globals(function) if _is_part(value)}
    copy = FunctionType(function.__code__, {**function.__globals__, **parts}, function.__name__)
    # Wrappers for those who call it from elsewhere would take a fifth of the time.
    return numba.njit(signature, no_cpython_wrapper=True, no_cfunc_wrapper=True)(copy)


def _is_part(value: object) -> bool:
    return isinstance(value, FunctionType) and (value in PARTS or value in FOREIGN)


def _globals(function: Function) -> Iterator[tuple[str, Any]]:
    names = function.__globals__
    return ((name, names[name]) for name in function.__code__.co_names if name in names)


def _library(code: bytes) -> bytes | None:
    """A shared library with this object code; None where there is no linker, or it is another system's."""
    import shutil
    import subprocess
    import tempfile

    if not (linker := shutil.which("ld")):
        return None
    try:
        with tempfile.TemporaryDirectory() as folder:
            source, target = os.path.join(folder, "kernel.o"), os.path.join(folder, "kernel.so")
            with open(source, "wb") as out:
                out.write(code)
            command = [linker, "-shared", "-s", "-z", "noexecstack", "-o", target, source]
            done = subprocess.run(command, capture_output=True, stdin=subprocess.DEVNULL, timeout=_PATIENCE)
            return _contents(target) if done.returncode == 0 else None
    except (OSError, subprocess.SubprocessError):
        return None


def _contents(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read()


def _open(path: str) -> tuple[int, object]:
    """Load a shared library.  Raises OSError where the system does not."""
    library = ctypes.CDLL(path)
    try:
        return ctypes.cast(library[_SYMBOL], ctypes.c_void_p).value or 0, library
    except AttributeError as error:
        raise OSError(str(error)) from None


@functools.cache
def _jit() -> Any:
    from llvmlite import binding

    binding.initialize_native_target()
    binding.initialize_native_asmprinter()
    return binding.create_lljit_compiler(use_jit_link=True)


def _link(code: bytes) -> tuple[int, object]:
    """Load object code."""
    from llvmlite import binding

    library = binding.JITLibraryBuilder().add_object_img(code).add_current_process()
    tracker = library.export_symbol(_SYMBOL).link(_jit(), f"{_SYMBOL}{next(_numbers)}")
    return tracker[_SYMBOL], tracker


def _facts(function: Function, parameters: dict[str, Array | type], wrapper: str) -> bytes:
    """Others wherever the machine code may be another one."""
    return repr([_described(function), [str(kind) for kind in parameters.values()], wrapper,
                 _circumstances()]).encode()


def _described(function: Function) -> list[Any]:
    """What a function does: byte code, and the numbers and parts that it finds in its module."""
    if function in FOREIGN:
        return [function.__name__, _code(FOREIGN[function].__code__)]
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
    # Asking importlib.metadata would take as long as loading all kernels does.
    versions = []
    for name in ("numba", "llvmlite"):
        if (found := find_spec(name)) and found.origin:
            with contextlib.suppress(OSError):
                beside = os.listdir(os.path.dirname(os.path.dirname(found.origin)))
                versions += sorted(x for x in beside if x.startswith(f"{name}-") and x.endswith("-info"))
    settings = {name: value for name, value in os.environ.items() if name.startswith("NUMBA_")}
    settings.pop("NUMBA_CACHE_DIR", None)
    return [_contents(__file__), sys.version, sys.maxsize, np.__version__, versions,
            sorted(settings.items()), _processor()]


def _processor() -> list[str]:
    """What tells this kind of processor from others."""
    found = []
    with contextlib.suppress(OSError), open("/proc/cpuinfo") as facts:
        # All of the first core but what differs from moment to moment.
        found = [line for line in itertools.takewhile(str.strip, facts)
                 if line.lower().startswith(_ABOUT_PROCESSORS)]
    if found:
        return found
    from llvmlite import binding

    return [binding.get_process_triple(), binding.get_host_cpu_name(), binding.get_host_cpu_features().flatten()]


def _paths(function: Function, facts: bytes) -> Iterator[str]:
    """Where a kernel's file may be, but for its suffix: the places of Numba's own cache, in its order."""
    source = os.path.abspath(function.__code__.co_filename)
    folder = os.path.dirname(source)
    # Numba's folder and the user's hold the files of several installations.
    tree = f"{os.path.basename(folder)}_{zlib.crc32(os.fsencode(folder)):08x}"
    user = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    name = (f"{os.path.splitext(os.path.basename(source))[0]}.{function.__name__}.{sys.implementation.cache_tag}-"
            f"{zlib.crc32(facts):08x}")
    if numbas := os.environ.get("NUMBA_CACHE_DIR"):
        yield os.path.join(numbas, tree, name)
    yield os.path.join(folder, "__pycache__", name)
    if os.path.isabs(user):
        yield os.path.join(user, "coloscope", tree, name)


def _check(code: bytes) -> bytes:
    return zlib.crc32(code).to_bytes(_CHECK)


def _read(function: Function, facts: bytes) -> tuple[int, object] | None:
    """Load a kernel, if a file has it that is whole."""
    for stem in _paths(function, facts):
        for suffix in (_LIBRARY, _OBJECT):
            path = stem + suffix
            with contextlib.suppress(OSError):
                octets = _contents(path)
                code = octets[:-len(facts) - _CHECK]
                if octets[len(code):] == _check(code) + facts:
                    return _open(path) if suffix == _LIBRARY else _link(code)
    return None


def _write(function: Function, facts: bytes, suffix: str, code: bytes) -> None:
    """Keep the code of a kernel where that is possible, and no older one beside it."""
    for stem in _paths(function, facts):
        # Whoever reads meanwhile finds all or nothing.
        path, new = stem + suffix, f"{stem}.{os.getpid()}"
        folder, name = os.path.split(path)
        try:
            os.makedirs(folder, exist_ok=True)
            with open(new, "wb") as out:
                out.write(code + _check(code) + facts)
            os.replace(new, path)
            for old in os.listdir(folder):
                if (old != name and old.startswith(name[:name.rindex("-") + 1])
                        and old.endswith((_LIBRARY, _OBJECT))):
                    with contextlib.suppress(FileNotFoundError):
                        os.unlink(os.path.join(folder, old))
            return
        except OSError:
            with contextlib.suppress(OSError):
                os.unlink(new)
