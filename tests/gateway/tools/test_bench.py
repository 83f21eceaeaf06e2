"""The benches run and say what was agreed. How fast anything is, no test judges."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

TOOLS = Path(__file__).resolve().parents[3] / "tools"


def run_bench(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "bench", *arguments],
        cwd=TOOLS,
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_log_is_measured_in_rows_with_a_goal(tmp_path):
    done = run_bench(
        "wal", "--json", "--records", "3000", "--commits", "8", "--rounds", "1",
        "--dir", str(tmp_path),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout)
    assert len(rows) == 9
    for row in rows:
        assert list(row) == ["what", "value", "goal", "holds"]
        assert row["value"] > 0
        relation, goal = row["goal"].split()
        assert relation in {">=", "<="}
        assert float(goal) > 0
        assert type(row["holds"]) is bool
    assert list(tmp_path.iterdir()) == []  # it tidies up


def test_a_bench_that_does_not_exist_is_named():
    done = run_bench("no-such-bench")
    assert done.returncode == 2
    assert "no-such-bench" in done.stderr
    assert "wal" in done.stderr
