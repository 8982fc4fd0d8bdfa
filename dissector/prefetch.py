# SPDX-License-Identifier: GPL-2.0-or-later
"""Prefetching, for kernels: octets come to the processor's cache before they are looked at."""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np

from dissector.compiled import compiled, in_kernels

_LINE = 64
"""Octets that a processor's cache holds together."""


def _for_numba() -> Any:
    from llvmlite import ir

    numba: Any = importlib.import_module("numba")

    def typed(_: Any, address: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            pointer, number = ir.IntType(8).as_pointer(), ir.IntType(32)
            kind = ir.FunctionType(ir.VoidType(), (pointer, number, number, number))
            name = "llvm.prefetch.p0"
            function = builder.module.globals.get(name) or ir.Function(builder.module, kind, name)
            builder.call(function, (builder.inttoptr(arguments[0], pointer), number(0), number(3), number(1)))
            return context.get_dummy_value()

        return numba.types.none(numba.types.int64), generate

    return importlib.import_module("numba.extending").intrinsic(typed)


@in_kernels(_for_numba)
def _prefetch(address):  # type: ignore[no-untyped-def]
    """The line of this address."""


@compiled
def prefetch(octets, at, count):  # type: ignore[no-untyped-def]
    """So many octets, from index `at` on, are looked at soon.  A processor foresees only what stands together."""
    begin = np.int64(octets.ctypes.data) + at
    for address in range(begin, begin + count, _LINE):
        _prefetch(address)
