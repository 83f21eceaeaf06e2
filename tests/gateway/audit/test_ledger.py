"""What was retired is still accounted for, and a ledger that was touched is found."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from gapless_gateway.wal import reader
from gapless_gateway.wal.disk import OsDisk
from gapless_gateway.wal.format import encode_segment_header
from gapless_gateway.wal.ledger import Ledger, LedgerContent, read_ledger, write_ledger_file
from gapless_tools.audit.run import Result, run_audit
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
