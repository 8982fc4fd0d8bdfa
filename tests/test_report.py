# SPDX-License-Identifier: GPL-2.0-or-later
"""The report: one page that says what the tables say, and works in a real browser without a network."""

from __future__ import annotations

import os
import re
import shutil
import struct
import subprocess
import sys
from collections.abc import Iterator
from html import unescape
from pathlib import Path
from typing import Any

import pytest

import analysis
from analysis.report import basis
from analysis.report.page import page, page_name
from analysis.verdict import verdict
from tests.helpers import COMMAND, PCAPS
from tests.synthesiser import files, stream
from tests.synthesiser.stream import Guest
from tests.synthesiser.wire import Wire

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
in_a_browser = pytest.mark.skipif(not CHROMIUM, reason="needs chromium")

CAPTURES = {"colo-hvm-fast.A": 5, "remus-hvm.A": 4, "plain-hvm-mtu.A": 1, "colo-2ck-abort.A": 4}
"""And how many charts each has something to show in."""


def run(*words: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*COMMAND, *words], cwd=cwd,
                          capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(PCAPS.parent)})


def words_of(html: str) -> str:
    """What is to be read on a page."""
    body = re.sub(r"<(script|style)\b.*?</\1>", " ", html, flags=re.S)
    return " ".join(unescape(re.sub(r"<[^>]*>", " ", body)).split())


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("report")
    made = {name: folder / f"{name}.html" for name in CAPTURES}
    for name, path in made.items():
        path.write_text(page(analysis.read(PCAPS / f"{name}.pcap.zst", segments=True)), encoding="utf-8")
    return made


def test_the_page_says_what_the_tables_say(pages: dict[str, Path]) -> None:
    text = words_of(pages["colo-hvm-fast.A"].read_text(encoding="utf-8"))
    order = ["What the numbers rest on", "54,992 frames (pcap)", "it does not say whether packets were dropped",
             "the clock steps back 3 times", "Xen 4.17", "50 complete, 0 partial", "Latency between sync-points",
             "NEW → SVM_SUSPENDED 49 0 122.42 202.62 196.56 262.94 282.65 569.29 68.68", "suspend 49 32%",
             "30 1184.74 suspend 569.29 frame.number in {47211 .. 47638}", "Causes, the largest first",
             "slow suspend 41.4%", "What need not have been sent", "Findings", "clock_back"]
    at = 0
    for part in order:
        assert part in text[at:]
        at = text.index(part, at)


def test_the_slowest_epochs_are_slow_to_send_and_not_long_idle(pages: dict[str, Path]) -> None:
    text = words_of(pages["remus-hvm.A"].read_text(encoding="utf-8"))
    assert "27 201.27 device 129.73 frame.number in {48008 .. 48223} 5 176.16 memory 89.86" in text


def test_the_same_capture_gives_the_same_page(pages: dict[str, Path]) -> None:
    again = page(analysis.read(PCAPS / "colo-2ck-abort.A.pcap.zst", segments=True))
    assert again == pages["colo-2ck-abort.A"].read_text(encoding="utf-8")


@pytest.mark.parametrize("name", ["colo-hvm-dirty.B", "debian-nocolo.A", "remus-pv-netem-s128.A"])
def test_captures_that_are_not_whole_have_a_report(name: str) -> None:
    capture = analysis.read(PCAPS / f"{name}.pcap.zst", segments=True)
    text = words_of(page(capture))
    assert all(sentence in text for sentence in verdict(capture, 0))
    assert all(finding in text for finding in capture.findings["text"].head())


def test_the_page_needs_nothing_from_outside(pages: dict[str, Path]) -> None:
    html = pages["colo-hvm-fast.A"].read_text(encoding="utf-8")
    head = html[:html.index("<script>")] + html[html.index("</script>"):]
    assert not re.findall(r"<(?:link|img|iframe|script)[^>]+(?:src|href)", head)
    assert "default-src 'none'" in head


def test_names_of_files_are_text_and_nothing_else(tmp_path: Path) -> None:
    evil = "<img src=x onerror=alert(1)><script>alert(2)<b>{{7*7}}\x1b[31m.pcap"
    first = files.write(tmp_path / evil, Wire(stream.colo(3, Guest(memory=2))))
    second = files.write(tmp_path / ("2" + evil), Wire(stream.colo(3, Guest(memory=2)), ports=(4001, 7002)))
    html = page(analysis.read(first, second, segments=True))
    assert "<img" not in html
    assert "<script>alert" not in html
    assert "\x1b" not in html
    assert r"<img src=x onerror=alert(1)><script>alert(2)<b>{{7*7}}\x1b[31m.pcap" in words_of_text(html)


def words_of_text(html: str) -> str:
    return unescape(re.search(r"<h1>(.*?)</h1>", html, re.S).group(1))  # type: ignore[union-attr]


def test_several_connections_have_a_section_each(tmp_path: Path) -> None:
    wires = [Wire(stream.colo(2, Guest(memory=2)), ports=(4001, 7002)),
             Wire(stream.remus(3, Guest(memory=2)), ports=(4002, 7002))]
    text = words_of(page(analysis.read(files.write(tmp_path / "x.pcap", wires), segments=True)))
    top, text = text.split("What the numbers rest on")
    assert "Connection 0 COLO from 10.0.0.1:4001" in top
    assert "Connection 1 Remus from 10.0.0.1:4002" in top
    colo, remus = text.split("Connection 0 ")[1].split("Connection 1 ")
    assert "10.0.0.1:4001" in colo
    assert "SVM_READY" in colo
    assert "10.0.0.1:4002" in remus
    assert "remus; Xen 4.17" in remus
    assert "SVM_READY" not in remus


@pytest.mark.parametrize(("statistics", "said"), [
    (files.block(5, struct.pack("<III", 0, 0, 0) + files.option(5, struct.pack("<Q", 3)) + files.option(0, b"")),
     "3 packets dropped, says the capturing program"),
    (files.block(5, struct.pack("<III", 0, 0, 0) + files.option(5, struct.pack("<Q", 0)) + files.option(0, b"")),
     "0 packets dropped, says the capturing program"),
    (b"", "it does not say whether packets were dropped"),
], ids=["three", "none", "not said"])
def test_drops_are_what_the_capturing_program_says(tmp_path: Path, statistics: bytes, said: str) -> None:
    packets = list(files.frames(Wire(stream.colo(1, Guest(memory=2)))))
    path = tmp_path / "x.pcapng"
    path.write_bytes(files.pcapng(packets) + statistics)
    (file, *_) = basis.of_capture(analysis.read(path))
    assert file[1].endswith(said)


def test_holes_and_partial_checkpoints_are_said(tmp_path: Path) -> None:
    wire = Wire(stream.colo(3, Guest(memory=2)))
    data = wire.data_rows()
    keep = [i for i in range(len(wire.rows)) if i != data[len(data) // 2]]
    said = dict(basis.of_connection(analysis.read(files.write(tmp_path / "x.pcap", wire.keep(wire.rows[keep]))), 0))
    whole = dict(basis.of_connection(analysis.read(files.write(tmp_path / "y.pcap", wire)), 0))
    assert whole["holes"] == "none"
    assert re.fullmatch(r"1 hole, \d+ octets missing from the capture", said["holes"])
    assert whole["checkpoints"] == "4 complete, 0 partial"
    assert said["checkpoints"] == "3 complete, 1 partial"


@pytest.mark.parametrize(("file", "name"), [
    ("a/b.pcap.zst", "b.html"), ("b.pcapng.gz", "b.html"), ("x.y.cap", "x.y.html"), ("-", "stdin.html"),
    ("capture", "capture.html")])
def test_the_page_is_called_after_the_capture(file: str, name: str) -> None:
    assert page_name([file]) == name


def test_the_command_says_it_in_short_and_writes_the_page(tmp_path: Path) -> None:
    done = run("report", str(PCAPS / "colo-2ck-abort.A.pcap.zst"), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("COLO from 10.99.0.1:39724 to 10.99.0.2:7002, Xen 4.17")
    assert "NEW → SVM_SUSPENDED" in done.stdout
    assert re.search(r"checkpoints +1 complete, 1 partial", done.stdout)
    assert re.fullmatch(r"coloscope: colo-2ck-abort.A.html: \d MB, for any browser\n", done.stderr)
    assert [path.name for path in tmp_path.iterdir()] == ["colo-2ck-abort.A.html"]


@pytest.mark.parametrize(("words", "said"), [
    ([str(PCAPS / "c0-bios-offon.pcap.zst")], "none carries a Xen migration stream"),
    ([str(PCAPS / "debian-nocolo.A.pcap.zst"), "-o", "no/such/folder.html"], "no/such/folder.html: No such file"),
])
def test_what_cannot_be_done_is_one_line(tmp_path: Path, words: list[str], said: str) -> None:
    done = run("report", *words, cwd=tmp_path)
    assert done.returncode == 2
    assert said in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("missing", ["plotly", "jinja2"])
def test_without_its_libraries_it_says_what_to_install(missing: str) -> None:
    code = f"import sys; sys.modules[{missing!r}] = None; from analysis.cli import main; main()"
    done = subprocess.run([sys.executable, "-c", code, "report", str(PCAPS / "debian-nocolo.A.pcap.zst")],
                          capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.endswith("pip install 'coloscope[report]'\n")
    assert len(done.stderr.splitlines()) == 1


# --- in a browser -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright")
    with playwright.sync_playwright() as started:
        chromium = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.fixture
def open_page(browser: Any) -> Iterator[Any]:
    """Opens a page; at the end, that it asked for nothing and complained of nothing."""
    said: list[str] = []
    wanted: list[str] = []
    contexts = []

    def open_it(path: Path, **options: Any) -> Any:
        contexts.append(browser.new_context(**options))
        tab = contexts[-1].new_page()
        tab.on("console", lambda message: said.append(message.text))
        tab.on("pageerror", lambda error: said.append(str(error)))
        tab.on("dialog", lambda dialog: said.append(dialog.message))
        tab.on("request", lambda request: wanted.append(request.url))
        tab.goto(path.as_uri())
        tab.wait_for_load_state("load")
        return tab

    yield open_it
    assert said == []
    assert all(url.startswith(("file:", "data:", "blob:")) for url in wanted)
    assert sum(url.startswith("file:") for url in wanted) == len(contexts)
    for context in contexts:
        context.close()


@in_a_browser
@pytest.mark.parametrize("name", CAPTURES)
def test_every_chart_is_drawn(pages: dict[str, Path], open_page: Any, name: str) -> None:
    tab = open_page(pages[name])
    drawn = tab.eval_on_selector_all(".js-plotly-plot", """charts => charts.map(
        chart => chart.querySelectorAll('.trace, .point, .hm image').length)""")
    assert len(drawn) == CAPTURES[name]
    assert all(drawn)


@in_a_browser
@pytest.mark.parametrize("name", CAPTURES)
def test_a_phone_scrolls_in_one_direction(pages: dict[str, Path], open_page: Any, name: str) -> None:
    tab = open_page(pages[name], viewport={"width": 360, "height": 740}, has_touch=True, is_mobile=True)
    assert tab.evaluate("document.documentElement.scrollWidth") == 360
    assert tab.evaluate("[...document.querySelectorAll('.js-plotly-plot')].every("
                        "chart => chart._fullLayout.width <= 360 && !chart._fullLayout.dragmode)")


@in_a_browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_can_be_read_in_light_and_dark(pages: dict[str, Path], open_page: Any, scheme: str) -> None:
    tab = open_page(pages["colo-hvm-fast.A"], color_scheme=scheme)
    page_colour = tab.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (luminance(page_colour) < 0.1) == (scheme == "dark")
    for selector, least in (("p", 7), ("td", 7), ("dt", 4.5), (".xtick text", 4.5), (".legendtext", 4.5)):
        of = tab.evaluate("""selector => {
            const element = document.querySelector(selector), style = getComputedStyle(element);
            return element instanceof SVGElement ? style.fill : style.color }""", selector)
        assert contrast(of, page_colour) >= least, selector


def luminance(colour: str) -> float:
    """As WCAG 2 has it."""
    parts = [int(part) / 255 for part in re.findall(r"\d+", colour)[:3]]
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: str, other: str) -> float:
    dark, light = sorted((luminance(one), luminance(other)))
    return (light + 0.05) / (dark + 0.05)


def click_on(tab: Any, bar: int) -> None:
    """A click on the first phase of a checkpoint; Plotly itself finds what is under the pointer."""
    box = tab.locator("#timeline-0 .trace").first.locator(".point").nth(bar)
    box.scroll_into_view_if_needed()
    place = box.bounding_box()
    at = place["x"] + place["width"] / 2, place["y"] + place["height"] / 2
    tab.mouse.move(*at)
    tab.locator("#timeline-0 .hovertext").first.wait_for()
    tab.mouse.click(*at)
    tab.wait_for_function("document.querySelector('figure:has(#timeline-0) output').value")


@in_a_browser
def test_a_click_shows_the_frames(pages: dict[str, Path], open_page: Any) -> None:
    tab = open_page(pages["colo-hvm-fast.A"])
    click_on(tab, bar=5)
    assert tab.locator("figure:has(#timeline-0) output").inner_text() == "frame.number in {37686 .. 37688}"


@in_a_browser
def test_hostile_names_stay_text_in_hover_and_click(tmp_path: Path, open_page: Any) -> None:
    evil = "<img src=x onerror=alert(1)><b>.pcap"
    wire = Wire(stream.colo(3, Guest(memory=2)))
    half = len(wire.rows) // 2
    packets = list(files.frames(wire))
    paths = [tmp_path / ("1" + evil), tmp_path / ("2" + evil)]
    for path, part in zip(paths, (packets[:half], packets[half:]), strict=True):
        path.write_bytes(files.pcap(part))
    made = tmp_path / "page.html"
    made.write_text(page(analysis.read(*paths, segments=True)), encoding="utf-8")
    tab = open_page(made)
    click_on(tab, bar=1)
    assert evil in tab.locator("#timeline-0 .hoverlayer").text_content()
    assert evil in tab.locator("figure:has(#timeline-0) output").inner_text()
    assert tab.locator("img").count() == 0


@in_a_browser
def test_on_paper_charts_have_the_width_of_the_paper(pages: dict[str, Path], open_page: Any) -> None:
    tab = open_page(pages["colo-hvm-fast.A"], color_scheme="dark")
    tab.evaluate("""addEventListener('beforeprint', () => { window.printed = [
        ...document.querySelectorAll('.js-plotly-plot')].map(chart => chart._fullLayout.width) })""")
    assert tab.pdf(format="A4").startswith(b"%PDF")
    assert tab.evaluate("window.printed") == [660] * 5
    tab.wait_for_function("[...document.querySelectorAll('.js-plotly-plot')].every("
                          "chart => chart._fullLayout.width > 1000)")
    tab.emulate_media(media="print")
    assert luminance(tab.evaluate("getComputedStyle(document.body).backgroundColor")) == 1
