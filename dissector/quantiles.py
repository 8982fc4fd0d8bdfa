# SPDX-License-Identifier: GPL-2.0-or-later
"""Which percentiles tables of latencies have, here and in Wireshark."""

PERCENTILES = {"p50": 0.50, "p90": 0.90, "p95": 0.95, "p99": 0.99}
