"""Health, metrics and the live account, as tools read them."""

from __future__ import annotations

import json
import os

from tests.support.running_gateway import eventually


async def test_healthz_is_ok_while_the_broker_and_a_port_are_away(gateway, boards, tmp_path):
    board = boards("pump-1")
    await gateway.start([board.path, tmp_path / "tty-none"])
    await eventually(lambda: board.linked)
    status, health = await gateway.get("/healthz")
    assert status == 200
    assert health["status"] == "ok"
    assert health["broker"] == "offline"
    assert (health["ports_open"], health["ports"]) == (1, 2)


async def test_an_absent_broker_is_an_outage_that_records_carry_and_metrics_show(gateway, boards):
    board = boards("pump-1")
    await gateway.start([board.path])
    await gateway.metric_reaches(2, "gapless_broker_connect_failures_total")
    board.sample(4)
    await eventually(lambda: board.acked_through == 4)
    metrics = await gateway.metrics()
    assert metrics.value("gapless_outage_open") == 1
    assert metrics.value("gapless_broker_state", state="offline") == 1
    assert metrics.value("gapless_backlog_seqs") == 4
    entries = [entry for _, entry in gateway.daemon._wal.read(1, 100)]
    outages = {one.outage for one in entries if type(one).__name__ == "Record"}
    assert outages == {1}


async def test_the_account_page_has_what_a_live_table_needs(gateway, boards):
    board = boards("pump-1")
    await gateway.start([board.path])
    board.sample(6)
    await eventually(lambda: board.acked_through == 6)
    _, account = await gateway.get("/account")
    assert account["gateway"] == "test"
    assert account["run"] == 1
    assert account["unexplained"] == 0
    assert account["backlog"] == 6
    assert account["broker"]["state"] == "offline"
    (stream,) = account["streams"]
    assert stream["device"] == "pump-1"
    assert stream["stream"] == board.identity.stream.hex()
    assert stream["link"] == "linked"
    assert stream["last_seq"] == 6
    assert stream["balance"]["produced"] == 6
    assert stream["rate_per_s"] > 0
    board.unplug()
    await gateway.metric_reaches(1, "gapless_port_lost_total")
    _, account = await gateway.get("/account")
    assert account["streams"][0]["link"] == "away"


async def test_the_balance_holds_in_metrics_at_every_moment_of_a_busy_run(gateway, boards):
    made = [boards(f"pump-{number}") for number in range(3)]
    await gateway.start([board.path for board in made])
    for board in made:
        board.sample()
    await eventually(lambda: all(board.acked_through == 1 for board in made))
    for turn in range(12):
        for board in made:
            board.sample(7)
        if turn == 3:
            made[0].boot()
        if turn == 5:
            made[1].unplug()
            made[1].sender.restart()
            made[1].plug_in()
        (await gateway.metrics()).assert_balanced()
    await eventually(lambda: all(board.acked_through == 85 for board in made))
    metrics = await gateway.metrics()
    metrics.assert_balanced()
    assert metrics.value("gapless_produced_seqs") == 3 * 85


async def test_runtime_json_leads_to_the_running_gateway_and_goes_with_it(gateway, boards):
    board = boards("pump-1")
    await gateway.start([board.path])
    facts = json.loads((gateway.state_dir / "runtime.json").read_text())
    assert facts["pid"] == os.getpid()
    assert facts["web"] == gateway.daemon.web_address
    await gateway.stop()
    assert not (gateway.state_dir / "runtime.json").exists()
