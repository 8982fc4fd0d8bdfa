# SPDX-License-Identifier: GPL-2.0-or-later
"""Two programs that speak the protocol with each other over TCP: a primary and a secondary.

    python -m tests.synthesiser.pair secondary --listen 127.0.0.1:7002
    python -m tests.synthesiser.pair primary --connect 127.0.0.1:7002 --checkpoints 20

Each waits for what the other says before it goes on, as Xen's do; what they write is `stream`'s.
"""

from __future__ import annotations

import itertools
import random
import signal
import socket
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np

from dissector import protocol as p
from dissector.fields import HEADER_SIZE, record_header
from dissector.protocol import BACK, FORWARD
from dissector.raw import RawStream
from dissector.record import Record
from tests.synthesiser import stream
from tests.synthesiser.stream import PAGE, Guest, Message

PATIENCE = 10.0
"""Seconds for which a primary tries to connect."""

SO_MAX_PACING_RATE = 47
"""Of asm-generic/socket.h; Python has no name for it."""

_BLOCK = 1 << 20
_RESUMED = p.XEN_COLO.named("SVM_RESUMED").control_id


class Mouth:
    """Writes messages into a connection.

    `split`: header, body and padding of a record one by one, as libxl does it, with Nagle's algorithm on;
    else each message in one go.  `rate`: octets per second at most, 0: no limit.  `keep`: a file that
    gets what is written, too."""

    def __init__(self, connection: socket.socket, split: bool = False, rate: int = 0,
                 keep: Path | None = None) -> None:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, not split)
        if rate:
            connection.setsockopt(socket.SOL_SOCKET, SO_MAX_PACING_RATE, rate)
        self._connection, self._split = connection, split
        self._file = keep.open("wb", buffering=0) if keep else None

    def say(self, message: Message, after: float = 0) -> None:
        """Write a message, `after` seconds from now."""
        time.sleep(after)
        for part in parts(message) if self._split else (message.octets,):
            self._connection.sendall(part)
            if self._file:
                self._file.write(part)


def parts(message: Message) -> list[bytes]:
    """Header, body and padding of a record, those that there are; a header or text of the stream is one part."""
    octets, cuts = message.octets, []
    if message.structure.type is not None:
        _, body_length = record_header(octets[:HEADER_SIZE], "little")
        cuts = [HEADER_SIZE, HEADER_SIZE + body_length]
    return [part for begin, end in itertools.pairwise((0, *cuts, len(octets))) if (part := octets[begin:end])]


class Ear:
    """Reads one direction of a connection."""

    def __init__(self, connection: socket.socket, direction: str) -> None:
        self._connection = connection
        self._stream = RawStream(direction)
        self._heard: deque[Record] = deque()

    def records(self) -> Iterator[Record]:
        """What the other end writes, up to the end of the connection, however it ends; ValueError for what
        is no legal stream."""
        while True:
            while self._heard:
                yield self._heard.popleft()
            try:
                octets = self._connection.recv(_BLOCK)
            except ConnectionError:
                return
            if not octets:
                return
            self._heard.extend(self._stream.feed(np.frombuffer(octets, np.uint8)))
            if self._stream.findings:
                raise ValueError(self._stream.findings[0].text)

    def expect(self, message: Message) -> None:
        """Wait for a message like this one; ValueError for another, EOFError if there is none."""
        record = next(self.records(), None)
        if record is None:
            raise EOFError
        if (record.structure, record.control_id) != (message.structure, message.control_id):
            raise ValueError(f"{record.name} came where {message.structure.name} must")


@dataclass(frozen=True)
class Secondary:
    """How a secondary answers: seconds that it takes to suspend, load and resume, each up to the share
    `jitter` more or less; `listed`: PFNs in its dirty lists."""

    colo: bool = True
    suspend: float = 0.02
    load: float = 0.03
    resume: float = 0.005
    jitter: float = 0.5
    listed: int = 20

    def answer(self, mouth: Mouth, ear: Ear, guest: Guest) -> None:
        """Say what a secondary says, until the primary has gone."""
        writer, rng = stream._Writer(guest), random.Random(guest.seed)

        def sync(name: str, duration: float) -> None:
            mouth.say(writer.sync(name), duration * rng.uniform(1 - self.jitter, 1 + self.jitter))

        mouth.say(writer.message(p.BANNER, BACK))
        for record in ear.records() if self.colo else ():
            if record.control_id is not None:
                sync("SVM_SUSPENDED", self.suspend)
                # Not PFN 0: whether a list that begins with it is a shifted one, only what follows tells (framing).
                mouth.say(writer.dirty_list(tuple(sorted(rng.sample(range(1, guest.memory), self.listed)))))
            elif record.structure is p.CHECKPOINT_END:
                sync("SVM_READY", self.load)
                sync("SVM_RESUMED", self.resume)
        for _ in ear.records():  # Remus: nothing to say
            pass


def lead(mouth: Mouth, ear: Ear, messages: Iterable[Message], interval: float) -> None:
    """A primary: say what is its to say and wait for the rest, `interval` seconds between checkpoints."""
    last = None
    for message in messages:
        if message.direction == BACK:
            ear.expect(message)
        else:
            is_over = last and (last.structure is p.CHECKPOINT_END or last.control_id == _RESUMED)
            mouth.say(message, interval if is_over else 0)
        last = message


def connected(address: tuple[str, int]) -> socket.socket:
    """A connection to a secondary that may be about to listen."""
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            return socket.create_connection(address, PATIENCE)
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)


def parsed(address: str) -> tuple[str, int]:
    """HOST:PORT, an IPv6 address in brackets."""
    host, _, port = address.rpartition(":")
    return host.strip("[]"), int(port)


@click.group()
def main() -> None:
    """The two ends of a replication link."""


def _common(command: Callable[..., None]) -> Callable[..., None]:
    for option in (
        click.option("--memory", default=8, show_default=True, help="MiB of the guest."),
        click.option("--remus", is_flag=True, help="Remus instead of COLO."),
        click.option("--split-writes", "split", is_flag=True, help="Header, body and padding one by one, with "
                     "Nagle's algorithm, as libxl does it."),
        click.option("--kill-after", type=float, metavar="SECONDS", help="Die by a signal: a failover."),
        click.option("--keep", type=click.Path(path_type=Path), help="A file for what this end writes."),
    ):
        command = option(command)
    return command


@main.command()
@click.option("--connect", "address", metavar="HOST:PORT", required=True)
@click.option("--checkpoints", default=20, show_default=True, help="0: without end.")
@click.option("--interval", default=0.2, show_default=True, help="Seconds between two checkpoints.")
@click.option("--dirty", default=64, show_default=True, help="Pages that the guest dirties between them.")
@click.option("--rate", default=50, show_default=True, help="MB/s at most; 0: no limit.")
@_common
def primary(address: str, checkpoints: int, interval: float, dirty: int, rate: int, memory: int,
            remus: bool, split: bool, kill_after: float | None, keep: Path | None) -> None:
    """The primary: migrates its guest, then makes checkpoints of it."""
    _die_after(kill_after)
    conversation = stream.remus if remus else stream.colo
    with connected(parsed(address)) as connection:
        connection.settimeout(None)
        messages = conversation(checkpoints or sys.maxsize, _guest(memory, dirty))
        try:
            lead(Mouth(connection, split, rate * 1_000_000, keep), Ear(connection, BACK), messages, interval)
        except (EOFError, ConnectionError):
            raise click.ClickException("the secondary has gone") from None
        except ValueError as why:
            raise click.ClickException(str(why)) from None


@main.command()
@click.option("--listen", "address", metavar="HOST:PORT", required=True, help="Port 0: any; it is printed.")
@click.option("--suspend", default=0.02, show_default=True, help="Seconds from NEW to SVM_SUSPENDED.")
@click.option("--load", default=0.03, show_default=True, help="Seconds from CHECKPOINT_END to SVM_READY.")
@click.option("--resume", default=0.005, show_default=True, help="Seconds from SVM_READY to SVM_RESUMED.")
@click.option("--jitter", default=0.5, show_default=True, help="By which share these vary.")
@click.option("--list", "listed", default=20, show_default=True, help="PFNs in its dirty lists.")
@_common
def secondary(address: str, suspend: float, load: float, resume: float, jitter: float, listed: int,
              memory: int, remus: bool, split: bool, kill_after: float | None, keep: Path | None) -> None:
    """The secondary: answers one primary."""
    host, port = parsed(address)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.create_server((host, port), family=family) as server:
        click.echo(f"listening on port {server.getsockname()[1]}")
        sys.stdout.flush()
        connection, _ = server.accept()
    _die_after(kill_after)
    with connection:
        try:
            Secondary(not remus, suspend, load, resume, jitter, listed).answer(
                Mouth(connection, split, keep=keep), Ear(connection, FORWARD), _guest(memory, 0))
        except ConnectionError:
            click.echo("the primary has gone", err=True)
        except ValueError as why:
            raise click.ClickException(str(why)) from None


def _guest(memory: int, dirty: int) -> Guest:
    pages = memory * (1 << 20) // PAGE
    return Guest(memory=pages, batch=1024, holes=4096, dirty=dirty, emulator=30_000, page=stream.memory(256))


def _die_after(seconds: float | None) -> None:
    # By the signal itself: the kernel closes the connection, as of a process that crashed.
    if seconds is not None:
        signal.setitimer(signal.ITIMER_REAL, seconds)


if __name__ == "__main__":
    main()
