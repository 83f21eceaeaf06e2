"""The field demo, from the outside: its exit status, its evidence, and what it leaves behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import jsonschema
import pytest

from gapless_gateway.errors import UserError
from gapless_tools.audit.evidence import evidence_schema
from gapless_tools.demo.plan import make_plan
from tests.support.processes import processes_that_name, wait_until_none_names
from tests.support.requirements import require_module, require_program

SHORT = ["--duration", "24", "--outage", "7:8"]
DEADLINE_S = 240.0


def start_demo(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "gapless_tools.cli", "demo", *arguments],
        cwd=folder,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def check_success(demo: subprocess.Popen[str], root: Path, devices: int) -> None:
    """Check what a demo that ended must have shown, with figures that are not its own words."""
    output, _ = demo.communicate(timeout=DEADLINE_S)
    print(output)
    assert demo.returncode == 0
    assert "PASS" in output
    assert str(root / "evidence.html") in output
    evidence = json.loads((root / "evidence.json").read_text())
    jsonschema.validate(evidence, evidence_schema())
    assert evidence["verdict"] == "PASS"
    assert "MicroPython" in evidence["streams"][0].get("runtime", "MicroPython")
    assert len(evidence["streams"]) == devices
    for stream in evidence["streams"]:
        lost = {True: 0, False: 0}
        for one in stream["lost"]:
            lost[one["at_most"]] += one["last"] - one["first"] + 1
        assert stream["unexplained"] == 0
        assert stream["produced"] > 0
        assert stream["produced"] == (
            stream["delivered"]
            + stream["pending_device"]
            + stream["pending_gateway"]
            + sum(one["last"] - one["first"] + 1 for one in stream["quarantined"])
            + lost[False]
            + lost[True]
        )
        assert stream["pending_device"] == stream["pending_gateway"] == 0
        assert stream["missing_at_consumer"] in (0, [])
    assert [outage["id"] for outage in evidence["outages"]] == sorted(
        {outage["id"] for outage in evidence["outages"]}
    )
    assert max(outage["peak_pending"] for outage in evidence["outages"]) > 0
    assert all(outage["ended"] is not None for outage in evidence["outages"])
    assert evidence["recoveries"], "the killed gateway must be seen in the evidence"


def test_two_demos_at_once_each_end_in_a_verdict_of_their_own(tmp_path: Path) -> None:
    require_module("iotcore")
    demos = [start_demo(tmp_path, *SHORT) for _ in range(2)]
    try:
        roots: list[Path] = []
        until = time.monotonic() + 60
        while len(roots) < 2 and time.monotonic() < until:
            roots = sorted(tmp_path.glob("gapless-demo-*"))
            time.sleep(0.05)
        outputs = {}
        for demo in demos:
            output, _ = demo.communicate(timeout=DEADLINE_S)
            print(output)
            assert demo.returncode == 0
            outputs[demo.pid] = output
        for root in roots:
            assert sum(str(root) + "/evidence.html" in text for text in outputs.values()) == 1
            assert json.loads((root / "evidence.json").read_text())["verdict"] == "PASS"
    finally:
        for demo in demos:
            demo.kill()
    assert wait_until_none_names(tmp_path) == []


@pytest.mark.parametrize("broker", ["embedded", "mosquitto"])
def test_the_demo_passes_and_its_evidence_adds_up(tmp_path: Path, broker: str) -> None:
    require_module("iotcore")
    if broker == "mosquitto":
        require_program("mosquitto", hint="apt install mosquitto")
    root = tmp_path / "report"
    demo = start_demo(tmp_path, *SHORT, "--devices", "4", "--broker", broker, "--report", str(root))
    try:
        check_success(demo, root, devices=4)
    finally:
        demo.kill()
    assert wait_until_none_names(tmp_path) == []


def wait_for_text(demo: subprocess.Popen[str], text: str) -> None:
    """Read the demo's lines until one holds `text`."""
    assert demo.stdout is not None
    for line in demo.stdout:
        print(line, end="")
        if text in line:
            return
    raise AssertionError(f"the demo ended before it said {text!r}")


def at_once(demo: subprocess.Popen[str]) -> None:
    wait_for_text(demo, "starting the broker")


def while_boards_start(demo: subprocess.Popen[str]) -> None:
    wait_for_text(demo, "virtual boards")


def in_the_outage(demo: subprocess.Popen[str]) -> None:
    wait_for_text(demo, "SIGKILL to the broker")


def while_the_gateway_is_down(demo: subprocess.Popen[str]) -> None:
    wait_for_text(demo, "SIGKILL to the gateway")


@pytest.mark.parametrize(
    "moment", [at_once, while_boards_start, in_the_outage, while_the_gateway_is_down]
)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["ctrl-c", "sigterm"])
def test_an_interrupted_demo_leaves_no_process_and_no_file(
    tmp_path: Path, moment: Callable[[subprocess.Popen[str]], None], number: signal.Signals
) -> None:
    require_module("iotcore")
    demo = start_demo(tmp_path, "--duration", "20", "--outage", "5:6")
    try:
        moment(demo)
        demo.send_signal(number)
        output, _ = demo.communicate(timeout=60)
        print(output)
        assert demo.returncode == 130
        assert "Traceback" not in output
    finally:
        demo.kill()
    assert wait_until_none_names(tmp_path) == []
    assert list(tmp_path.iterdir()) == []


def test_a_killed_demo_leaves_no_process(tmp_path: Path) -> None:
    require_module("iotcore")
    demo = start_demo(tmp_path, *SHORT)
    try:
        wait_for_text(demo, "every board is linked; the clock")
        running = processes_that_name(tmp_path)
        assert sum("heapsize=65536" in command for command in running) == 3  # 64 KB a board
        assert sum("gapless_tools.cli run" in command for command in running) == 1
        assert sum("gapless_tools.cli capture" in command for command in running) == 1
    finally:
        demo.kill()
        demo.communicate()
    assert wait_until_none_names(tmp_path) == []


def test_a_part_that_ends_by_itself_ends_the_demo_with_one_sentence(tmp_path: Path) -> None:
    require_module("iotcore")
    demo = start_demo(tmp_path, *SHORT)
    try:
        wait_for_text(demo, "every board is linked; the clock")
        gateway = [p for p in processes_that_name(tmp_path) if "gapless_tools.cli run" in p]
        os.kill(int(gateway[0].partition(":")[0]), signal.SIGKILL)
        output, _ = demo.communicate(timeout=60)
        print(output)
        assert demo.returncode == 2
        assert "the gateway ended with status -9" in output
        assert "Traceback" not in output
    finally:
        demo.kill()
    assert wait_until_none_names(tmp_path) == []


@pytest.mark.parametrize(
    ("devices", "duration_s", "outage", "named"),
    [
        (0, 60.0, None, "--devices 0"),
        (99, 60.0, None, "--devices 99"),
        (3, 5.0, None, "--duration 5"),
        (3, 60.0, "20", "--outage 20"),
        (3, 60.0, "20:", "--outage 20:"),
        (3, 60.0, "1:10", "--outage 1:10"),
        (3, 60.0, "40:30", "--outage 40:30"),
        (3, 60.0, "20:1", "--outage 20:1"),
    ],
)
def test_a_plan_that_could_show_nothing_is_refused(
    devices: int, duration_s: float, outage: str | None, named: str
) -> None:
    with pytest.raises(UserError, match=named):
        make_plan(devices, duration_s, outage)
