# SPDX-License-Identifier: GPL-2.0-or-later
"""A session on a terminal or in a pipe: what `coloscope live` does."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from types import FrameType

from analysis.live.alerts import Rule
from analysis.live.capture import Link
from analysis.live.command import Command
from analysis.live.events import ALERT, Event
from analysis.live.jsonl import Lines
from analysis.live.session import Session
from analysis.live.state import SessionState
from dissector.ring import RingWriter


def watch(link: Link, source: str, rules: Sequence[Rule], window_s: float, say: Callable[[str], None], *,
          lines: bool, command: str | None = None, metrics: str | None = None,
          ring: RingWriter | None = None) -> Session:
    """Watch a link until it ends, or SIGINT or SIGTERM comes; the session, which is over.

    `lines`: events as JSON lines on stdout, else the terminal view; `say` puts a line on stderr; `ring`: record there
    without secrets.  Raises what `link` raises, RecordingError, and OSError when stdout cannot be written."""
    with ExitStack() as stack:
        takers: list[Callable[[Event], None]] = []
        shows: list[Callable[[SessionState], None]] = []
        if lines:
            takers += [Lines(sys.stdout.fileno()).write, _alerts(say)]
        if command:
            runner = Command(command)
            takers.append(lambda event: runner.run(event) if event["event"] == ALERT else None)
            stack.callback(_say_left_out, runner, say)
            stack.callback(runner.finish)
        if metrics:
            from analysis.live.metrics import Metrics

            exported = Metrics()
            say(f"metrics: {stack.enter_context(exported.served(metrics))}")
            takers.append(exported.take)
            shows.append(exported.show)

        def on_event(event: Event) -> None:
            for take in takers:
                take(event)

        def on_state(state: SessionState) -> None:
            for show in shows:
                show(state)

        session = Session(on_event, window_s, rules=rules, source=source, ring=ring,
                          on_state=None if lines and not shows else on_state)
        if lines:
            _stop_at_signals(link, stack)
            session.run(link)
        else:
            _view(session, link, shows)
    return session


def _alerts(say: Callable[[str], None]) -> Callable[[Event], None]:
    def take(event: Event) -> None:
        if event["event"] == ALERT:
            say(f"alert: {event['rule']}: {event['text']}")

    return take


def _say_left_out(runner: Command, say: Callable[[str], None]) -> None:
    if runner.left_out:
        say(f"no command was run for {runner.left_out} alerts: too many in too short a time")


def _stop_at_signals(link: Link, stack: ExitStack) -> None:
    """The first SIGINT or SIGTERM stops the link, the second everything."""
    previous = {which: signal.getsignal(which) for which in (signal.SIGINT, signal.SIGTERM)}

    def restore() -> None:
        for which, before in previous.items():
            signal.signal(which, before)

    def stop(number: int, frame: FrameType | None) -> None:
        restore()
        link.stop()

    for which in previous:
        signal.signal(which, stop)
    stack.callback(restore)


def _view(session: Session, link: Link, shows: list[Callable[[SessionState], None]]) -> None:
    """The session in a thread, its snapshots in the terminal view."""
    from analysis.live.view import View, summary

    latest = [session.state()]
    shows.append(lambda state: latest.__setitem__(0, state))
    failed: list[BaseException] = []

    def run() -> None:
        try:
            session.run(link)
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        View(lambda: latest[0]).run()
    finally:
        link.stop()
        thread.join()
    sys.stdout.write(summary(latest[0]) + "\n")
    if failed:
        raise failed[0]
