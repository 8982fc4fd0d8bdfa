# SPDX-License-Identifier: GPL-2.0-or-later
"""A COLO pair at work, and `coloscope live` watching it: `make demo-live`.

    python -m tests.synthesiser.demo [OPTION OF coloscope live]...

As root on a link between two network namespaces, else on loopback.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from tests.synthesiser import network

PAIR = [sys.executable, "-m", "tests.synthesiser.pair"]
PORT = 7002
SECONDARY = ("--suspend", "0.03", "--resume", "0.02", "--jitter", "0.7")
PRIMARY = ("--checkpoints", "0", "--interval", "0.2", "--memory", "64", "--dirty", "128", "--rate", "10")
HEAD_START = 4
"""Seconds after which the migration begins: somebody should be watching."""


def main() -> int:
    """Exit status of `coloscope live`."""
    with ExitStack() as stack:
        interface, address = "lo", "127.0.0.1"
        at_primary: Callable[..., list[str]]
        at_primary = at_secondary = lambda *words: list(words)
        if not network.lacking():
            one, other = stack.enter_context(network.joined())
            interface, address = network.INTERFACE, other.address
            at_primary, at_secondary = one.command, other.command
        for command in (at_secondary(*PAIR, "secondary", "--listen", f"{address}:{PORT}", *SECONDARY),
                        at_primary("sh", "-c", f'sleep {HEAD_START}; exec "$@"', "sh",
                                   *PAIR, "primary", "--connect", f"{address}:{PORT}", *PRIMARY)):
            process = stack.enter_context(subprocess.Popen(
                command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))
            stack.callback(process.kill)
        coloscope = Path(sys.executable).with_name("coloscope")
        live = stack.enter_context(subprocess.Popen(at_primary(
            str(coloscope), "live", "-i", interface, "--filter", f"tcp port {PORT}", *sys.argv[1:])))
        while True:
            try:
                return live.wait()
            except KeyboardInterrupt:  # which it has got, too
                pass


if __name__ == "__main__":
    sys.exit(main())
