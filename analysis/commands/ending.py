# SPDX-License-Identifier: GPL-2.0-or-later
"""How commands end: in one line, whatever happens."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import click

from dissector.errors import CannotDo

_NOTHING, VIOLATED, _FAILED = 0, 1, 2
"""Exit statuses."""


class Failure(click.ClickException):
    """An end with exit status 2 and one line."""

    exit_code = _FAILED

    def show(self, file: Any = None) -> None:
        say(self.message)


def say(text: str) -> None:
    """One line on stderr, whatever names of files are in it."""
    from analysis.escape import printable

    click.echo(f"coloscope: {printable(text)}", err=True)


@contextmanager
def ends() -> Iterator[None]:
    """Every way in which a command ends: bad input in one line, a closed pipe in silence."""
    try:
        yield
        sys.stdout.flush()
    except CannotDo as error:
        raise Failure(str(error)) from None
    except BrokenPipeError:
        # Python would flush stdout once more at exit and complain.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(_NOTHING)
    except KeyboardInterrupt:
        say("interrupted")
        sys.exit(130)
