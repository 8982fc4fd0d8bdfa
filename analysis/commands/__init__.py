# SPDX-License-Identifier: GPL-2.0-or-later
"""What `coloscope` can be told to do, a module for each kind of answer."""
