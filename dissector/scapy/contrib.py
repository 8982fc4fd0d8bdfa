# SPDX-License-Identifier: GPL-2.0-or-later
# scapy.contrib.description = Xen migration v2, Remus and COLO
# scapy.contrib.status = loads
"""What Scapy loads as `scapy.contrib.xen_migration`: the same classes, not a second set of them."""

from dissector.scapy import *  # noqa: F403
