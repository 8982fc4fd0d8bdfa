# SPDX-License-Identifier: GPL-2.0-or-later
"""dissector: from octets of a replication link to records and sync-points of Xen's protocols."""
