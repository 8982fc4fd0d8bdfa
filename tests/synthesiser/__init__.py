# SPDX-License-Identifier: GPL-2.0-or-later
"""Streams and captures made to order, from the description in `dissector.protocol`.

    conversation -> wire (TCP segments of a connection) -> capture file

`stream.colo()`, `remus()` and `plain()` say what both ends write, `wire.Wire` cuts it into segments
that tests lose, repeat and shuffle, `files.write` puts frames around them;
`large.write` repeats a part of it fast, up to captures of many gigabytes.
"""
