"""A report in a real browser without a network: figures draw and fit the screen, the console is quiet.

ADIT_SCREENSHOTS=FOLDER keeps pictures of the pages for people to look at.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from adit_scale.scaling.config import SweepConfig
from adit_scale.scaling.figures import FIGURES
from adit_scale.scaling.report import write_report
from tests.scaling.chart_samples import HOSTILE
from tests.scaling.chromium import CHROMIUM, Browser
from tests.scaling.simulated import full_ceilings, full_study

pytestmark = [
    pytest.mark.browser,
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine"),
]

SCREENS = {"desktop": (1920, 1080), "laptop": (1366, 768)}
# What one sees of each figure: traces that hold a point and those drawn, boxes of panels, legend and words.
LOOK = """
(() => {
  const drawable = t => (t.x || []).some((x, i) => x !== null && t.y[i] !== null && t.y[i] !== undefined);
  const box = (e, of) => { const a = e.getBoundingClientRect(), b = of.getBoundingClientRect();
    return [a.left - b.left, a.top - b.top, a.right - b.left, a.bottom - b.top]; };
  return [...document.querySelectorAll(".plotly-graph-div")].map(plot => {
    const layout = plot._fullLayout, of = s => [...plot.querySelectorAll(s)];
    return {
      id: plot.id,
      traces: plot.data.filter(drawable).length,
      drawn: of(".scatterlayer > .trace, .barlayer > .trace").filter(e => e.querySelector("path")).length,
      bars: of(".errorbar path").length,
      buttons: of(".modebar-btn").map(e => e.dataset.title),
      size: [plot.clientWidth, plot.clientHeight],
      room: plot.closest(".figure").clientWidth,
      panels: layout._subplots.cartesian.map(name => {
        const {xaxis: x, yaxis: y} = layout._plots[name];
        return [x._offset, y._offset, x._offset + x._length, y._offset + y._length];
      }),
      legend: of(".legend").map(e => box(e, plot)),
      words: of(".infolayer text, .xtick text, .ytick text, .legend text").map(e => box(e, plot)),
      labels: layout._subplots.cartesian.map(name => layout._plots[name]).map(
        p => [p.xaxis.title.text || p.xaxis.ticktext, p.yaxis.title.text]),
    };
  });
})()
"""
DRAWN = """
document.querySelectorAll(".plotly-graph-div").length > 0 &&
[...document.querySelectorAll(".plotly-graph-div")].every(p => p.querySelector(".main-svg .cartesianlayer"))
"""
PROBE = """
<script>addEventListener("error", e => parent.postMessage(String(e.message), "*"));
const asked = setInterval(() => { if (!(%s)) return; clearInterval(asked);
let origin; try { origin = String(localStorage.length) } catch (e) { origin = "opaque" }
const widths = [document.documentElement.scrollWidth, innerWidth];
parent.postMessage(JSON.stringify([%s, origin, ...widths]), "*") }, 100)
</script></body>"""


@pytest.fixture(scope="module")
def report(tmp_path_factory) -> Path:
    """Of a study that has every design, and whose name is an attack."""
    points, out = full_study(), tmp_path_factory.mktemp("report")
    config = SweepConfig(name=f"demo {HOSTILE}", bootstrap=20)
    return write_report(points, full_ceilings(), config, out, len(points)).html


@pytest.fixture(scope="module")
def browser(tmp_path_factory) -> Iterator[Browser]:
    with Browser(tmp_path_factory.mktemp("profile")) as found:
        yield found


def look(browser: Browser, page: Path, screen: str) -> list[dict[str, Any]]:
    browser.console.clear()
    browser.requests.clear()
    browser.open(page.as_uri(), *SCREENS[screen])
    browser.wait(DRAWN)
    keep(browser, f"report_{screen}.png")
    return browser.ask(LOOK)


def keep(browser: Browser, name: str) -> None:
    if folder := os.environ.get("ADIT_SCREENSHOTS"):
        Path(folder).mkdir(parents=True, exist_ok=True)
        browser.picture(Path(folder) / name)


def overlap(a: list[float], b: list[float]) -> float:
    """Pixels by which two boxes (left, top, right, bottom) lie over each other, the shorter way."""
    return min(min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1]))


@pytest.mark.parametrize("screen", SCREENS)
def test_every_figure_is_drawn_in_full_and_fits(browser, report, screen):
    plots = look(browser, report, screen)
    assert {p["id"] for p in plots} == {f"chart-{f.key}" for f in FIGURES}
    assert [p["drawn"] for p in plots] == [p["traces"] for p in plots]
    assert min(p["traces"] for p in plots) >= 2
    assert sum(p["bars"] > 0 for p in plots) >= 8
    for plot in plots:
        width, height = plot["size"]
        assert width == plot["room"] > 600
        assert all(x[2] - x[0] > 250 and x[3] - x[1] > 180 for x in plot["panels"]), plot["id"]
        assert all(x[0] >= -1 and x[1] >= -1 and x[2] <= width + 1 and x[3] <= height + 1
                   for x in plot["words"]), plot["id"]  # fmt: skip
        assert all(overlap(legend, panel) <= 0 for legend in plot["legend"] for panel in plot["panels"])
        assert all(x and y for x, y in plot["labels"]), plot["id"]
    assert browser.ask("document.documentElement.scrollWidth <= innerWidth")
    assert browser.console == []


def test_nothing_is_asked_of_the_network_nor_offered_to_it(browser, report):
    plots = look(browser, report, "laptop")
    assert browser.requests == [report.as_uri()]
    assert not any("hare" in title or "loud" in title for p in plots for title in p["buttons"])
    assert browser.ask("[...document.scripts].every(s => !s.src) && document.querySelector('h1').textContent"
                       ).endswith(HOSTILE)  # fmt: skip


def test_figures_follow_the_window_and_ticks_the_zoom(browser, report):
    wide = look(browser, report, "desktop")
    width, height = SCREENS["laptop"]
    browser.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1,
                 mobile=False)  # fmt: skip
    browser.wait(f"{LOOK.strip()}.every(p => p.size[0] < {wide[0]['size'][0]} && p.size[0] === p.room)")
    axis = "document.getElementById('chart-loss_vs_compute').layout.xaxis"
    relayout = (
        "Plotly.relayout(document.getElementById('chart-loss_vs_compute'), {'xaxis.range': %s}).then(() => 0)"
    )
    before = browser.ask(f"{axis}.range")
    browser.ask(relayout % json.dumps([before[0] + 1, before[0] + 1.2]))
    browser.wait(f"{axis}.tickmode === 'auto'")
    assert browser.ask("document.querySelectorAll('#chart-loss_vs_compute .xtick').length") >= 2
    browser.ask(relayout % json.dumps(before))
    browser.wait(f"{axis}.tickmode === 'array'")
    assert browser.console == []


def test_it_draws_in_a_sandboxed_frame(browser, report):
    """MLflow shows artifacts so: scripts run, the page has no origin."""
    page = report.read_text()
    assert page.count("</body>") == 1
    (report.parent / "probed.html").write_text(page.replace("</body>", PROBE % (DRAWN, LOOK)))
    frame = report.parent / "frame.html"
    frame.write_text(
        "<body style='margin:0'><script>window.said = ''; onmessage = e => { window.said = e.data }</script>"
        '<iframe sandbox="allow-scripts" src="probed.html" width="1200" height="760"></iframe></body>'
    )
    browser.console.clear()
    browser.open(frame.as_uri(), *SCREENS["laptop"])
    browser.wait("window.said !== ''")
    said = browser.ask("window.said")
    assert said.startswith("["), said
    plots, origin, scroll_width, width = json.loads(said)
    assert origin == "opaque"
    assert len(plots) == len(FIGURES)
    assert [p["drawn"] for p in plots] == [p["traces"] for p in plots]
    assert scroll_width <= width
    assert browser.console == []
