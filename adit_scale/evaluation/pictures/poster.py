"""The gallery as one picture: molecules beside their drawings, crystals in their cells, captions, legend."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw

from adit_scale.atoms import CRYSTAL, MOLECULE
from adit_scale.evaluation.pictures.cards import Card, flat_note, flat_picture, subscripted
from adit_scale.evaluation.pictures.drawing import (
    BAD,
    GOOD,
    INK,
    QUIET,
    FlatDrawing,
    ball_and_stick,
    cut,
    font,
    wrapped,
)
from adit_scale.evaluation.pictures.elements import hex_colour, symbol

SIDE = {MOLECULE: 206, CRYSTAL: 264}  # of a ball-and-stick picture, pixels
COLUMNS = {MOLECULE: 4, CRYSTAL: 6}
GAP, EDGE = 14, 28
TITLES = {MOLECULE: "Molecules", CRYSTAL: "Crystals"}
WIDTH = 2 * EDGE + 6 * SIDE[CRYSTAL] + 5 * GAP
_CAPTION = 78  # height below a picture


@dataclass
class _Sheet:
    """A picture that grows downwards."""

    image: Image.Image
    y: int = EDGE

    def text(self, x: int, text: str, size: int, colour: str = INK, bold: bool = False) -> None:
        ImageDraw.Draw(self.image).text((x, self.y), text, fill=colour, font=font(size, bold))


def draw_poster(cards: Sequence[Card], name: str, notes: Sequence[str]) -> Image.Image:
    """All cards, molecules first, with the notes above and a legend of elements below each domain."""
    lines = [line for note in notes for line in wrapped(note, font(15), WIDTH - 2 * EDGE)]
    sheet = _Sheet(Image.new("RGB", (WIDTH, _height(cards, len(lines))), "white"))
    sheet.text(EDGE, f"Gallery of {name}", 26, bold=True)
    sheet.y += 42
    for line in lines:
        sheet.text(EDGE, line, 15, QUIET)
        sheet.y += 21
    for domain in (MOLECULE, CRYSTAL):
        _domain(sheet, domain, [card for card in cards if card.domain == domain])
    return sheet.image.crop((0, 0, WIDTH, sheet.y + EDGE))


def _height(cards: Sequence[Card], n_lines: int) -> int:
    rows = [(-(-sum(c.domain == d for c in cards) // COLUMNS[d]), SIDE[d]) for d in COLUMNS]
    panels = sum(n * (side + _CAPTION + GAP) for n, side in rows)
    present = [{z for c in cards if c.domain == d for z in c.elements} for d in COLUMNS]
    legend = sum(60 + 26 * (1 + len(elements) // 12) for elements in present)
    return 2 * EDGE + 60 + 21 * n_lines + panels + legend + 160


def _domain(sheet: _Sheet, domain: int, cards: Sequence[Card]) -> None:
    if not cards:
        return
    sheet.y += 16
    sheet.text(EDGE, TITLES[domain], 20, bold=True)
    sheet.y += 34
    _legend(sheet, cards)
    columns = COLUMNS[domain]
    width = (WIDTH - 2 * EDGE - (columns - 1) * GAP) // columns
    for i, card in enumerate(cards):
        _panel(sheet, card, EDGE + (i % columns) * (width + GAP), width)
        if i % columns == columns - 1 or i == len(cards) - 1:
            sheet.y += SIDE[domain] + _CAPTION + GAP


def _legend(sheet: _Sheet, cards: Sequence[Card]) -> None:
    pen, x = ImageDraw.Draw(sheet.image), EDGE
    for z in sorted({z for card in cards for z in card.elements}):
        text = symbol(z)
        wide = 24 + font(15).getlength(text) + 16
        if x + wide > WIDTH - EDGE:
            x, sheet.y = EDGE, sheet.y + 26
        pen.ellipse((x, sheet.y + 1, x + 17, sheet.y + 18), fill=hex_colour(z), outline="#555555")
        pen.text((x + 23, sheet.y + 10), text, fill=INK, font=font(15), anchor="lm")
        x += round(wide)
    sheet.y += 34


def _panel(sheet: _Sheet, card: Card, x: int, width: int) -> None:
    side = SIDE[card.domain]
    sheet.image.paste(ball_and_stick(card.scene, side), (x, sheet.y))
    if card.domain == MOLECULE:
        _flat(sheet, card, x + side, width - side, side)
    pen, y = ImageDraw.Draw(sheet.image), sheet.y + side
    pen.rectangle((x, sheet.y, x + width - 1, y + _CAPTION - 4), outline="#d8dee4")
    number = f"#{card.id}" if card.id.isdigit() else card.id
    facts = f"{number} · {card.n_atoms} atoms" + (f" · {card.spacegroup}" if card.spacegroup else "")
    verdict, colour = _verdict(card)
    formula = subscripted(card.formula) or "no atoms"
    rows = [(formula, 15, INK, True), (facts, 12, QUIET, False)]
    first, *more = wrapped(verdict, font(13), width - 12)
    rows += [(first, 13, colour, False), (" ".join(more), 13, colour, False)]
    for (text, size, fill, bold), below in zip(rows, (2, 22, 39, 55), strict=True):
        face = font(size, bold)
        pen.text((x + 6, y + below), cut(text, face, width - 12), fill=fill, font=face)


def _flat(sheet: _Sheet, card: Card, x: int, width: int, height: int) -> None:
    flat = flat_picture(card, width - 2, height - 22)
    if isinstance(flat, FlatDrawing):
        sheet.image.paste(Image.open(io.BytesIO(flat.png)).convert("RGB"), (x, sheet.y + 2))
    face = font(11)
    note = cut(flat_note(flat), face, width - 8)
    place = (x + width / 2, sheet.y + height - 16)
    ImageDraw.Draw(sheet.image).text(place, note, fill=QUIET, font=face, anchor="ma")


def _verdict(card: Card) -> tuple[str, str]:
    if card.valid is None:
        return "not judged", QUIET
    if card.valid:
        return "valid", GOOD
    return (f"not valid: {card.reason}" if card.reason else "not valid"), BAD
