"""What was retired is still accounted for, and a ledger that was touched is found."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from gapless_gateway.wal import ledger_compaction, reader
from gapless_gateway.wal.disk import OsDisk
from gapless_gateway.wal.format import crc_seed, encode_segment_header
from gapless_gateway.wal.ledger import Ledger, LedgerContent, read_ledger, write_ledger_file
from gapless_gateway.wal.ledger_compaction import LedgerLimits, compact_ledger, compacted_ledger
from gapless_gateway.wal.ledger_format import encode_ledger_entry, frame_ledger_entry
from gapless_gateway.wal.merged_summary import Bounds
from gapless_tools.audit import books as books_module
from gapless_tools.audit.ledger_check import take_retired
from gapless_tools.audit.run import Result, run_audit
from gapless_tools.audit.timeline import Timeline
from gapless_tools.wal_command import command
from tests.support.audit_history import History, retired_history


@pytest.fixture(scope="module")
def retired(tmp_path_factory: pytest.TempPathFactory) -> History:
    return retired_history(tmp_path_factory.mktemp("retired"))


@pytest.fixture
def copy(retired: History, tmp_path: Path) -> Path:
    return Path(shutil.copytree(retired.state_dir, tmp_path / "state"))


def found(result: Result) -> set[tuple[str, tuple[str, ...]]]:
    return {(one["check"], tuple(one["culprits"])) for one in result.evidence["reasons"]}


def segments(state_dir: Path) -> list[Path]:
    return sorted((state_dir / "wal").glob("*.wal"))


def rewrite(state_dir: Path, content: LedgerContent) -> None:
    """A ledger with these entries and a chain that is right in itself."""
    path = state_dir / "ledger"
    assert content.log_id is not None
    empty = write_ledger_file(OsDisk(), path, content.log_id)
    ledger = Ledger(OsDisk(), path, content.log_id, empty)
    for entry in content.entries:
        ledger.append(entry)
    ledger.close()


def test_what_was_retired_passes_and_is_counted(retired: History) -> None:
    result = run_audit([retired.state_dir], retired.capture_dir)
    books = result.evidence["books"][0]
    assert result.verdict.words == "PASS, complete"
    assert books["ledger_entries"] > 1
    assert books["contents_comparable_from_lsn"] > 1
    assert result.evidence["from"] == "2026-01-01T11:00:00.000Z"
    for row, board in zip(result.evidence["streams"], retired.boards, strict=True):
        assert row["produced"] == row["delivered"] == board.next - 1


def test_a_retired_record_that_the_consumer_lost_is_missed(
    retired: History, tmp_path: Path
) -> None:
    path = tmp_path / "capture.jsonl"
    gone = b'"device":"pump-1","stream":"0a1b2c3d","boot":1,"seq":3,'
    path.write_bytes(b"".join(line for line in retired.lines if gone not in line))
    assert found(run_audit([retired.state_dir], path)) == {("arrived", ("consumer", "us"))}


@pytest.mark.parametrize("where", [0.02, 0.2, 0.5, 0.8])
def test_a_changed_byte_of_the_ledger_is_found(copy: Path, where: float) -> None:
    path = copy / "ledger"
    data = bytearray(path.read_bytes())
    data[max(int(len(data) * where), 30)] ^= 1
    path.write_bytes(data)
    assert ("ledger", ("us",)) in found(run_audit([copy]))


def test_a_ledger_cut_short_is_found(copy: Path) -> None:
    path = copy / "ledger"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert ("ledger", ("us",)) in found(run_audit([copy]))


def test_a_missing_ledger_is_found(copy: Path) -> None:
    (copy / "ledger").unlink()
    assert found(run_audit([copy])) == {("ledger", ("us",))}


def test_a_ledger_rewritten_with_a_chain_of_its_own_is_found_by_its_anchor(copy: Path) -> None:
    content = read_ledger(OsDisk(), copy / "ledger")
    entries = content.entries
    entries[0] = replace(entries[0], retired_ms=entries[0].retired_ms + 1)
    rewrite(copy, content)
    result = run_audit([copy])
    assert found(result) == {("ledger", ("us",))}
    assert "rewritten" in result.evidence["reasons"][0]["words"]


def test_a_summary_that_the_account_denies_is_found(copy: Path) -> None:
    """The newest entries may be anchored nowhere yet: their numbers are held to the account."""
    content = read_ledger(OsDisk(), copy / "ledger")
    last = content.entries[-1]
    stream, records, stored, lost, through = last.summary["streams"][0]
    changed = [[first, end - 1] for first, end in stored]
    summary = last.summary | {"streams": [[stream, records, changed, lost, through]]}
    content.entries[-1] = replace(last, summary=summary)
    rewrite(copy, content)
    words = [one["words"] for one in run_audit([copy]).evidence["reasons"]]
    assert any("ledger and account differ" in one for one in words)


def test_a_segment_taken_out_of_the_middle_is_found(copy: Path) -> None:
    kept = segments(copy)
    assert len(kept) >= 3
    kept[-2].unlink()
    checks = {check for check, _ in found(run_audit([copy]))}
    assert checks & {"log", "ledger"}


def test_a_header_that_tells_of_another_account_is_found(copy: Path) -> None:
    """A snapshot is what the entries before it give; one that is not was put there."""
    starts = [item for item in reader.read_directory(copy) if isinstance(item, reader.SegmentStart)]
    assert len(starts) >= 2
    first, second = starts[0], starts[1]
    old = encode_segment_header(second.header)
    forged = replace(second.header, snapshot=first.header.snapshot)
    rest = second.path.read_bytes()[len(old) :]
    second.path.write_bytes(encode_segment_header(forged) + rest)
    result = run_audit([copy])
    assert ("log", ("us",)) in found(result)
    assert any("another account" in one["words"] for one in result.evidence["reasons"])


def compacted(state_dir: Path, entries: int = 3) -> LedgerContent:
    """Compact the ledger of a directory, as a running gateway does."""
    path, disk = state_dir / "ledger", OsDisk()
    before = read_ledger(disk, path)
    assert before.log_id is not None
    ledger = Ledger(disk, path, before.log_id, before)
    limits = LedgerLimits(entries=entries)
    assert compact_ledger(
        ledger, disk, segments(state_dir)[0], limits, before.retired[-1].retired_ms
    )
    ledger.close()
    after = read_ledger(disk, path)
    assert after.span is not None
    return after


def test_an_audit_says_the_same_before_and_after_a_compaction(retired: History, copy: Path) -> None:
    before = run_audit([retired.state_dir], retired.capture_dir).evidence
    content = compacted(copy)
    result = run_audit([copy], retired.capture_dir)
    after = result.evidence
    assert result.verdict.words == "PASS, complete"
    assert content.span is not None
    assert content.span.summary["segments"] >= 3
    for key in before.keys() - {"generated", "books"}:
        assert after[key] == before[key], key
    books, books_before = after["books"][0], before["books"][0]
    assert books["segments_retired"] == books_before["segments_retired"]
    assert books["ledger_entries"] == books_before["ledger_entries"] + 1 == content.count
    for key in books.keys() - {"ledger_entries", "ledger_head", "state_dir"}:
        assert books[key] == books_before[key], key


def test_a_gateway_that_compacts_as_it_goes_is_audited_as_one_that_never_did(
    tmp_path: Path,
) -> None:
    evidences = []
    for name, limits in (("plain", LedgerLimits()), ("compacting", LedgerLimits(entries=5))):
        one = retired_history(tmp_path / name, ledger_limits=limits, rounds=20)
        evidences.append(run_audit([one.state_dir], one.capture_dir).evidence)
        content = read_ledger(OsDisk(), one.state_dir / "ledger")
        assert (content.span is None) == (name == "plain")
        vouchers = content.count - content.retired_count
        assert vouchers >= 4 * (name == "compacting"), "over and over"
    plain, compacting = evidences
    assert compacting["verdict_words"] == "PASS, complete"
    for one in evidences:
        del one["capture"]["file"]
    for key in plain.keys() - {"generated", "books"}:
        assert compacting[key] == plain[key], key


def with_holes(content: LedgerContent, *, missing: int) -> LedgerContent:
    """LOST in the oldest segment of a stream, and its first numbers not told of at all."""
    oldest = content.retired[0]
    row, *others = oldest.summary["streams"]
    (first, last), *_ = row[2]
    lost = [[first + 3, first + 3, 1, False, False], [first + 5, first + 5, 2, False, False]]
    changed = [*row[:2], [[first + missing, last]], lost, row[4]]
    summary = oldest.summary | {"streams": [changed, *others]}
    return replace(content, entries=[replace(oldest, summary=summary), *content.entries[1:]])


@pytest.mark.parametrize("missing", [0, 2])
def test_what_a_span_only_counts_is_held_to_the_account(
    copy: Path, monkeypatch: pytest.MonkeyPatch, missing: int
) -> None:
    """One range is kept of each stream, so its oldest numbers are compared as a count."""
    rewrite(copy, with_holes(read_ledger(OsDisk(), copy / "ledger"), missing=missing))
    anchor_anew(copy)
    monkeypatch.setattr(ledger_compaction, "Bounds", lambda: Bounds(ranges=1))
    span = compacted(copy).span
    assert span is not None
    through, numbers, _ = span.summary["streams"][0][-1]
    assert (through, numbers) == (4, 4 - missing)
    words = [one["words"] for one in run_audit([copy]).evidence["reasons"]]
    wanted = "2 of the numbers up to 4, of which the account has 4"
    assert any(wanted in one for one in words) == bool(missing)
    assert bool(words) == bool(missing)


def anchor_anew(state_dir: Path) -> None:
    """Give every segment the anchor of a ledger that was rewritten, so that only that is judged."""
    content = read_ledger(OsDisk(), state_dir / "ledger")
    starts = [
        item for item in reader.read_directory(state_dir) if isinstance(item, reader.SegmentStart)
    ]
    for start in starts:
        header = start.header
        rest = start.path.read_bytes()[len(encode_segment_header(header)) :]
        digest = content.hash_at(header.ledger_count)
        assert digest is not None
        forged = replace(header, ledger_hash=digest)
        start.path.write_bytes(encode_segment_header(forged) + rest)


@pytest.mark.parametrize("where", [0.01, 0.1, 0.3, 0.5, 0.7, 0.9])
def test_a_changed_byte_of_a_compacted_ledger_is_found(copy: Path, where: float) -> None:
    compacted(copy)
    path = copy / "ledger"
    data = bytearray(path.read_bytes())
    data[max(int(len(data) * where), 30)] ^= 1
    path.write_bytes(data)
    assert ("ledger", ("us",)) in found(run_audit([copy]))
    assert CliRunner().invoke(command, ["verify", str(copy)]).exit_code == 1


def test_another_span_than_the_one_that_was_vouched_for_is_found(copy: Path) -> None:
    content = compacted(copy)
    assert content.span is not None
    path = copy / "ledger"
    data = path.read_bytes()
    other = replace(content.span, compacted_ms=content.span.compacted_ms + 1)
    assert content.log_id is not None
    framed = frame_ledger_entry(bytes(32), encode_ledger_entry(other), crc_seed(content.log_id))
    path.write_bytes(data[:24] + framed + data[content.span_end :])
    reasons = run_audit([copy]).evidence["reasons"]
    assert [one["check"] for one in reasons] == ["ledger"]
    assert "vouches for" in reasons[0]["words"]
    result = CliRunner().invoke(command, ["verify", str(copy)])
    assert result.exit_code == 1
    assert "vouches for" in result.output


def test_a_span_over_what_the_log_anchors_is_found(copy: Path) -> None:
    """Nobody may hide a rewritten ledger behind a span: an anchor is never compacted over."""
    path, disk = copy / "ledger", OsDisk()
    content = read_ledger(disk, path)
    data = path.read_bytes()
    everything = len(content.entries)
    path.write_bytes(compacted_ledger(data, content, everything, LedgerLimits(), 0))
    assert ("ledger", ("us",)) in found(run_audit([copy]))
    assert CliRunner().invoke(command, ["verify", str(copy)]).exit_code == 1


def test_what_is_retired_and_compacted_while_the_log_is_read_is_no_finding(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The ledger is read after the log: of a gateway that goes on, it tells of later things."""
    history = History(
        tmp_path / "live", segment_bytes_max=8_192, ledger_limits=LedgerLimits(entries=4)
    )
    history.start()
    for _ in range(7):
        history.play(2)
        history.retire()
    read_log = Path(shutil.copytree(history.state_dir, tmp_path / "read"))
    for _ in range(8):
        history.play(2)
        history.retire()
    later = read_ledger(OsDisk(), history.state_dir / "ledger")
    before = reader.read_books(read_log)
    assert later.span is not None
    assert later.span.last_lsn > segments_end(read_log)
    after = reader.Books(later, before.cursor)
    told = iter([before, after] * 2)
    monkeypatch.setattr(reader, "read_books", lambda _path: next(told))
    monkeypatch.setattr(books_module, "is_in_use", lambda _lock: True)
    assert run_audit([read_log]).verdict.words == "PASS, complete"
    monkeypatch.setattr(books_module, "is_in_use", lambda _lock: False)
    assert found(run_audit([read_log])) == {("ledger", ("us",))}


def segments_end(state_dir: Path) -> int:
    return max(
        item.header.first_lsn
        for item in reader.read_directory(state_dir)
        if isinstance(item, reader.SegmentStart)
    )


def test_a_stream_that_began_late_is_drawn_from_when_it_began(copy: Path) -> None:
    content = compacted(copy)
    assert content.span is not None
    rows = content.span.summary["streams"]
    stream, to_ms = rows[0][0], content.span.summary["to_ms"]
    rows[0][5:8] = [3, to_ms - 50, to_ms - 20]
    timeline = Timeline()
    take_retired(timeline, content, content.span.last_lsn + 1)
    assert timeline.sampled[stream].all() == [(to_ms - 50, 3), (to_ms - 20, rows[0][2][-1][1])]


def test_inspect_tells_of_the_span(copy: Path) -> None:
    content = compacted(copy)
    assert content.span is not None
    segments_in_span = content.span.summary["segments"]
    shown = CliRunner().invoke(command, ["inspect", str(copy)]).output
    assert f"{content.retired_count} segments retired, {segments_in_span} of them in one span" in (
        shown
    )
    facts = json.loads(CliRunner().invoke(command, ["inspect", str(copy), "--json"]).output)
    assert facts["retired"] == content.retired_count
    assert facts["ledger"]["span"]["last_lsn"] == content.span.last_lsn
    assert facts["ledger"]["entries"] == content.count
