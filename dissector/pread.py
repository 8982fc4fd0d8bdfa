# SPDX-License-Identifier: GPL-2.0-or-later
"""pread(2) of the C library, for kernels: octets of a file, where they stand."""

from __future__ import annotations

import functools
import importlib
import os
from ctypes import CDLL, c_int, c_int64, c_size_t, c_ssize_t, c_void_p
from typing import Any

import numpy as np

from dissector.compiled import compiled, in_kernels

_NAME = "pread"


@functools.cache
def _function() -> Any:
    function = getattr(CDLL(None), _NAME)
    function.restype = c_ssize_t
    function.argtypes = (c_int, c_void_p, c_size_t, c_int64)
    return function


def _for_numba() -> Any:
    from llvmlite import ir

    numba: Any = importlib.import_module("numba")
    if not hasattr(os, _NAME):
        return numba.njit(lambda file, address, count, at: -1)

    def typed(_: Any, file: Any, address: Any, count: Any, at: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            word, number, pointer = ir.IntType(64), ir.IntType(32), ir.IntType(8).as_pointer()
            kind = ir.FunctionType(word, (number, pointer, word, word))
            function = builder.module.globals.get(_NAME) or ir.Function(builder.module, kind, _NAME)
            file, address, *places = arguments
            return builder.call(function, (builder.trunc(file, number), builder.inttoptr(address, pointer), *places))

        word = numba.types.int64
        return word(word, word, word, word), generate

    return importlib.import_module("numba.extending").intrinsic(typed)


@in_kernels(_for_numba)
def _pread(file, address, count, at):  # type: ignore[no-untyped-def]
    """The octets read; 0 at the end of the file, -1 if they cannot be read."""
    return _function()(int(file), int(address), int(count), int(at))


@compiled
def read_at(file, at, out, begin, count):  # type: ignore[no-untyped-def]
    """Read `count` octets of an open file, from its octet `at` on, to out[begin]; how many there are."""
    done = np.int64(0)
    while done < count:
        some = _pread(file, np.int64(out[begin + done:].ctypes.data), count - done, at + done)
        if some <= 0:
            break
        done += some
    return done
