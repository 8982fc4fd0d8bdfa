# SPDX-License-Identifier: GPL-2.0-or-later
"""A capture that may be shared: what a guest works on is taken out, how it is sent stays.

The file is read twice.  First the engine finds the records, and what may stay of each is noted
(`dissector.allowed`).  Then every packet is rewritten (`dissector.rewrite`): an octet stays only if a record
was made of it and a range says so; what a retransmission repeats goes, whatever it holds.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path

from dissector.allowed import HEADERS, NO_STREAM, NOT_UNDERSTOOD, OTHER_CONNECTIONS, REPEATED
from dissector.engine import Engine
from dissector.errors import CannotDo
from dissector.protocol import CONTENTS, SECRETS
from dissector.reader import Reader
from dissector.record import Record
from dissector.rewrite import Rewriter
from dissector.segments import Streams
from dissector.sink import Sink
from dissector.source import Source

_NAMES = {NOT_UNDERSTOOD: "not understood", REPEATED: "repeated or stale", OTHER_CONNECTIONS: "other connections",
          NO_STREAM: "outside of TCP streams", HEADERS: "headers and fields of records",
          **{HEADERS + 1 + i: name for i, name in enumerate(CONTENTS)}}


class ScrubError(CannotDo):
    """A capture that cannot be scrubbed; the message says why."""


@dataclass(frozen=True, slots=True)
class Scrubbed:
    """What was done: how many `packets` of `of` are in the output, and how many octets of their payload
    were `removed` and `kept`, by kind: `protocol.CONTENTS` and others in plain words."""

    packets: int
    of: int
    removed: dict[str, int]
    kept: dict[str, int]


def scrub(name: str, path: str, *, keep: Collection[str] = (), drop: Collection[str] = (),
          anonymise: bool = False, keep_others: bool = False,
          on_progress: Callable[[int], None] | None = None) -> Scrubbed:
    """Write to `path` the capture `name` without its secrets (`protocol.SECRETS`).

    `keep` and `drop` change which contents (`protocol.CONTENTS`) go; `anonymise` replaces addresses,
    the same one always by the same one; `keep_others` keeps the headers of packets that belong to no
    migration stream, which are dropped otherwise.  Raises ScrubError, SourceError.
    """
    with Source(name) as source:
        if not source.seekable:
            raise ScrubError("a capture is read twice to scrub it: name a file, not a pipe")
    if Path(path).exists() and Path(path).samefile(name):
        raise ScrubError(f"{path} is the capture itself: name another file to write")
    engine = Engine()
    rewriter = Rewriter((set(SECRETS) | set(drop)) - set(keep), keep_others=keep_others, anonymise=anonymise)
    for event in engine.run([name], on_progress=on_progress):
        if isinstance(event, Record):
            rewriter.follow(engine.connections[event.connection], engine.streams).learn(event)
    if not engine.ours():
        raise ScrubError(f"{name}: nothing in it is a Xen migration stream; `coloscope connections "
                         "--all` lists what there is")
    for connection in engine.ours():
        rewriter.follow(connection, engine.streams).end()
    streams, count, of = Streams(), 0, 0
    try:
        with Source(name, on_progress=on_progress) as source, Sink(path) as sink:
            reader = Reader(source)
            for packets in reader:
                streams.scan(packets)
                stays = rewriter.rewrite(packets, rewriter.take(packets), rewriter.followed)
                count += sink.write(packets, stays, reader.container)
                of += len(packets)
            sink.describe(reader.container)
            sink.finish(reader.container.drops)
    except OSError as error:
        raise ScrubError(f"{path}: {error.strerror or error}") from None
    removed, kept = ({_NAMES[kind]: int(octets) for kind, octets in enumerate(column) if octets}
                     for column in rewriter.counts.T)
    return Scrubbed(count, of, removed, kept)

