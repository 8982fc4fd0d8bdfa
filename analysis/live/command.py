# SPDX-License-Identifier: GPL-2.0-or-later
"""The user's command, run for each alert."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import tempfile
import time

from analysis.live.events import Event
from dissector.errors import CannotDo

AT_ONCE = 4
"""Children at the same time."""
INTERVAL = 1.0
"""Seconds between two of them."""
PATIENCE = 30.0
"""Seconds that each may take."""


class CommandError(CannotDo):
    """A command that cannot be run."""


class Command:
    """Runs a command for an alert: without a shell, the alert as JSON on its stdin, and as COLOSCOPE_RULE,
    COLOSCOPE_TEXT, COLOSCOPE_CONNECTION, COLOSCOPE_CHECKPOINT, COLOSCOPE_VALUE_MS and COLOSCOPE_RUNNING in its
    environment.  At most one each `INTERVAL`, and `AT_ONCE` at the same time; `left_out` counts alerts for which none
    was run.  Raises CommandError."""

    def __init__(self, text: str) -> None:
        try:
            self._arguments = shlex.split(text)
        except ValueError as error:
            raise CommandError(f"--exec {text!r}: {error}") from None
        if not self._arguments or not shutil.which(self._arguments[0]):
            raise CommandError(f"--exec {text!r}: there is no such program")
        self.left_out = 0
        self._children: list[tuple[float, subprocess.Popen[bytes]]] = []
        self._last = -INTERVAL

    def run(self, alert: Event) -> None:
        """Start it for an alert, and do not wait."""
        now = time.monotonic()
        self.reap(now)
        if now - self._last < INTERVAL or len(self._children) == AT_ONCE:
            self.left_out += 1
            return
        self._last = now
        environment = {f"COLOSCOPE_{name.upper()}": str(alert[name]) for name in (
            "rule", "text", "connection", "checkpoint", "value_ms", "running") if alert[name] is not None}
        with tempfile.TemporaryFile() as stdin:
            stdin.write(json.dumps(alert).encode())
            stdin.seek(0)
            try:
                # Its words are no events: stdout is ours.
                child = subprocess.Popen(self._arguments, stdin=stdin, stdout=2, env=os.environ | environment,
                                         start_new_session=True)
            except OSError:
                self.left_out += 1
                return
        self._children.append((now + PATIENCE, child))

    def reap(self, now: float) -> None:
        """Forget children that have ended; end those that take too long."""
        for deadline, child in self._children:
            if child.poll() is None and now > deadline:
                child.kill()
        self._children = [(deadline, child) for deadline, child in self._children if child.poll() is None]

    def finish(self) -> None:
        """Let children come to their end, not for long."""
        until = time.monotonic() + 2
        for _, child in self._children:
            try:
                child.wait(max(0.0, until - time.monotonic()))
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()
