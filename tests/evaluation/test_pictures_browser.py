"""The gallery in a real browser, in a sandboxed frame like MLflow's: it draws, turns, filters, obeys keys."""

from __future__ import annotations

import base64
import html
import io
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from picture_samples import HOSTILE, broken, perovskite, rock_salt, scored, water
from PIL import Image

from adit_scale.atoms import CRYSTAL, MOLECULE
from adit_scale.evaluation.pictures.drawing import ball_and_stick
from adit_scale.evaluation.pictures.gallery import write_gallery
from adit_scale.evaluation.pictures.scene import make_scene

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine"),
]

# Runs inside the page, tries everything a reader can do, and posts what came of it to the page around.
PROBE = """
const canvas = document.getElementById("canvas"), found = {};
const ink = () => {
  const pixels = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
  let n = 0, sum = 0;
  for (let i = 0; i < pixels.length; i += 4) {
    const dark = 765 - pixels[i] - pixels[i + 1] - pixels[i + 2];
    if (dark > 20) { n++; sum += dark * (1 + i % 7919); }
  }
  return [n, sum];
};
const buttons = () => [...document.querySelectorAll("#list button")];
const shown = () => buttons().filter(b => b.style.display !== "none").length;
const choose = (id, value) => {
  const of = document.getElementById(id);
  of.value = value; of.dispatchEvent(new Event("change"));
};
const pointer = (kind, clientX, clientY) =>
  canvas.dispatchEvent(new PointerEvent(kind, { pointerId: 1, clientX, clientY, bubbles: true }));
const title = () => document.querySelector("#about h2").textContent;
canvas.setPointerCapture = () => {};
found.buttons = shown(); found.title = document.title; found.first = title();
found.picture = canvas.toDataURL("image/png"); found.side = canvas.width; found.ink = ink();
pointer("pointerdown", 100, 100); pointer("pointermove", 160, 130); pointer("pointerup", 160, 130);
found.turned = ink();
canvas.dispatchEvent(new WheelEvent("wheel", { deltaY: 400, cancelable: true })); viewer_draw();
found.smaller = ink();
canvas.dispatchEvent(new MouseEvent("dblclick")); found.reset = ink();
document.dispatchEvent(new KeyboardEvent("keydown", { key: "ArrowRight" })); found.second = title();
choose("domain", "crystal"); found.crystals = shown(); found.crystal = title(); found.crystal_ink = ink();
choose("verdict", "false"); found.invalid = shown(); found.invalid_ink = ink();
found.reason = document.getElementById("about").textContent;
choose("verdict", "true"); found.valid = shown();
found.images = document.querySelectorAll("img:not([src^='data:'])").length;
parent.postMessage(JSON.stringify(found), "*");
"""


@pytest.fixture(scope="module")
def found(tmp_path_factory) -> dict[str, Any]:
    folder: Path = tmp_path_factory.mktemp("browser")
    molecules, crystals = [water(), water(1.5)], [rock_salt(), perovskite(), *broken(CRYSTAL)[:1]]
    verdicts = {MOLECULE: scored(MOLECULE, molecules, ["0", HOSTILE]), CRYSTAL: scored(CRYSTAL, crystals)}
    write_gallery(folder, {MOLECULE: molecules, CRYSTAL: crystals}, verdicts, name=HOSTILE)
    page = (folder / "gallery.html").read_text(encoding="utf-8")
    probe = PROBE.replace("viewer_draw()", "window.viewer.draw(true)")
    page = page.replace("const viewer = new Viewer", "const viewer = window.viewer = new Viewer")
    guarded = f"try {{ {probe} }} catch (e) {{ parent.postMessage(String(e), '*') }}"
    late = f"addEventListener('load', () => setTimeout(() => {{ {guarded} }}, 300))"  # the frame has its size
    page = page.replace("</body>", f"<script>{late}</script></body>")
    (folder / "probed.html").write_text(page, encoding="utf-8")
    (folder / "frame.html").write_text(
        "<body><script>window.onmessage = e => { const p = document.createElement('pre');"
        " p.textContent = e.data; document.body.append(p) }</script>"
        '<iframe sandbox="allow-scripts" src="probed.html" width="1200" height="900"></iframe></body>'
    )
    # One process for page and frame, so that the browser's virtual time runs in both.
    options = ["headless=new", "no-sandbox", "disable-gpu", "disable-dev-shm-usage", "disable-webgl",
               "disable-features=IsolateSandboxedIframes", "window-size=1300,1000",
               "virtual-time-budget=4000", "dump-dom", f"user-data-dir={folder / 'profile'}"]  # fmt: skip
    command = [str(CHROMIUM), *(f"--{option}" for option in options), f"file://{folder / 'frame.html'}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    said = re.search(r"<pre>(.*?)</pre>", done.stdout, re.DOTALL)
    assert said, f"the page said nothing: {done.stdout[-2000:]} {done.stderr[-2000:]}"
    text = html.unescape(said[1])
    assert text.startswith("{"), text
    return json.loads(text)


def test_the_page_lists_every_sample_and_runs_no_text_of_theirs(found):
    assert found["buttons"] == 5
    assert found["title"] == f"Gallery of {HOSTILE}"
    assert found["images"] == 0
    assert found["second"].endswith(HOSTILE)


def test_the_browser_draws_what_the_png_shows(found):
    address = found["picture"].removeprefix("data:image/png;base64,")
    drawn = Image.open(io.BytesIO(base64.b64decode(address))).convert("RGB")
    side = found["side"]
    assert drawn.size == (side, side)
    own = np.asarray(ball_and_stick(make_scene(water()), side, annotated=False)).astype(float)
    body = slice(0, round(0.85 * side))  # the scale bar lies below
    difference = np.abs(np.asarray(drawn)[body].astype(float) - own[body]).mean(axis=2)
    assert (own[body].min(axis=2) < 200).mean() > 0.05
    assert difference.mean() < 1.0  # of 255
    assert (difference > 60).mean() < 0.003  # outlines may differ by a part of a pixel


def test_dragging_turns_and_the_wheel_zooms(found):
    assert found["turned"][1] != found["ink"][1]
    assert found["smaller"][0] < 0.7 * found["ink"][0]
    assert found["reset"] == found["ink"]


def test_filters_leave_what_they_name(found):
    assert (found["crystals"], found["invalid"], found["valid"]) == (3, 1, 2)
    assert found["first"].startswith("H₂O")
    assert found["crystal_ink"][0] > 1000
    assert found["invalid_ink"][0] == 0
    assert "not valid: cell angles close no cell" in found["reason"]
