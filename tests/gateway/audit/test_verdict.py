"""An audit that cannot fail is worthless: each input is corrupted once, the culprit is named."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from gapless_gateway.account.stream_account import Balance, StreamAccount
from gapless_gateway.wal import reader
from gapless_gateway.wal.cursor import read_cursor, write_cursor_file
from gapless_gateway.wal.disk import OsDisk
from gapless_gateway.wal.entries import Conflict, Entry, Lost, Progress, Record
from gapless_gateway.wal.log import Log
from gapless_tools.audit.books import CouldNotJudgeError
from gapless_tools.audit.run import Result, run_audit
from tests.support.audit_history import History, lossy_history, short_history

Line = dict[str, Any]


@pytest.fixture(scope="module")
def short(tmp_path_factory: pytest.TempPathFactory) -> History:
    return short_history(tmp_path_factory.mktemp("short"))


@pytest.fixture(scope="module")
def lossy(tmp_path_factory: pytest.TempPathFactory) -> History:
    return lossy_history(tmp_path_factory.mktemp("lossy"))


def audit(history: History, lines: list[Line] | None = None, into: Path | None = None) -> Result:
    """Audit the history, with these lines in place of its capture."""
    if lines is None or into is None:
        return run_audit([history.state_dir], history.capture_dir)
    path = into / "capture.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return run_audit([history.state_dir], path)


def lines_of(history: History) -> list[Line]:
    return [json.loads(line) for line in history.lines]


def index_of(lines: list[Line], device: str, seq: int) -> int:
    return next(
        at
        for at, line in enumerate(lines)
        if line["message"].get("seq") == seq and line["message"]["device"] == device
    )


def found(result: Result) -> dict[str, list[str]]:
    """Check -> culprits, of everything that was found."""
    return {reason["check"]: reason["culprits"] for reason in result.evidence["reasons"]}


# The untouched history


def test_an_untouched_history_passes_and_is_complete(short: History) -> None:
    result = audit(short)
    assert result.verdict.words == "PASS, complete"
    assert result.evidence["reasons"] == []
    assert result.exit_status == 0
    assert result.evidence["capture"]["redelivered"] > 0  # the history does contain repeats


def test_declared_losses_pass_and_are_counted_apart(lossy: History) -> None:
    result = audit(lossy)
    lost = {
        (row["device"], one["first"], one["last"], one["reason"], one["at_most"])
        for row in result.evidence["streams"]
        for one in row["lost"]
    }
    exact = sum(last - first + 1 for _, first, last, _, at_most in lost if not at_most)
    at_most = sum(last - first + 1 for _, first, last, _, at_most in lost if at_most)
    assert exact > 0
    assert at_most > 0
    assert {one[3] for one in lost} == {"reset", "overflow"}
    assert result.verdict.words == f"PASS, {exact} declared lost (at most {at_most} more)"
    assert not result.verdict.complete


def test_require_complete_refuses_what_was_declared_lost(lossy: History) -> None:
    paths = [lossy.state_dir], lossy.capture_dir
    assert run_audit(*paths).exit_status == 0
    assert run_audit(*paths, require_complete=True).exit_status == 1


def test_produced_is_the_sum_of_its_states_and_what_the_boards_used(lossy: History) -> None:
    evidence = audit(lossy).evidence
    for row, board in zip(evidence["streams"], lossy.boards, strict=True):
        lost = sum(one["last"] - one["first"] + 1 for one in row["lost"])
        pending = row["pending_device"] + row["pending_gateway"]
        assert row["produced"] == row["delivered"] + pending + lost == board.next - 1


def test_books_alone_are_judged_without_a_capture_and_say_so(short: History) -> None:
    result = run_audit([short.state_dir])
    assert result.verdict.words == "PASS, complete"
    assert result.evidence["scope"] == "books"
    assert result.evidence["streams"][0]["missing_at_consumer"] is None
    not_judged = {c["name"] for c in result.evidence["checks"] if c["result"] == "not judged"}
    assert not_judged == {
        "capture", "arrived", "known", "content", "flagged", "sent-order", "arrival-order",
    }  # fmt: skip


# The capture, one line corrupted


def test_a_receipted_record_that_is_missing_is_ours_or_the_consumers(
    short: History, tmp_path: Path
) -> None:
    lines = lines_of(short)
    del lines[index_of(lines, "pump-1", 7)]
    result = audit(short, lines, tmp_path)
    assert result.verdict.words == "FAIL (us, consumer)"
    assert found(result) == {"arrived": ["consumer", "us"]}
    assert result.evidence["streams"][0]["missing_at_consumer"] == 1
    assert result.exit_status == 1


def test_an_acknowledged_record_that_is_missing_was_lost_by_the_broker(tmp_path: Path) -> None:
    history = short_history(tmp_path / "puback", mode="puback")
    lines = lines_of(history)
    del lines[index_of(lines, "pump-1", 7)]
    result = audit(history, lines, tmp_path)
    assert result.verdict.words == "FAIL (broker)"
    assert found(result) == {"arrived": ["broker"]}


def test_a_declared_loss_that_is_missing_is_missed(lossy: History, tmp_path: Path) -> None:
    lines = [line for line in lines_of(lossy) if not line["topic"].endswith("tank-2/lost")]
    result = audit(lossy, lines, tmp_path)
    assert found(result) == {"arrived": ["consumer", "us"]}
    assert result.evidence["reasons"][0]["count"] == 3


def test_an_unflagged_duplicate_is_ours(short: History, tmp_path: Path) -> None:
    lines = lines_of(short)
    copy = json.loads(json.dumps(lines[index_of(lines, "tank-2", 5)]))
    copy["message"]["tx"] = "2-900"
    result = audit(short, [*lines, copy], tmp_path)
    assert found(result)["flagged"] == ["us"]
    assert result.evidence["streams"][1]["duplicates_unflagged"] == 1


def test_a_flagged_duplicate_is_no_failure(short: History, tmp_path: Path) -> None:
    lines = lines_of(short)
    copy = json.loads(json.dumps(lines[index_of(lines, "tank-2", 5)]))
    copy["message"] |= {"tx": "2-900", "redelivery": True}
    assert audit(short, [*lines, copy], tmp_path).verdict.words == "PASS, complete"


def test_the_same_transmission_twice_is_the_brokers_own_and_no_failure(
    short: History, tmp_path: Path
) -> None:
    lines = lines_of(short)
    copy = lines[index_of(lines, "tank-2", 5)]
    result = audit(short, [*lines, copy], tmp_path)
    assert result.verdict.words == "PASS, complete"
    assert result.evidence["capture"]["broker_duplicates"] == 1


def test_a_repeat_that_calls_itself_new_is_found_though_the_first_copy_was_flagged(
    short: History, tmp_path: Path
) -> None:
    lines = lines_of(short)
    flagged = next(line for line in lines if line["message"].get("redelivery"))
    device, seq = flagged["message"]["device"], flagged["message"]["seq"]
    first = lines[index_of(lines, device, seq)]
    first["message"]["redelivery"], flagged["message"]["redelivery"] = True, False
    assert found(audit(short, lines, tmp_path))["flagged"] == ["us"]


def test_a_flag_taken_off_a_redelivery_is_found(short: History, tmp_path: Path) -> None:
    lines = lines_of(short)
    flagged = next(line for line in lines if line["message"].get("redelivery"))
    flagged["message"]["redelivery"] = False
    assert found(audit(short, lines, tmp_path))["flagged"] == ["us"]


@pytest.mark.parametrize(
    "change",
    [
        lambda m: m["values"].update(temperature=21.5),
        lambda m: m["values"].update(ok=1),
        lambda m: m["values"].update(more=0),
        lambda m: m["values"].pop("count"),
        lambda m: m.update(boot=2),
        lambda m: m.update(t_ms=m["t_ms"] + 1),
        lambda m: m.update(t="2026-01-01T11:00:00.123Z"),
        lambda m: m.update(t_err_ms=0),
        lambda m: m.update(t_source="unsynced"),
        lambda m: m.update(rx="2026-01-01T11:00:00.123Z"),
    ],
)
def test_a_changed_content_is_found(
    short: History, tmp_path: Path, change: Callable[[Line], None]
) -> None:
    lines = lines_of(short)
    change(lines[index_of(lines, "valve-3", 4)]["message"])
    result = audit(short, lines, tmp_path)
    assert found(result) == {"content": ["us", "consumer"]}


def test_lines_that_arrived_in_another_order_than_sent_are_the_brokers(
    short: History, tmp_path: Path
) -> None:
    lines = lines_of(short)
    a, b = index_of(lines, "pump-1", 7), index_of(lines, "pump-1", 8)
    lines[a], lines[b] = lines[b], lines[a]
    result = audit(short, lines, tmp_path)
    assert found(result) == {"arrival-order": ["broker"]}
    assert result.evidence["streams"][0]["order_violations"] == 1


def test_records_sent_in_another_order_than_logged_are_ours(short: History, tmp_path: Path) -> None:
    lines = lines_of(short)
    a, b = (lines[index_of(lines, "pump-1", seq)]["message"] for seq in (7, 8))
    a["tx"], b["tx"] = b["tx"], a["tx"]
    result = audit(short, lines, tmp_path)
    assert found(result) == {"sent-order": ["us"]}
    assert result.evidence["streams"][0]["order_violations"] == 1


def test_redelivered_copies_do_not_count_as_disorder(short: History, tmp_path: Path) -> None:
    lines = lines_of(short)
    copy = json.loads(json.dumps(lines[index_of(lines, "pump-1", 3)]))
    copy["message"] |= {"tx": "2-900", "redelivery": True}
    lines.insert(index_of(lines, "pump-1", 40), copy)
    assert audit(short, lines, tmp_path).verdict.words == "PASS, complete"


def test_a_record_that_the_log_does_not_know_is_ours(short: History, tmp_path: Path) -> None:
    lines = lines_of(short)
    copy = json.loads(json.dumps(lines[index_of(lines, "pump-1", 80)]))
    copy["message"] |= {"seq": 999, "tx": "2-900"}
    result = audit(short, [*lines, copy], tmp_path)
    assert found(result) == {"known": ["us"]}


def test_what_came_after_the_books_end_is_counted_and_not_judged(
    short: History, tmp_path: Path
) -> None:
    lines = lines_of(short)
    copy = json.loads(json.dumps(lines[index_of(lines, "pump-1", 80)]))
    copy["message"] |= {"seq": 999, "tx": "2-900", "rx": "2026-01-01T12:00:00.000Z"}
    result = audit(short, [*lines, copy], tmp_path)
    assert result.verdict.words == "PASS, complete"
    assert result.evidence["capture"]["after_the_books_end"] == 1


def test_a_stream_that_no_log_knows_is_found(short: History, tmp_path: Path) -> None:
    lines = lines_of(short)
    copy = json.loads(json.dumps(lines[index_of(lines, "pump-1", 8)]))
    copy["message"]["stream"] = "ffffffff"
    assert found(audit(short, [*lines, copy], tmp_path)) == {"known": ["us"]}


@pytest.mark.parametrize("field", ["reason", "first", "at_most"])
def test_a_loss_told_otherwise_than_logged_is_found(
    lossy: History, tmp_path: Path, field: str
) -> None:
    lines = lines_of(lossy)
    message = next(m["message"] for m in lines if m["topic"].endswith("tank-2/lost"))
    other = {"reason": "reset", "first": message["first"] - 1, "at_most": True}
    message[field] = other[field]
    assert found(audit(lossy, lines, tmp_path))["content"] == ["us", "consumer"]


def test_a_line_that_cannot_be_read_is_the_consumers(short: History, tmp_path: Path) -> None:
    path = tmp_path / "capture.jsonl"
    path.write_bytes(b"".join([*short.lines[:3], b'{"rx_ms": 12, "topic"\n', *short.lines[3:]]))
    result = run_audit([short.state_dir], path)
    assert found(result) == {"capture": ["consumer"]}
    assert "line 4" in result.evidence["reasons"][0]["words"]


def test_a_torn_last_line_is_what_a_crash_leaves_and_no_failure(
    short: History, tmp_path: Path
) -> None:
    path = tmp_path / "capture.jsonl"
    path.write_bytes(b"".join([*short.lines, b'{"rx_ms": 12, "topic"']))
    assert run_audit([short.state_dir], path).verdict.words == "PASS, complete"


# The log, one entry corrupted


def rewritten(history: History, into: Path, change: Callable[[list[Entry]], list[Entry]]) -> Path:
    """A log with the same identity and other entries, every CRC right; and the same cursor."""
    entries = [
        item.entry
        for item in reader.read_directory(history.state_dir)
        if isinstance(item, reader.Entry)
    ]
    state_dir = into / "state"
    log = Log.open(state_dir, random_bytes=lambda n: (1).to_bytes(n, "big"), now_ms=lambda: 1)
    for entry in change(entries):
        log.append(entry)
    log.commit()
    log.close()
    shutil.copy(history.state_dir / "cursor", state_dir / "cursor")
    return state_dir


def at(entries: list[Entry], device_stream: bytes, seq: int) -> int:
    return next(
        index
        for index, entry in enumerate(entries)
        if isinstance(entry, Record) and (entry.stream, entry.seq) == (device_stream, seq)
    )


PUMP = bytes.fromhex("0a1b2c3d")


def test_a_rewritten_log_that_is_the_same_passes(short: History, tmp_path: Path) -> None:
    state_dir = rewritten(short, tmp_path, lambda entries: entries)
    assert run_audit([state_dir], short.capture_dir).verdict.words == "PASS, complete"


def test_a_record_taken_out_of_the_log_is_unexplained_and_ours(
    short: History, tmp_path: Path
) -> None:
    def without(entries: list[Entry]) -> list[Entry]:
        del entries[at(entries, PUMP, 9)]
        return entries

    state_dir = rewritten(short, tmp_path, without)
    result = run_audit([state_dir])
    assert result.verdict.words == "FAIL (us)"
    assert found(result)["explained"] == ["us"]
    assert result.evidence["streams"][0]["unexplained"] == 1
    words = [one["words"] for one in result.evidence["reasons"] if one["check"] == "explained"]
    assert words == ["1 of its numbers have no explanation: 9"]
    assert found(run_audit([state_dir], short.capture_dir))["known"] == ["us"]


def test_the_last_record_taken_out_of_the_log_is_found_by_the_capture(
    short: History, tmp_path: Path
) -> None:
    def without(entries: list[Entry]) -> list[Entry]:
        del entries[at(entries, PUMP, 80)]
        return entries

    result = run_audit([rewritten(short, tmp_path, without)], short.capture_dir)
    assert found(result)["known"] == ["us"]


def test_swapped_records_are_a_violation_of_order_and_ours(short: History, tmp_path: Path) -> None:
    def swap(entries: list[Entry]) -> list[Entry]:
        a, b = at(entries, PUMP, 9), at(entries, PUMP, 10)
        entries[a], entries[b] = entries[b], entries[a]
        return entries

    result = run_audit([rewritten(short, tmp_path, swap)])
    assert found(result) == {"order": ["us"]}
    assert result.evidence["streams"][0]["order_violations"] > 0


def test_a_record_stored_twice_is_ours(short: History, tmp_path: Path) -> None:
    def double(entries: list[Entry]) -> list[Entry]:
        index = at(entries, PUMP, 9)
        return [*entries[: index + 1], *entries[index:]]

    assert found(run_audit([rewritten(short, tmp_path, double)])) == {"order": ["us"]}


def test_changed_bytes_of_a_record_are_found_by_the_capture(short: History, tmp_path: Path) -> None:
    def change(entries: list[Entry]) -> list[Entry]:
        index = at(entries, PUMP, 9)
        record = entries[index]
        assert isinstance(record, Record)
        entries[index] = replace(record, data=record.data[:-1] + b"\x0a")
        return entries

    result = run_audit([rewritten(short, tmp_path, change)], short.capture_dir)
    assert found(result) == {"content": ["us", "consumer"]}


def test_a_conflict_is_the_devices(short: History, tmp_path: Path) -> None:
    def conflict(entries: list[Entry]) -> list[Entry]:
        index = at(entries, PUMP, 60)
        evidence = Conflict(PUMP, 59, short.now_ms, "bytes-differ", b"\x00")
        return [*entries[:index], evidence, *entries[index:]]

    result = run_audit([rewritten(short, tmp_path, conflict)])
    assert result.verdict.words == "FAIL (device)"
    assert found(result) == {"conflicts": ["device"]}
    assert result.evidence["streams"][0]["conflicts"] == 1


def test_a_declared_loss_taken_out_of_the_log_is_unexplained(
    lossy: History, tmp_path: Path
) -> None:
    def without(entries: list[Entry]) -> list[Entry]:
        return [entry for entry in entries if not isinstance(entry, Lost)]

    result = run_audit([rewritten(lossy, tmp_path, without)])
    assert found(result)["explained"] == ["us"]


def test_a_delivery_of_what_was_never_stored_is_ours(short: History, tmp_path: Path) -> None:
    def boast(entries: list[Entry]) -> list[Entry]:
        index = max(i for i, entry in enumerate(entries) if isinstance(entry, Progress))
        last = entries[index]
        assert isinstance(last, Progress)
        told = tuple((stream, through + 5, *rest) for stream, through, *rest in last.streams)
        entries[index] = replace(last, streams=told)  # type: ignore[arg-type]
        return entries

    assert found(run_audit([rewritten(short, tmp_path, boast)])) == {"order": ["us"]}


def test_an_account_that_does_not_add_up_is_ours(
    short: History, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        StreamAccount, "balance", lambda _: Balance(10, 9, 0, 0, 0, 0, 0, 0), raising=True
    )
    result = audit(short)
    assert found(result) == {"explained": ["us"]}
    assert "does not add up" in result.evidence["reasons"][0]["words"]


# The files


def copied(history: History, into: Path) -> Path:
    return Path(shutil.copytree(history.state_dir, into / "state"))


def test_a_flipped_byte_in_the_middle_of_the_log_is_damage_and_ours(
    short: History, tmp_path: Path
) -> None:
    state_dir = copied(short, tmp_path)
    segment = next((state_dir / "wal").glob("*.wal"))
    data = bytearray(segment.read_bytes())
    data[len(data) // 2] ^= 1
    segment.write_bytes(data)
    result = run_audit([state_dir], short.capture_dir)
    assert found(result)["log"] == ["us"]


def test_a_log_whose_only_header_is_unreadable_is_not_judged(
    short: History, tmp_path: Path
) -> None:
    state_dir = copied(short, tmp_path)
    segment = next((state_dir / "wal").glob("*.wal"))
    data = bytearray(segment.read_bytes())
    data[20] ^= 1
    segment.write_bytes(data)
    with pytest.raises(CouldNotJudgeError, match="restore"):
        run_audit([state_dir])


def test_a_cursor_of_another_log_is_ours(short: History, lossy: History, tmp_path: Path) -> None:
    state_dir = copied(short, tmp_path)
    other = Log.open(tmp_path / "other", now_ms=lambda: 1)
    other.close()
    shutil.copy(tmp_path / "other" / "cursor", state_dir / "cursor")
    assert found(run_audit([state_dir]))["log"] == ["us"]


def test_a_cursor_that_boasts_of_deliveries_is_ours(short: History, tmp_path: Path) -> None:
    state_dir = copied(short, tmp_path)
    cursor = read_cursor(OsDisk(), state_dir / "cursor")
    assert cursor is not None
    cursor.delivered_through[PUMP] += 5
    write_cursor_file(OsDisk(), state_dir / "cursor", cursor)
    assert found(run_audit([state_dir])) == {"order": ["us"]}


def test_an_audit_writes_nothing_into_the_state_directory(short: History, tmp_path: Path) -> None:
    state_dir = copied(short, tmp_path)
    before = {path: path.stat().st_mtime_ns for path in state_dir.rglob("*")}
    run_audit([state_dir], short.capture_dir)
    assert {path: path.stat().st_mtime_ns for path in state_dir.rglob("*")} == before


def test_beside_a_running_gateway_nothing_looks_missing_or_unknown(tmp_path: Path) -> None:
    history = History(tmp_path)
    history.start()
    history.play(3)
    lines = lines_of(history)
    copy = json.loads(json.dumps(lines[-1]))
    copy["message"] |= {"seq": 999, "tx": "1-900"}  # taken in while the books were read
    running = audit(history, [*lines, copy], tmp_path)
    assert running.evidence["reasons"] == []
    assert running.evidence["capture"]["after_the_books_end"] == 1
    assert not running.evidence["books"][0]["ends_cleanly"]
    history.kill()
    assert found(audit(history, [*lines, copy], tmp_path)) == {"known": ["us"]}
