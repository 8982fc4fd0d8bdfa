# SPDX-License-Identifier: GPL-2.0-or-later
"""Compiled functions: kernels, which Python calls, and the parts that they are made of.

Numba compiles a kernel once; its machine code lies on disk (`dissector.machine_code`), and later processes
call that without Numba.  Importing Numba and loading three kernels from its own cache took 0.35 s, a third
of a short run; now it is some milliseconds.  The price is a signature: a kernel says in its annotations what it
takes, in the words of this module.
"""

from __future__ import annotations

import functools
import os
from array import array
from collections.abc import Callable
from ctypes import CFUNCTYPE, addressof, c_char, c_void_p
from dataclasses import dataclass
from typing import Annotated, Any, ParamSpec, TypeVar, get_args, get_type_hints

import numpy as np

from dissector import machine_code

P = ParamSpec("P")
R = TypeVar("R")

_Memory = c_char * 0
"""Gives the address of an array that can be written to; much faster than `array.ctypes`."""
_Function = CFUNCTYPE(None, c_void_p)


@dataclass(frozen=True, slots=True)
class Array:
    """What a kernel takes for one argument: a C-contiguous array."""

    dtype: np.dtype
    ndim: int
    writable: bool = True

    def fits(self, value: object) -> bool:
        """Whether a kernel may be given the memory of this value."""
        return (isinstance(value, np.ndarray) and value.dtype == self.dtype and value.ndim == self.ndim
                and (value.flags.carray if self.writable else value.flags.c_contiguous))

    def words(self, value: np.ndarray) -> tuple[int, ...]:
        """What a kernel is told of an array that fits."""
        address = addressof(_Memory.from_buffer(value.data)) if value.flags.writeable else value.ctypes.data
        return (address, *value.shape)

    def __str__(self) -> str:
        return f"{'a writable' if self.writable else 'an'} array of {self.dtype} with {self.ndim} axes, contiguous"


class _Lent:
    """What kernels are told of an array, which stays where it is as long as this does."""

    __slots__ = ("_array", "kind", "words")

    def __init__(self, value: np.ndarray, kind: Array) -> None:
        self._array, self.kind, self.words = value, kind, kind.words(value)


def lend(value: np.ndarray, kind: Any) -> Any:
    """Stands for this array where a kernel takes one of this kind (of `Octets` and so on): to find out where an array
    is takes 2 µs each time, and some kernels take twenty.  Raises TypeError if it is of another kind."""
    wanted = kind.__metadata__[0]
    if not wanted.fits(value):
        raise TypeError(f"what is lent is not {wanted}")
    return value if _IN_PYTHON else _Lent(value, wanted)


Octets = Annotated[np.ndarray, Array(np.dtype(np.uint8), 1, writable=False)]
"""Octets that are only read: also those of bytes or of a mapped file."""
OctetBuffer = Annotated[np.ndarray, Array(np.dtype(np.uint8), 1)]
OctetTables = Annotated[np.ndarray, Array(np.dtype(np.uint8), 3)]
Flags = Annotated[np.ndarray, Array(np.dtype(np.bool_), 1)]
Slots = Annotated[np.ndarray, Array(np.dtype(np.int32), 1)]
Numbers = Annotated[np.ndarray, Array(np.dtype(np.int64), 1)]
Table = Annotated[np.ndarray, Array(np.dtype(np.int64), 2)]
Table32 = Annotated[np.ndarray, Array(np.dtype(np.uint32), 2)]
Tables = Annotated[np.ndarray, Array(np.dtype(np.int64), 3)]
Words = Annotated[np.ndarray, Array(np.dtype(np.uint64), 1)]
WordTable = Annotated[np.ndarray, Array(np.dtype(np.uint64), 2)]


_KERNELS: list[_Kernel] = []


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """A part of each kernel that calls it.  For Python it stays the plain function that it is."""
    machine_code.PARTS.add(function)
    return function


def in_kernels(make: Callable[[], Any]) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """A part of each kernel that calls it, where it is what `make` makes for Numba."""
    def noted(function: Callable[P, R]) -> Callable[P, R]:
        machine_code.FOREIGN[function] = make
        return function

    return noted


@compiled
def copy_octets(data, p, size, out, at):  # type: ignore[no-untyped-def]
    """Copy `size` octets from data[p] on to out[at]; the position behind them."""
    source, target = data[p:p + size], out[at:at + size]  # with plain indices it would go octet by octet
    for i in range(size):
        target[i] = source[i]
    return at + size


def _in_python() -> bool:
    return os.environ.get("NUMBA_DISABLE_JIT", "0") not in ("", "0")


_IN_PYTHON = _in_python()


def kernel(function: Callable[P, R]) -> Callable[P, R]:
    """A compiled function that Python calls, without the GIL: of annotated arrays (or what `lend` makes of them), int
    and bool to None, int or a tuple of int, each of 64 bits.  NUMBA_DISABLE_JIT=1 leaves it a Python function.

    Raises TypeError for other arrays, and when it is compiled for a kernel that makes arrays of its own.
    """
    if _in_python():
        return function
    made = _Kernel(function)
    _KERNELS.append(made)
    return functools.wraps(function)(made)  # type: ignore[return-value]


def make_ready() -> None:
    """Load the machine code of every kernel, or make it: before something starts that does not wait."""
    for made in _KERNELS:
        made.make_ready()


class _Kernel:
    """Calls machine code, which is loaded, or made, when it is needed first (or `make_ready` is called)."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function

    @functools.cached_property
    def _machine(self) -> tuple[list[str], list[Array | type], Callable[[int], None], list[int], object]:
        hints = get_type_hints(self._function, include_extras=True)
        returned = hints.pop("return")
        results = len(get_args(returned)) or int(returned is int)
        parameters = {name: hint if isinstance(hint, type) else hint.__metadata__[0] for name, hint in hints.items()}
        address, keep = machine_code.load(self._function, parameters, results)
        return list(parameters), list(parameters.values()), _Function(address), [0] * (1 + results), keep

    def make_ready(self) -> None:
        _ = self._machine

    def __call__(self, *arguments: Any) -> Any:
        names, kinds, function, out, _ = self._machine
        words: list[int] = []
        for name, kind, value in zip(names, kinds, arguments, strict=True):
            if kind is int:
                words.append(value)
            elif type(value) is _Lent and value.kind is kind:
                words += value.words
            elif kind is bool:
                words.append(bool(value))
            elif kind.fits(value):  # type: ignore[union-attr]
                words += kind.words(value)  # type: ignore[union-attr]
            else:
                raise TypeError(f"{self._function.__name__}: {name} is not {kind}")
        # One table of words: ctypes takes 0.3 µs for each argument.
        table = array("q", words + out)
        function(table.buffer_info()[0])
        results = table[len(words):].tolist()
        if results[0] != machine_code.DONE:
            raise RuntimeError(f"{self._function.__name__} failed; NUMBA_DISABLE_JIT=1 shows where")
        return tuple(results[1:]) if len(results) > 2 else results[1] if len(results) > 1 else None
