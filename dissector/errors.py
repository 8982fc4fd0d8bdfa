# SPDX-License-Identifier: GPL-2.0-or-later
"""What cannot be done at all.  Whatever is merely wrong with a stream is a finding, no exception."""


class CannotDo(Exception):
    """Something that a user asked for is impossible; the message is one line that says what, where
    and what to do."""
