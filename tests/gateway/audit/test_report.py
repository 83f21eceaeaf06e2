"""evidence.html can be read by anyone, anywhere: one file, no script, no request, every width."""

from __future__ import annotations

import re
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import pytest

from gapless_tools.audit.books import Books
from gapless_tools.audit.run import Result, run_audit
from tests.support.audit_history import field_history
from tests.support.requirements import require_program

VOID = {"meta", "link", "br"}
PHONE_WIDTH_PX = 400
BROWSER_TIMEOUT_S = 120


@pytest.fixture(scope="module")
def passed(tmp_path_factory: pytest.TempPathFactory) -> Result:
    history = field_history(tmp_path_factory.mktemp("field"))
    return run_audit([history.state_dir], history.capture_dir, history.state_dir.parent / "out")


@pytest.fixture(scope="module")
def failed(tmp_path_factory: pytest.TempPathFactory) -> Result:
    history = field_history(tmp_path_factory.mktemp("field"))
    path = history.capture_dir / "cut.jsonl"
    path.write_bytes(b"".join(line for line in history.lines if b'"seq":77,' not in line))
    return run_audit([history.state_dir], path, history.state_dir.parent / "out")


def html_of(result: Result) -> str:
    assert result.evidence_html is not None
    return result.evidence_html.read_text("utf-8")


class Reader(HTMLParser):
    """Reads a page strictly: every element is closed where it has to be, ids are there once."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.words: list[str] = []
        self.tags: list[str] = []
        self.ids: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.feed(page)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        self.ids += [value or "" for name, value in attrs if name == "id"]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] not in {"style", "title", "desc"}:
            self.words.append(data)

    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


def test_the_page_is_well_formed_and_its_ids_are_unique(passed: Result, failed: Result) -> None:
    for result in (passed, failed):
        page = Reader(html_of(result))
        assert len(page.ids) == len(set(page.ids))


def test_the_page_asks_for_nothing_and_runs_nothing(passed: Result) -> None:
    page = Reader(html_of(passed))
    assert not {"script", "iframe", "img", "object", "embed", "form"} & set(page.tags)
    for tag, name, value in page.attributes:
        if name in {"src", "href", "action", "srcset", "data"}:
            assert (tag, value) == ("link", "data:,")
        assert not name.startswith("on")
    assert set(re.findall(r"url\(([^)]*)\)", html_of(passed))) <= {
        f"#{one}" for one in page.ids if one.startswith("hatch")
    }
    assert "@import" not in html_of(passed)


def test_the_page_says_what_the_evidence_says(passed: Result) -> None:
    words = Reader(html_of(passed)).text()
    evidence = passed.evidence
    assert evidence["verdict_words"] in words
    assert "All 998 sequence numbers of 3 devices are accounted for: 973 were delivered" in words
    for row in evidence["streams"]:
        numbers = (row["produced"], row["delivered"], row["pending_device"], row["pending_gateway"])
        assert f"{row['device']} {' '.join(map(str, numbers))}" in words
    assert "282\N{EN DASH}301 20 reset The board restarted" in words
    assert "117\N{EN DASH}121 at most 5 reset" in words
    assert "1 connection reset by peer 2026-01-01 11:00:19 22.8 s 293 3.6 s" in words
    assert "2 2026-01-01 11:00:31 recovery" in words


def test_a_failure_names_what_is_wrong_first_and_who_did_it(failed: Result) -> None:
    words = Reader(html_of(failed)).text()
    assert words.index("FAIL (us, consumer)") < words.index("What is wrong")
    assert words.index("What is wrong") < words.index("What was asked")
    assert "missing in the capture: 77; the consumer had given a receipt for that" in words
    assert "the consumer that wrote the capture or the gateway" in words


def test_no_meaning_stands_in_colour_alone_and_every_picture_has_words(passed: Result) -> None:
    page = html_of(passed)
    reader = Reader(page)
    pictures = page.count('role="img"')
    assert pictures == page.count("<desc ") == 2 * 6  # backlog, 3 devices, 2 latencies; 2 sizes
    assert "lost: reset" in reader.text()
    assert "outage 1" in reader.text()
    for cls in ("delivered", "p99", "moment"):
        assert re.search(rf"\.{cls} {{[^}}]*stroke-dasharray", page)
    assert page.count('scope="col"') > 0
    assert page.count('scope="row"') > 0


def test_the_lines_break_where_numbers_are_lost(passed: Result) -> None:
    pictures = re.findall(r"<svg class=\"plot on-page\".*?</svg>", html_of(passed), re.DOTALL)
    of_device = {
        re.search(r"Numbers of (\S+) over time", one)[1]: one.count("line sampled")  # type: ignore[index]
        for one in pictures
        if "Numbers of" in one
    }
    assert of_device == {"pump-1": 2, "tank-2": 1, "valve-3": 2}


def test_a_hostile_name_stays_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    history = field_history(tmp_path)
    original = Books.board_runtimes.fget  # type: ignore[attr-defined]
    hostile = '<script>alert("1")</script>&'
    monkeypatch.setattr(
        Books,
        "board_runtimes",
        property(lambda self: dict.fromkeys(original(self), hostile)),
    )
    page = html_of(run_audit([history.state_dir], None, tmp_path / "out"))
    assert "<script" not in page
    assert hostile in Reader(page).text()


# In a real browser


def browse(directory: Path, page: str, *options: str) -> tuple[str, str]:
    """The page as a browser has it after loading (its DOM), and what it wrote to its console."""
    program = require_program("chromium")
    path = directory / "page.html"
    path.write_text(page, "utf-8")
    done = subprocess.run(
        [
            program, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic",
            "--no-first-run", "--disable-background-networking", "--disable-component-update",
            "--disable-sync", f"--user-data-dir={directory / 'profile'}",
            "--enable-logging=stderr", *options, "--dump-dom", path.as_uri(),
        ],
        capture_output=True, text=True, timeout=BROWSER_TIMEOUT_S, check=True,
    )  # fmt: skip
    console = "\n".join(line for line in done.stderr.splitlines() if "CONSOLE" in line)
    return done.stdout, console


def framed(page: str, width_px: int) -> str:
    """A page that shows `page` in a frame of this width and writes down how wide it became."""
    quoted = page.replace("&", "&amp;").replace('"', "&quot;")
    return (
        f'<!doctype html><iframe style="width:{width_px}px;height:900px;border:0" '
        f'srcdoc="{quoted}" onload="document.body.dataset.widths = '
        "[this.contentDocument.documentElement.scrollWidth, "
        'this.contentDocument.documentElement.clientWidth]"></iframe>'
    )


def widths(directory: Path, page: str) -> tuple[int, int]:
    dom, _ = browse(directory, framed(page, PHONE_WIDTH_PX))
    found = re.search(r'data-widths="(\d+),(\d+)"', dom)
    assert found is not None
    return int(found[1]), int(found[2])


def test_a_browser_shows_the_page_without_complaint(passed: Result, tmp_path: Path) -> None:
    dom, console = browse(tmp_path, html_of(passed))
    assert console == ""
    assert "Evidence of delivery" in dom


def test_a_complaint_of_the_browser_would_be_seen(passed: Result, tmp_path: Path) -> None:
    page = html_of(passed).replace("</body>", '<script src="nowhere.js"></script></body>')
    assert "Content Security Policy" in browse(tmp_path, page)[1]


def test_nothing_is_wider_than_a_phone(passed: Result, failed: Result, tmp_path: Path) -> None:
    for result in (passed, failed):
        shown, available = widths(tmp_path, html_of(result))
        assert shown == available


def test_something_wider_than_a_phone_would_be_seen(passed: Result, tmp_path: Path) -> None:
    page = html_of(passed).replace("<main>", '<main><div style="width:600px">wide</div>')
    shown, available = widths(tmp_path, page)
    assert shown > available
