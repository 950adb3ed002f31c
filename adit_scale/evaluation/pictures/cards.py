"""What a gallery says of one sample: its scene, formula, spacegroup, verdict and every check."""

from __future__ import annotations

import functools
import re
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import spglib

from adit_scale.atoms import CRYSTAL, MOLECULE, AtomSet
from adit_scale.evaluation.decode import Invalid
from adit_scale.evaluation.pictures.drawing import FlatDrawing, flat_drawing
from adit_scale.evaluation.pictures.elements import symbol
from adit_scale.evaluation.pictures.scene import Scene, make_scene
from adit_scale.evaluation.verdicts import FAILED, NOT_ASKED, PASSED, Verdicts

# The check that a sample is called valid by: the first of these that was made.
HEADLINE = {
    MOLECULE: ("edm_valid", "rdkit_valid", "adit_valid", "posebusters"),
    CRYSTAL: ("valid", "structural", "smact14", "icsd24"),
}
SPACEGROUP_VALUES = ("spacegroup_0.1", "spacegroup_0.01")
_SUBSCRIPTS = str.maketrans("0123456789", "₀₁₂₃₄₅₆₇₈₉")
_WORDS = {PASSED: "passed", FAILED: "failed", NOT_ASKED: "not asked"}


@dataclass(frozen=True)
class Card:
    """sample: what it was made from. valid: by the headline check; None where no check was made.
    reason: why it is not valid. checks: (name, "passed" | "failed" | "not asked", reason).
    facts: (name, value) to read. scene: what to draw, or why nothing is drawn."""

    domain: int
    sample: AtomSet | Invalid
    id: str
    formula: str
    n_atoms: int
    spacegroup: str
    valid: bool | None
    reason: str
    checks: tuple[tuple[str, str, str], ...]
    facts: tuple[tuple[str, str], ...]
    smiles: str
    scene: Scene | str

    @property
    def elements(self) -> dict[int, int]:
        """Atomic number -> atoms of the sample, images left out, in order of the number."""
        return dict(sorted(Counter(self.sample.numbers.tolist()).items()))


def headline(verdicts: Verdicts) -> str | None:
    """The check that ``valid`` stands for; None where none of them was made."""
    return next((name for name in HEADLINE[verdicts.domain] if name in verdicts.checks), None)


def make_cards(
    samples: Mapping[int, Sequence[AtomSet | Invalid]], verdicts: Mapping[int, Verdicts], count: int
) -> list[Card]:
    """Cards of the first ``count`` samples of each domain, molecules first.

    samples: at least those that were judged, in the same order.
    """
    cards = []
    for domain in (MOLECULE, CRYSTAL):
        if domain not in verdicts:
            continue
        assert len(samples[domain]) >= len(verdicts[domain]), "samples and verdicts are of different runs"
        shown = range(min(count, len(verdicts[domain])))
        cards += [_card(samples[domain][i], verdicts[domain], i) for i in shown]
    return cards


def _card(sample: AtomSet | Invalid, verdicts: Verdicts, i: int) -> Card:
    name = headline(verdicts)
    verdict = None if name is None else verdicts.checks[name]
    asked = verdict is not None and bool(verdict.asked[i])
    labels = {key: texts[i] for key, texts in verdicts.labels.items() if texts[i]}
    return Card(
        domain=verdicts.domain,
        sample=sample,
        id=verdicts.ids[i],
        formula=labels.get("formula") or hill_formula(sample.numbers),
        n_atoms=len(sample),
        spacegroup=_spacegroup(sample, verdicts, i),
        valid=bool(verdict.passed[i]) if verdict is not None and asked else None,
        reason=verdict.reasons[i] if verdict is not None else "",
        checks=tuple((of, _WORDS[int(c.verdict[i])], c.reasons[i]) for of, c in verdicts.checks.items()),
        facts=(
            *((key, f"{column[i]:.4g}") for key, column in verdicts.values.items() if np.isfinite(column[i])),
            *((key, text) for key, text in labels.items() if key != "formula"),
        ),
        smiles=labels.get("rdkit_smiles", ""),
        scene=make_scene(sample),
    )


def hill_formula(numbers: np.ndarray) -> str:
    """C, H, then the others by symbol; all by symbol without carbon. ``?`` is an unknown element."""
    counts = Counter(symbol(z) for z in numbers.tolist())
    first = [s for s in ("C", "H") if s in counts] if "C" in counts else []
    rest = sorted(s for s in counts if s not in first)
    return "".join(f"{s}{counts[s] if counts[s] > 1 else ''}" for s in (*first, *rest))


def subscripted(formula: str) -> str:
    """Digits of a formula as subscripts."""
    return formula.translate(_SUBSCRIPTS)


def flat_picture(card: Card, width: int, height: int) -> FlatDrawing | str:
    """The drawing of a molecule; of anything else the empty text."""
    if card.domain != MOLECULE or isinstance(card.scene, str) or isinstance(card.sample, Invalid):
        return ""
    return flat_drawing(card.sample, card.smiles, width, height)


def flat_note(flat: FlatDrawing | str) -> str:
    if isinstance(flat, str):
        return f"no drawing: {flat}" if flat else ""
    return flat.bonds + (f", {flat.refused} refused" if flat.refused else "")


def _spacegroup(sample: AtomSet | Invalid, verdicts: Verdicts, i: int) -> str:
    """``Fm-3m (225)`` with its tolerance; "" for molecules and where none was found."""
    for name in SPACEGROUP_VALUES:
        number = verdicts.values[name][i] if name in verdicts.values else np.nan
        if np.isfinite(number) and number >= 1:
            return f"{international_symbols()[int(number)]} ({int(number)}), {name.split('_')[1]} Å"
    number = sample.spacegroup if isinstance(sample, AtomSet) else 0
    return f"{international_symbols()[number]} ({number})" if number else ""


@functools.cache
def international_symbols() -> dict[int, str]:
    """Spacegroup number -> short Hermann–Mauguin symbol of its standard setting."""
    found: dict[int, str] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # spglib 2.8 announces exceptions to come
        of_hall_numbers = [spglib.get_spacegroup_type(number) for number in range(1, 531)]
    for of in of_hall_numbers:
        assert of is not None
        short = re.sub(r"_(\d)", lambda axis: axis[1].translate(_SUBSCRIPTS), of.international_short)
        found.setdefault(of.number, short)
    return found
