# SPDX-License-Identifier: GPL-2.0-or-later
"""The Wireshark dissector, generated: tables from `dissector.protocol`, code from `runtime.lua`."""
