"""The gallery: the first samples by number, every verdict and reason, and no text that becomes markup."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from picture_samples import HOSTILE, broken, diamond, magnesium, rock_salt, scored, water
from PIL import Image

from adit_scale.atoms import CRYSTAL, MOLECULE
from adit_scale.evaluation.decode import Invalid
from adit_scale.evaluation.pictures.cards import hill_formula, international_symbols, make_cards, subscripted
from adit_scale.evaluation.pictures.gallery import embedded_json, write_gallery
from adit_scale.evaluation.verdicts import Check, Verdicts

MOLECULES = [water(), water(1.6), *broken(MOLECULE)]
CRYSTALS = [rock_salt(), diamond(), magnesium(), *broken(CRYSTAL)]
SAMPLES = {MOLECULE: MOLECULES, CRYSTAL: CRYSTALS}


def verdicts() -> dict[int, Verdicts]:
    names = [HOSTILE, *(f"molecule-{i}" for i in range(1, len(MOLECULES)))]
    return {MOLECULE: scored(MOLECULE, MOLECULES, names), CRYSTAL: scored(CRYSTAL, CRYSTALS)}


@pytest.fixture(scope="module")
def gallery(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("gallery")
    write_gallery(folder, SAMPLES, verdicts(), name=f"a model {HOSTILE}", count=5)
    return folder


def embedded(page: str) -> dict:
    (text,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    return json.loads(text)


def test_the_first_samples_are_shown_in_order_and_the_page_says_so(gallery):
    page = (gallery / "gallery.html").read_text(encoding="utf-8")
    cards = embedded(page)["cards"]
    assert [card["domain"] for card in cards] == ["molecule"] * 5 + ["crystal"] * 5
    assert [card["id"] for card in cards[5:]] == ["0", "1", "2", "3", "4"]
    assert "Molecules: the first 5 of 7 by number, not chosen." in page
    assert "Crystals: the first 5 of 5 by number, not chosen." in page
    assert "80.0% [37.6%, 96.4%] of 5" in page


def test_every_verdict_and_reason_is_on_the_page(gallery):
    cards = embedded((gallery / "gallery.html").read_text(encoding="utf-8"))["cards"]
    invalid = cards[5 + 3]
    assert (invalid["valid"], invalid["reason"]) == (False, broken(CRYSTAL)[0].reason)
    assert (invalid["scene"], invalid["unseen"]) == (None, broken(CRYSTAL)[0].reason)
    salt = cards[5]
    assert salt["formula"] == "C₈"  # the verdicts' label, not counted again
    assert salt["spacegroup"] == "Fm-3m (225), 0.1 Å"
    assert salt["elements"] == [[11, 4], [17, 4]]
    assert salt["cell"].startswith("a 5.640 · b 5.640 · c 5.640 Å; ")
    assert len(salt["scene"]["numbers"]) == 27
    assert ["stable", "failed", "too high"] in salt["checks"]
    assert ["stable", "not asked", ""] in cards[-1]["checks"]


def test_no_text_of_a_sample_becomes_markup(gallery):
    page = (gallery / "gallery.html").read_text(encoding="utf-8")
    assert embedded(page)["cards"][0]["id"] == HOSTILE
    assert page.count("<script") == page.count("</script") == 2
    assert "<img" not in page
    assert "onerror" not in page.replace(embedded_json(HOSTILE)[1:-1], "").replace(
        "&lt;img src=x onerror=alert(1)&gt;", ""
    )


def test_the_page_asks_nothing_of_a_network(gallery):
    page = (gallery / "gallery.html").read_text(encoding="utf-8")
    assert "default-src 'none'" in page
    assert not re.search(r"https?:|import\(|src=[\"'](?!data:)", page)


def test_pictures_are_small_enough_for_a_page(gallery):
    assert (gallery / "gallery.html").stat().st_size < 10 * 100_000
    with Image.open(gallery / "gallery.png") as picture:
        assert picture.size[0] == 1710
        assert np.asarray(picture.convert("L")).std() > 5


def test_one_domain_alone_and_no_check_at_all(tmp_path):
    bare = Verdicts(CRYSTAL, ["a"], np.array([8]))
    write_gallery(tmp_path, {CRYSTAL: [rock_salt()]}, {CRYSTAL: bare})
    (card,) = embedded((tmp_path / "gallery.html").read_text(encoding="utf-8"))["cards"]
    assert (card["valid"], card["checks"], card["formula"]) == (None, [], "Cl₄Na₄")


def test_samples_of_another_run_are_refused():
    with pytest.raises(AssertionError, match="different runs"):
        make_cards({MOLECULE: MOLECULES, CRYSTAL: CRYSTALS[:2]}, verdicts(), 3)


def test_formulas():
    assert hill_formula(np.array([1, 8, 1, 6, 6, 17])) == "C2H2ClO"
    assert hill_formula(np.array([17, 11])) == "ClNa"
    assert hill_formula(np.array([0, 6])) == "C?"
    assert subscripted("C12H2") == "C₁₂H₂"


def test_spacegroup_symbols_are_the_tables():
    symbols = international_symbols()
    assert len(symbols) == 230
    assert [symbols[n] for n in (1, 2, 62, 194, 225, 230)] == [
        "P1",
        "P-1",
        "Pnma",
        "P6₃/mmc",
        "Fm-3m",
        "Ia-3d",
    ]


def test_a_check_not_asked_is_no_failure():
    sample = replace(rock_salt(), id="0")
    of = Verdicts(CRYSTAL, ["0"], np.array([8]))
    of.add_check("valid", Check(np.array([-1]), [""]))
    (card,) = make_cards({CRYSTAL: [sample]}, {CRYSTAL: of}, 1)
    assert card.valid is None


def test_an_invalid_sample_without_known_elements_has_a_card():
    nothing = Invalid(MOLECULE, "atom types are not finite", np.zeros(3, dtype=int))
    (card,) = make_cards({MOLECULE: [nothing]}, {MOLECULE: scored(MOLECULE, [nothing])}, 1)
    assert (card.formula, card.elements, card.valid) == ("?3", {0: 3}, False)
