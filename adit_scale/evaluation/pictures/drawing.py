"""Pictures of one sample as pixels: ball and stick with scale bar and axes, and a molecule's flat drawing."""

from __future__ import annotations

import functools
import io
import math
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont
from rdkit import Chem, rdBase
from rdkit.Chem import rdDepictor
from rdkit.Chem.Draw import rdMolDraw2D

from adit_scale.atoms import AtomSet
from adit_scale.evaluation.bonds import bond_orders, stable_atoms
from adit_scale.evaluation.decode import rdkit_molecule
from adit_scale.evaluation.pictures.render import AXIS_COLOURS, render
from adit_scale.evaluation.pictures.scene import Scene

INK, QUIET, GOOD, BAD = "#1f2933", "#6b7785", "#1b6f3a", "#b3261e"
MAX_BONDS_AN_ATOM = 2.5  # more than any molecule has: a clump, whose flat drawing would show nothing
BY_RDKIT, BY_TABLE = "RDKit bonds", "EDM bonds"
_BAR_SHARE = 0.28  # of the picture's width, at most


@functools.cache
def font(size: int, bold: bool = False) -> ImageFont.FreeTypeFont:
    """DejaVu Sans, which matplotlib brings along."""
    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return ImageFont.truetype(str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / name), size)


def ball_and_stick(scene: Scene | str, side: int, annotated: bool = True) -> Image.Image:
    """A square picture: atoms, sticks, cell; with ``annotated`` the axes' names and a scale bar."""
    if isinstance(scene, str):
        return _says_why(scene, side)
    picture = render(scene, side)
    image = Image.fromarray(picture.pixels)
    if not annotated:
        return image
    pen = ImageDraw.Draw(image)
    if picture.axis_ends is not None:
        for name, (x, y), colour in zip("abc", picture.axis_ends, AXIS_COLOURS, strict=True):
            fill = tuple(round(255 * c) for c in colour)
            pen.text((x, y), name, fill=fill, font=font(max(11, side // 20), bold=True), anchor="mm",
                     stroke_width=2, stroke_fill="white")  # fmt: skip
    _scale_bar(pen, side, picture.pixels_per_angstrom)
    return image


def round_length(most: float) -> float:
    """The largest of 1, 2, 5 times a power of ten that is at most ``most``."""
    power = 10.0 ** math.floor(math.log10(most) + 1e-9)
    return float(f"{max((m for m in (1, 2, 5) if m * power <= most * (1 + 1e-9)), default=1) * power:.1g}")


def _scale_bar(pen: ImageDraw.ImageDraw, side: int, pixels_per_angstrom: float) -> None:
    length = round_length(_BAR_SHARE * side / pixels_per_angstrom)
    left, low = round(0.03 * side), round(0.975 * side)
    pen.line([(left, low), (left + length * pixels_per_angstrom, low)], fill=INK, width=max(2, side // 160))
    face = font(max(10, side // 26))
    pen.text((left, low - side // 100 - 1), f"{length:g} Å", fill=INK, font=face, anchor="lb")


def _says_why(reason: str, side: int) -> Image.Image:
    image = Image.new("RGB", (side, side), "white")
    pen = ImageDraw.Draw(image)
    size = max(10, side // 22)
    pen.rectangle((side // 12, side // 12, side - side // 12, side - side // 12), outline="#c9d1d9", width=1)
    lines = ["no picture:", *wrapped(reason, font(size), int(side * 0.72))]
    pen.multiline_text((side / 2, side / 2), "\n".join(lines), fill=QUIET, font=font(size), anchor="mm",
                       align="center", spacing=size // 2)  # fmt: skip
    return image


def wrapped(text: str, face: ImageFont.FreeTypeFont, width: int) -> list[str]:
    """Lines no wider than ``width`` pixels where words allow it."""
    lines: list[str] = []
    for word in text.split():
        longer = f"{lines[-1]} {word}" if lines else word
        if lines and face.getlength(longer) <= width:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines


def cut(text: str, face: ImageFont.FreeTypeFont, width: float) -> str:
    """The text, or as much of it as fits into ``width`` pixels with an ellipsis."""
    if face.getlength(text) <= width:
        return text
    while text and face.getlength(text + "…") > width:
        text = text[:-1]
    return text.rstrip() + "…"


@dataclass(frozen=True)
class FlatDrawing:
    """A molecule on paper. png: its picture. bonds: whose they are. refused: atoms with a valence that the
    table does not allow, marked in red."""

    png: bytes
    bonds: str
    refused: int


def flat_drawing(sample: AtomSet, smiles: str, width: int, height: int) -> FlatDrawing | str:
    """The molecule of ``smiles`` (RDKit's own perception), else of the distance table's bonds; or why not.

    With the table's bonds every atom is drawn where a valence is refused, so that the fault can be seen.
    """
    with rdBase.BlockLogs():
        molecule = Chem.MolFromSmiles(smiles) if smiles else None
        if molecule is not None:
            Chem.Kekulize(molecule, clearAromaticFlags=True)
            return FlatDrawing(_cairo(molecule, [], width, height), BY_RDKIT, 0)
        orders = bond_orders(sample.numbers, sample.positions)
        n_bonds = int((orders > 0).sum()) // 2
        if n_bonds > MAX_BONDS_AN_ATOM * len(sample):
            return f"{n_bonds} bonds among {len(sample)} atoms"
        refused = np.flatnonzero(~stable_atoms(sample.numbers, orders)).tolist()
        drawn = _plain(rdkit_molecule(sample.numbers, sample.positions, orders))
        if not refused:
            drawn = Chem.RemoveHs(drawn, sanitize=False)
        return FlatDrawing(_cairo(drawn, refused, width, height), BY_TABLE, len(refused))


def _plain(molecule: Chem.RWMol) -> Chem.Mol:
    """As it stands: no hydrogen is added where a valence has room, none is refused where it has not."""
    for atom in molecule.GetAtoms():
        atom.SetNoImplicit(True)
    plain = molecule.GetMol()
    plain.UpdatePropertyCache(strict=False)
    plain.RemoveAllConformers()
    Chem.FastFindRings(plain)
    return plain


def _cairo(molecule: Chem.Mol, refused: list[int], width: int, height: int) -> bytes:
    rdDepictor.Compute2DCoords(molecule)
    canvas = rdMolDraw2D.MolDraw2DCairo(width, height)
    options = canvas.drawOptions()
    settings = {
        "padding": 0.08,
        "prepareMolsBeforeDrawing": False,
        "fixedBondLength": 34,
        "minFontSize": 9,
        "atomHighlightsAreCircles": True,
        "highlightRadius": 0.4,
    }
    for key, value in settings.items():
        setattr(options, key, value)
    prepared = rdMolDraw2D.PrepareMolForDrawing(molecule, kekulize=False, addChiralHs=False, wedgeBonds=False)
    red = (1.0, 0.72, 0.68)  # light enough to read a letter on
    canvas.DrawMolecule(
        prepared, highlightAtoms=refused, highlightAtomColors=dict.fromkeys(refused, red), highlightBonds=[]
    )
    canvas.FinishDrawing()
    return canvas.GetDrawingText()


def png_bytes(image: Image.Image) -> bytes:
    """The picture as PNG with a palette of 256 colours, a third of the size."""
    stream = io.BytesIO()
    image.quantize(256, dither=Image.Dither.NONE).save(stream, "PNG", optimize=True)
    return stream.getvalue()
