"""A gallery of samples: one PNG to put on a page, and one HTML file to turn structures in.

Both show the first samples by number, never chosen ones: what is seen is what the rates count. The HTML file
needs no network, no WebGL and nothing from its origin, so it works from a disk and in the sandboxed frame in
which MLflow shows artifacts. Text from samples reaches the page as data and is set as text, never as markup.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Mapping, Sequence
from html import escape
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

from adit_scale.atoms import CRYSTAL, DOMAIN_NAMES, MOLECULE, AtomSet
from adit_scale.evaluation.decode import Invalid
from adit_scale.evaluation.pictures.cards import (
    Card,
    flat_note,
    flat_picture,
    headline,
    make_cards,
    subscripted,
)
from adit_scale.evaluation.pictures.drawing import FlatDrawing, ball_and_stick, png_bytes
from adit_scale.evaluation.pictures.elements import ball_radii, colours, symbol
from adit_scale.evaluation.pictures.poster import draw_poster
from adit_scale.evaluation.pictures.scene import STICK_RULE, Scene
from adit_scale.evaluation.verdicts import Verdicts

DEFAULT_COUNT = 24
THUMBNAIL, FLAT = 148, (360, 240)  # pixels
# Nothing may be loaded from anywhere: scripts and styles are the page's own, pictures are inside it.
_POLICY = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data:"


def write_gallery(
    folder: Path,
    samples: Mapping[int, Sequence[AtomSet | Invalid]],
    verdicts: Mapping[int, Verdicts],
    name: str = "samples",
    count: int = DEFAULT_COUNT,
) -> list[Path]:
    """Write gallery.png and gallery.html of the first ``count`` samples of each domain; returns their paths.

    name: what the samples are, for the titles.
    """
    folder.mkdir(parents=True, exist_ok=True)
    cards = make_cards(samples, verdicts, count)
    notes = gallery_notes(verdicts, count)
    png, page = folder / "gallery.png", folder / "gallery.html"
    draw_poster(cards, name, notes).save(png, "PNG", optimize=True)
    page.write_text(gallery_html(cards, name, notes), encoding="utf-8")
    return [png, page]


def gallery_notes(verdicts: Mapping[int, Verdicts], count: int) -> list[str]:
    """What a reader has to know: which samples these are, what ``valid`` means and how often it holds."""
    notes = []
    for domain in (MOLECULE, CRYSTAL):
        if domain not in verdicts:
            continue
        of = verdicts[domain]
        shown, total = min(count, len(of)), len(of)
        text = f"{DOMAIN_NAMES[domain].capitalize()}s: the first {shown} of {total:,} by number, not chosen."
        check = headline(of)
        if check is not None:
            rate = of.rate(check)
            lower, upper = rate.interval
            protocol = f" ({of.checks[check].protocol})" if of.checks[check].protocol else ""
            text += f" “Valid” is the check {check}{protocol}"
            if rate.trials:
                text += f": {rate.value:.1%} [{lower:.1%}, {upper:.1%}] of {rate.trials:,}."
        notes.append(text)
    notes.append(
        f"Colours are Jmol's; {STICK_RULE}. Atoms at the boundary of a cell are repeated, fainter. Flat "
        f"drawings mark in red what has a valence that the table refuses."
    )
    return notes


def gallery_html(cards: Sequence[Card], name: str, notes: Sequence[str]) -> str:
    """The page as one text."""
    page, style, viewer, script = (
        resources.files(__package__).joinpath(file).read_text(encoding="utf-8")
        for file in ("gallery.html", "page.css", "viewer.js", "gallery.js")
    )
    present = sorted({z for card in cards for z in card.elements})
    data = {"elements": _elements(present), "cards": [_card_data(card) for card in cards]}
    parts = {
        "policy": _POLICY,
        "title": escape(f"Gallery of {name}"),
        "notes": "".join(f"<p>{escape(note)}</p>" for note in notes),
        "style": style,
        "data": embedded_json(data),
        "script": viewer + script,
    }
    # One pass, so that no text that goes in is searched for places again.
    return re.sub(r"%%(\w+)%%", lambda place: parts[place[1]], page)


def embedded_json(value: Any) -> str:
    """JSON that may stand inside a ``<script>`` element: no text in it can end the element."""
    text = json.dumps(value, allow_nan=False, separators=(",", ":"), ensure_ascii=True)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _elements(numbers: Sequence[int]) -> dict[int, dict[str, Any]]:
    return {
        z: {
            "symbol": symbol(z),
            "colour": colours()[z].round(4).tolist(),
            "radius": round(float(ball_radii()[z]), 4),
        }
        for z in numbers
    }


def _card_data(card: Card) -> dict[str, Any]:
    flat = flat_picture(card, *FLAT)
    return {
        "domain": DOMAIN_NAMES[card.domain],
        "id": card.id,
        "formula": subscripted(card.formula),
        "atoms": card.n_atoms,
        "spacegroup": card.spacegroup,
        "valid": card.valid,
        "reason": card.reason,
        "checks": card.checks,
        "facts": card.facts,
        "elements": list(card.elements.items()),
        "thumbnail": _data_address(png_bytes(ball_and_stick(card.scene, THUMBNAIL, annotated=False))),
        "scene": _scene_data(card.scene) if isinstance(card.scene, Scene) else None,
        "unseen": card.scene if isinstance(card.scene, str) else "",
        "flat": _data_address(flat.png) if isinstance(flat, FlatDrawing) else "",
        "flat_note": flat_note(flat),
        "cell": _cell_text(card.sample),
    }


def _scene_data(scene: Scene) -> dict[str, Any]:
    return {
        "numbers": scene.numbers.tolist(),
        "positions": scene.positions.round(4).tolist(),
        "image": scene.image.astype(int).tolist(),
        "sticks": scene.sticks.tolist(),
        "cell": None if scene.cell is None else scene.cell.round(5).tolist(),
        "orientation": scene.orientation.round(6).tolist(),
        "centre": scene.centre.round(5).tolist(),
        "radius": round(scene.radius, 5),
    }


def _cell_text(sample: AtomSet | Invalid) -> str:
    """Cell parameters, angstrom and degrees."""
    if isinstance(sample, Invalid) or not sample.periodic:
        return ""
    lengths = np.linalg.norm(sample.cell, axis=1)
    unit = sample.cell / np.maximum(lengths, 1e-12)[:, None]
    cosines = np.clip([unit[1] @ unit[2], unit[0] @ unit[2], unit[0] @ unit[1]], -1, 1)
    a, b, c = lengths
    alpha, beta, gamma = np.degrees(np.arccos(cosines))
    return f"a {a:.3f} · b {b:.3f} · c {c:.3f} Å; α {alpha:.1f}° · β {beta:.1f}° · γ {gamma:.1f}°"  # noqa: RUF001


def _data_address(png: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(png).decode()
