"""Compaction: the older part of a long ledger is replaced by one span, which is vouched for.

The new file is written whole and takes the old one's place in one step. It holds, in this order:
the span; the newest entries, byte for byte as they were, chained to the last entry that the span
stands for; and a Compaction, an ordinary chained entry with the digest of the span, which every
later segment anchors.

Only entries that the oldest segment on disk anchors are replaced. So whatever a segment on disk
anchors can still be looked up, and the ledger is longer than its limits by at most a part of them
and one entry per segment that stood in the backlog.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_left
from dataclasses import dataclass, replace
from pathlib import Path

from gapless_gateway.wal.disk import Disk
from gapless_gateway.wal.errors import WalDamaged
from gapless_gateway.wal.format import (
    HEADER_FIXED_BYTES,
    FormatTooNewError,
    HeaderDamagedError,
    crc_seed,
    decode_fixed_header,
)
from gapless_gateway.wal.ledger import Ledger, LedgerContent, parse_ledger
from gapless_gateway.wal.ledger_format import (
    FORMAT_COMPACTED,
    NO_HASH,
    Compaction,
    RetiredSegment,
    RetiredSpan,
    encode_ledger_entry,
    encode_ledger_header,
    frame_ledger_entry,
)
from gapless_gateway.wal.merged_summary import Bounds, merge_summaries

# What is kept as it is: this part of the limits. The span gets as much as SPAN_PART allows.
KEPT_PART = 2
SPAN_PART = 4
# The whole file is written anew, so it has to replace at least this part of the limits.
WORTHWHILE_PART = 4


@dataclass(frozen=True, slots=True)
class LedgerLimits:
    """When a ledger counts as long: beyond either of them."""

    entries: int = 2048
    bytes: int = 4 * 1024 * 1024


LEDGER_LIMITS = LedgerLimits()


def compact_ledger(
    ledger: Ledger, disk: Disk, oldest_segment: Path, limits: LedgerLimits, now_ms: int
) -> bool:
    """Replace the older part of the ledger if it is beyond its limits; whether it was replaced.

    To be called by the thread that retires. `oldest_segment`: the oldest that is on disk. A disk
    that cannot be read or written just now leaves the ledger as it is, to be compacted by a later
    call. Raises WalDamaged if the ledger cannot be read back, and OSError where Ledger.replace
    does; the log is at its end then.
    """
    if ledger.held <= limits.entries and ledger.size <= limits.bytes:
        return False
    try:
        data = disk.read(ledger.path)
        anchored = _anchored_by(disk.read(oldest_segment, 0, HEADER_FIXED_BYTES))
    except OSError:
        return False
    content = parse_ledger(data, ledger.path)
    if content.head != ledger.head or content.fault is not None:
        raise WalDamaged(
            f"{ledger.path} cannot be read back as it was written; restore it from a copy"
        )
    replaced = how_many_to_replace(content, anchored, limits)
    return replaced > 0 and ledger.replace(
        compacted_ledger(data, content, replaced, limits, now_ms)
    )


def how_many_to_replace(content: LedgerContent, anchored: int, limits: LedgerLimits) -> int:
    """How many of `content.entries`, the oldest first, a span should stand for; 0: not worth it.

    `anchored`: the count of entries that the oldest segment on disk anchors.
    """
    wanted, ends = 0, content.ends
    if len(content.entries) + (content.span is not None) > limits.entries:
        wanted = len(content.entries) - limits.entries // KEPT_PART
    if content.valid_bytes > limits.bytes:
        keep_from = content.valid_bytes - limits.bytes // KEPT_PART
        wanted = max(wanted, bisect_left(ends, keep_from) + 1)
    already = content.count - len(content.entries)
    wanted = min(wanted, anchored - already, len(content.entries))
    if wanted <= 0:
        return 0
    bytes_replaced = ends[wanted - 1] - content.span_end
    worthwhile = (
        wanted * WORTHWHILE_PART >= limits.entries
        or bytes_replaced * WORTHWHILE_PART >= limits.bytes
    )
    return wanted if worthwhile else 0


def compacted_ledger(
    data: bytes, content: LedgerContent, replaced: int, limits: LedgerLimits, now_ms: int
) -> bytes:
    """The bytes of a ledger in which a span stands for the first `replaced` entries of `content`.

    `data` is the file that `content` was read from; a span that it has is merged into the new one.
    """
    assert content.log_id is not None
    seed = crc_seed(content.log_id)
    span = encode_ledger_entry(_span_of(content, replaced, limits, now_ms))
    count, head = content.head
    voucher = Compaction(
        index=count + 1,
        first_index=1,
        last_index=count - len(content.entries) + replaced,
        span_sha256=hashlib.sha256(span).digest(),
        compacted_ms=now_ms,
    )
    return b"".join(
        (
            encode_ledger_header(content.log_id, FORMAT_COMPACTED),
            frame_ledger_entry(NO_HASH, span, seed),
            data[content.ends[replaced - 1] : content.valid_bytes],
            frame_ledger_entry(head, encode_ledger_entry(voucher), seed),
        )
    )


def _span_of(
    content: LedgerContent, replaced: int, limits: LedgerLimits, now_ms: int
) -> RetiredSpan:
    segments = [one for one in content.entries[:replaced] if isinstance(one, RetiredSegment)]
    old = [content.span] if content.span is not None else []
    parts: list[RetiredSpan | RetiredSegment] = [*old, *segments]
    bounds = Bounds()
    span = RetiredSpan(
        first_index=1,
        last_index=content.count - len(content.entries) + replaced,
        first_lsn=parts[0].first_lsn,
        last_lsn=parts[-1].last_lsn,
        segment_bytes=sum(part.segment_bytes for part in parts),
        last_hash=content.hashes[replaced - 1],
        compacted_ms=now_ms,
        summary=merge_summaries((part.summary for part in parts), bounds),
    )
    # What is left of very many streams, or of streams in very many pieces, is bounded as well.
    while len(encode_ledger_entry(span)) * SPAN_PART > limits.bytes and not bounds.smallest:
        bounds = bounds.halved()
        span = replace(span, summary=merge_summaries([span.summary], bounds))
    return span


def _anchored_by(header: bytes) -> int:
    """The count of ledger entries that a segment anchors; 0 if its header cannot be read."""
    try:
        return decode_fixed_header(header)[0].ledger_count
    except (HeaderDamagedError, FormatTooNewError):
        return 0  # whoever reads the segment finds that out; nothing is replaced meanwhile
