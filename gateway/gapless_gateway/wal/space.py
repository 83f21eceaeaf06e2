"""How much room the log has: a ceiling, a floor of free space, and a reserve for the worst moment.

The reserve is a file of real bytes. On a full disk it is removed, which pays for what has to be
written before anything can be freed: the small segment that takes the place of a dropped one, the
summary of a segment that goes, the header of a new segment, the first entry of a run. It is made
again, in part if need be, before records get any of the room that there is then.
"""

from __future__ import annotations

import contextlib

from gapless_gateway.wal.disk import Disk
from gapless_gateway.wal.paths import StatePaths

RESERVE_BYTES = 1024 * 1024
RESERVE_BYTES_MIN = 32 * 1024  # a smaller one would pay for nothing
# The floor of free space unless configured; of a small file system at most a tenth.
FREE_BYTES_MIN = 64 * 1024 * 1024
FREE_SHARE_MAX = 10
# A segment is at most this share of the ceiling or the file system, so that delivering frees
# space in pieces that matter.
SEGMENT_SHARE = 16


class Space:
    """The room of one state directory. Raises OSError as the disk does."""

    def __init__(
        self, disk: Disk, paths: StatePaths, *, quota_bytes: int | None, free_bytes_min: int | None
    ) -> None:
        """`quota_bytes`: ceiling of all that the directory holds, None: none. Blocks briefly."""
        self._disk = disk
        self._paths = paths
        self._quota_bytes = quota_bytes
        _, whole = disk.space(paths.state_dir)
        self._whole_bytes = whole
        self._free_bytes_min = (
            min(FREE_BYTES_MIN, whole // FREE_SHARE_MAX)
            if free_bytes_min is None
            else free_bytes_min
        )
        has_reserve = paths.reserve.name in disk.list(paths.state_dir)
        self.reserve_bytes = disk.size(paths.reserve) if has_reserve else 0

    def segment_bytes_max(self, configured: int) -> int:
        """How long a segment may get here, in bytes."""
        limits = [self._whole_bytes, *([self._quota_bytes] if self._quota_bytes else [])]
        return min(configured, max(64 * 1024, min(limits) // SEGMENT_SHARE))

    def used_bytes(self) -> int:
        """All that the state directory holds, the reserve not counted."""
        paths = self._paths
        used = 0
        for directory in (paths.state_dir, paths.segments, paths.quarantine):
            for name in self._disk.list(directory):
                if name in (paths.reserve.name, paths.segments.name, paths.quarantine.name):
                    continue
                with contextlib.suppress(FileNotFoundError):  # gone since it was listed
                    used += self._disk.size(directory / name)
        return used

    @property
    def has_quota(self) -> bool:
        """Whether there is a ceiling."""
        return self._quota_bytes is not None

    def room_bytes(self, used_bytes: int) -> int:
        """How much more may be written; negative beyond the ceiling or below the floor."""
        free, _ = self._disk.space(self._paths.state_dir)
        room = free - self._free_bytes_min - (RESERVE_BYTES - self.reserve_bytes)
        if self._quota_bytes is not None:
            room = min(room, self._quota_bytes - used_bytes)
        return room

    def make_reserve(self) -> None:
        """Set the reserve aside, as far as it is missing and there is space for it."""
        if self.reserve_bytes >= RESERVE_BYTES:
            return
        free, _ = self._disk.space(self._paths.state_dir)
        wanted = min(RESERVE_BYTES, self.reserve_bytes + free // 2)
        if wanted < RESERVE_BYTES_MIN or wanted <= self.reserve_bytes:
            return
        try:
            self._disk.allocate(self._paths.reserve, wanted)
            self.reserve_bytes = wanted
        except OSError:  # somebody else took the space; it will be tried again
            self.release_reserve()

    def release_reserve(self) -> bool:
        """Let the reserve go; False if there was none. Raises OSError."""
        had_one, self.reserve_bytes = self.reserve_bytes > 0, 0
        with contextlib.suppress(FileNotFoundError):
            self._disk.unlink(self._paths.reserve)
        return had_one
