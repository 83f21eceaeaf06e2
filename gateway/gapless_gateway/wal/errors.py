"""What can go wrong with the log, told apart by what to do about it.

A torn tail is not here: it is no error, it is what a power cut leaves, and recovery counts it.
"""

from __future__ import annotations

from gapless_gateway.errors import UserError


class WalError(UserError):
    """Something about the log that its owner has to see to."""


class WalInUse(WalError):
    """Another gateway holds the lock of this state directory."""


class WalNotWritable(WalError):
    """The state directory cannot be created, read or written."""


class WalTooNew(WalError):
    """A file was written by a newer Gapless, in a format that this one does not know."""


class WalDamaged(WalError):
    """Bytes that were durable cannot be read any more. Nothing was changed or deleted."""


class WalFull(WalError):
    """There is no room on the disk. Nothing was lost by the attempt; later it may succeed."""


class WalFailed(WalError):
    """A write or a sync failed: what the disk holds is unknown until the next start."""
