"""The demo succeeds only if everything it promises was seen; each thing missing fails it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from gapless_tools.audit.run import Result
from gapless_tools.audit.verdict import FAIL, PASS, Verdict
from gapless_tools.demo.closing import Closing


def result(word: str = PASS, **changes: Any) -> Result:
    evidence = {
        "streams": [
            {"device": "pump-1", "produced": 7},
            {"device": "pump-1", "produced": 3},
            {"device": "valve-2", "produced": 5},
        ],
        "outages": [{"id": 1, "ended": "2026-01-01T00:00:00Z", "peak_pending": 4}],
    }
    verdict = Verdict(word, complete=True, lost=0, lost_at_most=0, culprits=("us",))
    return Result(verdict, evidence | changes, None, None)


GOOD = Closing(
    result=result(),
    produced_by_boards={"pump-1": 10, "valve-2": 5},
    backlog_peak=4,
    gateway_status=0,
    consumer_status=0,
    account=None,
    root=Path(),
)


def test_a_demo_that_showed_everything_succeeds() -> None:
    assert GOOD.failures() == []
    assert GOOD.passed


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"result": result(FAIL)}, "audit"),
        ({"produced_by_boards": {"pump-1": 11, "valve-2": 5}}, "pump-1 used 11 numbers"),
        ({"produced_by_boards": {"pump-1": 10, "valve-2": 5, "tank-3": 1}}, "tank-3"),
        ({"backlog_peak": 0}, "grow"),
        ({"result": result(outages=[{"id": 1, "ended": "x", "peak_pending": 0}])}, "grow"),
        ({"result": result(outages=[{"id": 1, "ended": None, "peak_pending": 4}])}, "drain"),
        ({"result": result(outages=[])}, "drain"),
        ({"gateway_status": 1}, "gateway ended with status 1"),
        ({"consumer_status": None}, "consumer ended with status None"),
    ],
)
def test_a_demo_that_did_not_show_it_all_fails_and_says_what(
    changes: dict[str, Any], named: str
) -> None:
    closing = replace(GOOD, **changes)
    assert not closing.passed
    assert any(named in failure for failure in closing.failures()), closing.failures()
