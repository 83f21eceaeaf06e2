"""What the capture's file survives, and what it never does."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from gapless_gateway.errors import UserError
from gapless_tools import capture_store
from gapless_tools.capture_messages import CapturedRecord, render_line
from gapless_tools.capture_store import CaptureStore, Damaged, read_capture
from tests.support.published import GATEWAY, record, topic


def line(seq: int) -> bytes:
    return render_line(seq, topic("data"), record(seq), retain=False)


def fill(directory: Path, seqs: range) -> Path:
    store = CaptureStore.open(directory, GATEWAY, lambda item: None)
    store.append([line(seq) for seq in seqs])
    store.close()
    return directory / "capture.jsonl"


def reopened(directory: Path) -> tuple[list[int], int]:
    """Open again: (seqs that were handed on, lines that could not be read)."""
    seqs: list[int] = []
    store = CaptureStore.open(directory, GATEWAY, lambda item: seqs.append(item.seq))  # type: ignore[union-attr]
    store.close()
    return seqs, store.damaged_lines


def test_what_was_appended_comes_back_in_order(tmp_path: Path) -> None:
    fill(tmp_path, range(1, 50))
    path = fill(tmp_path, range(50, 60))
    assert reopened(tmp_path) == (list(range(1, 60)), 0)
    items = list(read_capture(path))
    assert items == list(read_capture(tmp_path))
    assert all(isinstance(item, CapturedRecord) for item in items)
    assert [item.line for item in items] == list(range(1, 60))
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_torn_last_line_is_cut_to_a_side_file_at_any_byte(tmp_path: Path) -> None:
    whole = fill(tmp_path / "whole", range(1, 4)).read_bytes()
    start_of_last = whole[:-1].rindex(b"\n") + 1
    for end in range(start_of_last + 1, len(whole)):
        directory = tmp_path / str(end)
        directory.mkdir()
        path = directory / "capture.jsonl"
        path.write_bytes(whole[:end])
        assert isinstance(list(read_capture(path))[-1], Damaged)
        assert list(read_capture(path))[-1].torn
        assert reopened(directory) == ([1, 2], 1)
        assert path.read_bytes() == whole[:start_of_last]
        side = directory / f"capture.torn-{start_of_last}"
        assert side.read_bytes() == whole[start_of_last:end]
        fill(directory, range(3, 4))
        assert reopened(directory) == ([1, 2, 3], 0)


def test_an_end_that_a_power_cut_filled_with_zeros_is_cut(tmp_path: Path) -> None:
    path = fill(tmp_path, range(1, 4))
    good = path.read_bytes()
    path.write_bytes(good + b"\x00" * 700 + b"\n" + b"\x00" * 300)
    assert reopened(tmp_path) == ([1, 2, 3], 2)
    assert path.read_bytes() == good


def test_damage_in_the_middle_costs_its_line_only_and_stays(tmp_path: Path) -> None:
    path = fill(tmp_path, range(1, 6))
    lines = path.read_bytes().splitlines(keepends=True)
    lines[2] = b"\xff" + lines[2][1:]
    path.write_bytes(b"".join(lines))
    assert reopened(tmp_path) == ([1, 2, 4, 5], 1)
    assert path.read_bytes() == b"".join(lines)
    damaged = [item for item in read_capture(path) if isinstance(item, Damaged)]
    assert [(d.line, d.offset, d.torn) for d in damaged] == [(3, len(lines[0] + lines[1]), False)]


def test_append_returns_only_after_the_sync(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = CaptureStore.open(tmp_path, GATEWAY, lambda item: None)
    sizes = []
    monkeypatch.setattr(
        capture_store.os, "fdatasync", lambda descriptor: sizes.append(os.fstat(descriptor).st_size)
    )
    store.append([line(1), line(2)])
    assert sizes == [len(line(1)) + len(line(2))]
    store.close()


def test_what_is_found_in_the_file_is_synced_before_it_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = fill(tmp_path, range(1, 4))
    synced = []
    monkeypatch.setattr(
        capture_store.os, "fsync", lambda descriptor: synced.append(os.fstat(descriptor).st_ino)
    )
    CaptureStore.open(tmp_path, GATEWAY, lambda item: None).close()
    assert path.stat().st_ino in synced
    assert tmp_path.stat().st_ino in synced


def test_a_disk_that_fails_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = CaptureStore.open(tmp_path, GATEWAY, lambda item: None)

    def fail(descriptor: int) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(capture_store.os, "fdatasync", fail)
    with pytest.raises(UserError, match=r"cannot be written: Input/output error"):
        store.append([line(1)])
    store.close()


def test_a_second_capture_is_kept_out_until_the_first_is_closed(tmp_path: Path) -> None:
    first = CaptureStore.open(tmp_path, GATEWAY, lambda item: None)
    with pytest.raises(UserError, match="another capture is writing"):
        CaptureStore.open(tmp_path, GATEWAY, lambda item: None)
    first.close()
    CaptureStore.open(tmp_path, GATEWAY, lambda item: None).close()


def test_another_gateways_capture_is_not_continued(tmp_path: Path) -> None:
    fill(tmp_path, range(1, 3))
    with pytest.raises(UserError, match=f"{GATEWAY} published, not other"):
        CaptureStore.open(tmp_path, "other", lambda item: None)
    assert reopened(tmp_path) == ([1, 2], 0)


def test_a_place_that_is_no_directory_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be used"):
        CaptureStore.open(tmp_path / "file", GATEWAY, lambda item: None)
    with pytest.raises(UserError, match="cannot be read"):
        list(read_capture(tmp_path / "missing.jsonl"))
