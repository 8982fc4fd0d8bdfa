# SPDX-License-Identifier: GPL-2.0-or-later
"""Live on the link: the same engine, fed from a pipe."""
