# SPDX-License-Identifier: GPL-2.0-or-later
"""The report on a capture: `page` for browsers, `summary` for terminals, `basis` for both."""
