"""Data moves one way, and so do imports: port, session, log, publisher, broker.

A stage that reached back, or up into the command line, the web view or the audit, could not be
replaced or tested alone, and the two places that matter ("durable before ack", "delivered before
free") would no longer be one place each.
"""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
GATEWAY = ROOT / "gateway" / "gapless_gateway"
TOOLS = ROOT / "tools" / "gapless_tools"

# Who may be imported by whom. A module is named by its first part below gapless_gateway; one that
# is not named here is new, and has to be given its place.
MAY_IMPORT: dict[str, set[str]] = {
    "errors": set(),
    "back_off": set(),
    "rates": set(),
    "logs": set(),
    "config_errors": {"errors"},
    "config": {"errors", "config_errors", "brokers", "publisher"},
    "metrics": set(),
    "web": {"errors", "metrics"},
    "serial_line": {"errors"},
    "ports": {"back_off", "config", "errors", "metrics", "serial_line"},
    # The account reads entries; the log folds it and stores its snapshot.
    "account": {"wal"},
    "wal": {"account", "errors"},
    "committer": {"wal", "account", "errors"},
    "ingest": {"account", "committer", "metrics", "wal", "session", "linked"},
    "linked": {"account", "ingest", "rates", "wal", "metrics", "logs"},
    "session": {"account", "committer", "ingest", "linked", "metrics", "rates", "wal", "logs"},
    # How much may come in: it looks at the log's room and drops what the owner allowed to.
    "intake": {"account", "committer", "wal"},
    "brokers": {"errors"},
    "publisher": {"account", "brokers", "errors", "wal", "back_off", "config"},
    "account_view": {"account", "committer", "ingest", "intake", "publisher", "session"},
    "daemon": {
        "account_view", "committer", "config", "errors", "ingest", "intake", "linked", "logs",
        "metrics", "ports", "publisher", "serial_line", "session", "wal", "web", "account",
    },
}  # fmt: skip
# What of the log the account may know: the entries, not the files.
ACCOUNT_READS_OF_WAL = {"gapless_gateway.wal.entries"}


def imports_of(path: Path) -> set[str]:
    """Return the full names of all modules that a file imports, wherever in it."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names.add(node.module)
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def stage_of(path: Path) -> str:
    return path.relative_to(GATEWAY).with_suffix("").parts[0]


GATEWAY_FILES = sorted(p for p in GATEWAY.rglob("*.py") if p != GATEWAY / "__init__.py")
STAGES = {stage_of(path) for path in GATEWAY_FILES}


def stages_imported(path: Path) -> set[str]:
    return {
        stage
        for stage in STAGES
        for name in imports_of(path)
        if name == f"gapless_gateway.{stage}" or name.startswith(f"gapless_gateway.{stage}.")
    } - {stage_of(path)}


@pytest.mark.parametrize("path", GATEWAY_FILES, ids=lambda p: str(p.relative_to(GATEWAY)))
def test_a_stage_imports_only_what_stands_before_it(path: Path) -> None:
    assert stage_of(path) in MAY_IMPORT, f"give {stage_of(path)} its place in this test"
    assert stages_imported(path) <= MAY_IMPORT[stage_of(path)]


@pytest.mark.parametrize("path", GATEWAY_FILES, ids=lambda p: str(p.relative_to(GATEWAY)))
def test_the_gateway_does_not_know_its_tools(path: Path) -> None:
    assert not [name for name in imports_of(path) if name.startswith("gapless_tools")]


def test_the_account_knows_entries_and_no_files() -> None:
    for path in GATEWAY_FILES:
        if stage_of(path) == "account":
            wal = {n for n in imports_of(path) if n.startswith("gapless_gateway.wal")}
            assert all(
                name in ACCOUNT_READS_OF_WAL or name.rpartition(".")[0] in ACCOUNT_READS_OF_WAL
                or name == "gapless_gateway.wal.entries"
                for name in wal
            ), f"{path}: {wal}"  # fmt: skip


def test_the_audit_and_the_consumer_share_no_code_with_the_publisher_they_check() -> None:
    checking = [TOOLS / "capture.py", *TOOLS.glob("capture_*.py"), *(TOOLS / "audit").rglob("*.py")]
    for path in checking:
        forbidden = [
            name
            for name in imports_of(path)
            if name.startswith(("gapless_gateway.publisher", "gapless_gateway.daemon"))
        ]
        assert not forbidden, f"{path}: {forbidden}"


def test_the_check_sees_an_import_inside_a_function(tmp_path: Path) -> None:
    file = tmp_path / "one.py"
    file.write_text("def f():\n    from gapless_gateway.web import WebServer\n")
    assert "gapless_gateway.web" in imports_of(file)
