# SPDX-License-Identifier: GPL-2.0-or-later
"""Work done by a second thread, a little ahead of where its results are wanted."""

from __future__ import annotations

from collections.abc import Generator
from queue import SimpleQueue
from threading import Semaphore, Thread
from typing import TypeVar

T = TypeVar("T")

_END = object()


def ahead(items: Generator[T, None, None], depth: int) -> Generator[T, None, None]:
    """The same items, in order; up to `depth` of them are made before they are asked for.

    What ends `items` early is raised where the items are taken; who stops taking them closes
    `items`.  Reading, decompressing and compiled code run without the interpreter's lock, hence
    beside whatever the taker does.
    """
    made: SimpleQueue[object] = SimpleQueue()
    room = Semaphore(depth)
    closed = False

    def make() -> None:
        end: object = _END
        try:
            while room.acquire() and not closed and (item := next(items, _END)) is not _END:
                made.put(item)
        except BaseException as error:  # the taker's to handle
            end = error
        items.close()
        made.put(end)

    # A daemon: it may be waiting for a pipe to say something when the program wants to end.
    Thread(target=make, daemon=True).start()
    try:
        while (item := made.get()) is not _END:
            if isinstance(item, BaseException):
                raise item
            yield item  # type: ignore[misc]
            room.release()
    finally:
        closed = True
        room.release()
