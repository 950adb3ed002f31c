"""Samples to verdicts through the whole chain: bad input, stages that survive a kill, kept references."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hand_made import crystal, molecule

from adit_scale.atoms import CRYSTAL, MOLECULE, AtomSet, PackedLayout
from adit_scale.evaluation import decode, judging
from adit_scale.evaluation.config import EvaluationConfig
from adit_scale.evaluation.decode import Invalid, decode_sets
from adit_scale.evaluation.judging import judge
from adit_scale.evaluation.kept import Kept, samples_identity
from adit_scale.evaluation.references import References, load_references
from adit_scale.evaluation.samples import SampleColumns, SampleFolder, read_samples
from adit_scale.evaluation.score import Scores
from adit_scale.evaluation.verdicts import Check, Verdicts
from adit_scale.models.autoencoder import Decoded

ALL = EvaluationConfig(protocols=["edm", "rdkit", "posebusters", "geom"], processes=2)
EDM = EvaluationConfig(protocols=["edm"], processes=2)


def decoded_batch(domain: int) -> tuple[Decoded, PackedLayout, list[str]]:
    """Two-atom sets as a network might put them out, one fault each; the last is sound."""
    names = ["NaN types", "NaN positions", "infinite positions", "coincident atoms", "sound"]
    if domain == CRYSTAL:
        names[3:3] = ["zero length", "negative length", "NaN angle", "angles close no cell", "angle of 180"]
    n = len(names)
    logits = torch.full((2 * n, 100), -5.0)
    logits[::2, 11 if domain == CRYSTAL else 8] = 5.0
    logits[1::2, 17 if domain == CRYSTAL else 1] = 5.0
    positions = torch.zeros(2 * n, 3)
    positions[1::2, 0] = 0.97
    fractional = torch.zeros(2 * n, 3)
    fractional[1::2] = 0.5
    lengths = torch.full((n, 3), 4.0)
    angles = torch.full((n, 3), torch.pi / 2)
    at = {name: place for place, name in enumerate(names)}
    logits[2 * at["NaN types"]] = torch.nan
    for values in (positions, fractional):
        values[2 * at["NaN positions"], 1] = torch.nan
        values[2 * at["infinite positions"], 1] = torch.inf
        values[2 * at["coincident atoms"] + 1] = values[2 * at["coincident atoms"]]
    if domain == CRYSTAL:
        lengths[at["zero length"], 0] = 0.0
        lengths[at["negative length"], 2] = -3.0
        angles[at["NaN angle"], 1] = torch.nan
        angles[at["angles close no cell"]] = torch.tensor([0.5, 0.5, 3.0])
        angles[at["angle of 180"], 0] = torch.pi
    return Decoded(logits, positions, fractional, lengths, angles), PackedLayout.from_sizes([2] * n), names


REASONS = {
    "NaN types": decode.NON_FINITE_TYPES,
    "NaN positions": decode.NON_FINITE_COORDINATES,
    "infinite positions": decode.NON_FINITE_COORDINATES,
    "zero length": decode.NON_POSITIVE_LENGTH,
    "negative length": decode.NON_POSITIVE_LENGTH,
    "NaN angle": decode.NON_FINITE_CELL,
    "angles close no cell": decode.OPEN_ANGLES,
    "angle of 180": decode.OPEN_ANGLES,
}


@pytest.mark.parametrize("domain", [MOLECULE, CRYSTAL])
def test_bad_output_of_the_network_is_counted_with_its_reason(domain: int, tmp_path: Path) -> None:
    """Decoded columns, written to a sample folder, read, judged, scored: each fault is in the table of
    reasons, and every rate over all samples has every sample in its denominator."""
    decoded, layout, names = decoded_batch(domain)
    columns = SampleColumns(
        domain,
        index_s=np.arange(len(names)),
        offsets=layout.offsets.numpy(),
        spacegroup_s=np.zeros(len(names), np.int16),
        numbers_t=decode.atomic_numbers(decoded.atom_type_logits_t100.numpy()).astype(np.uint8),
        positions_t3=decoded.positions_t3.numpy(),
        fractional_t3=decoded.fractional_t3.numpy(),
        lengths_s3=decoded.lengths_s3.numpy(),
        angles_s3=decoded.angles_s3.numpy(),
    )
    name = "crystal" if domain == CRYSTAL else "molecule"
    folder = SampleFolder.begin(tmp_path / "s", {"samples": {name: len(names)}, "parts": 1}, {})
    folder.write(0, columns)
    samples = read_samples(tmp_path / "s")
    direct = decode_sets(decoded, layout, torch.full((len(names),), domain))
    assert [type(a) for a in samples[domain]] == [type(b) for b in direct]

    judged = judge(samples, ALL)
    verdicts, scores = judged.verdicts[domain], judged.scores
    first = "structural" if domain == CRYSTAL else "edm_valid"
    check = verdicts.checks[first]
    expected = {n: REASONS[n] for n in names if n in REASONS}
    told = {n: check.reasons[place] for place, n in enumerate(names) if n in REASONS}
    assert told == expected
    assert not check.passed[names.index("coincident atoms")] or domain == MOLECULE
    assert check.passed[names.index("sound")] or domain == MOLECULE  # OH is no whole molecule
    for of, definition in scores.definitions.items():
        if not definition.given and definition.of == "samples":
            rate = scores.rates[of]
            assert rate.trials == len(names), of
            assert sum(scores.reasons[of].values()) == rate.trials - rate.successes, of
    judged.write(tmp_path / "out")
    assert Scores.from_json((tmp_path / "out" / "scores.json").read_text()) == scores


def test_no_atoms_and_element_zero_fail_everywhere() -> None:
    """An Invalid without atoms, atom sets without atoms, and atoms of element 0."""
    nothing = np.zeros(0, dtype=np.int64)
    empty = np.zeros((0, 3))
    samples = {
        MOLECULE: [
            Invalid(MOLECULE, "no atoms", nothing),
            AtomSet(nothing, empty, np.zeros((3, 3)), False, "hand"),
            molecule([0, 1], [[0, 0, 0], [1, 0, 0]]),
            molecule([0, 0], [[0, 0, 0], [0, 0, 0]]),
        ],
        CRYSTAL: [
            Invalid(CRYSTAL, "no atoms", nothing),
            AtomSet(nothing, empty, np.eye(3) * 4, True, "hand"),
            crystal([0, 11], [[0, 0, 0], [0.5, 0.5, 0.5]], np.eye(3) * 4),
            crystal([11, 17], [[0, 0, 0], [0.5, 0.5, 0.5]], np.zeros((3, 3))),
        ],
    }
    scores = judge(samples, ALL).scores
    for name, definition in scores.definitions.items():
        rate = scores.rates[name]
        if definition.of == "samples" and not definition.given and "compositional" not in name:
            assert (rate.successes, rate.trials) == (0, 4), name
    assert scores.rates["crystal/compositional_validity"].successes <= 1  # NaCl without a cell has a formula
    assert scores.rates["molecule/edm_atom_stability"].successes == 0


def test_a_stage_is_made_once_and_again_for_anything_else(tmp_path: Path) -> None:
    made: list[str] = []

    def make() -> Verdicts:
        made.append("x")
        verdicts = Verdicts(MOLECULE, ["a"], np.array([1]))
        verdicts.add_check("edm_valid", Check.from_faults(["broken"], "a rule"))
        return verdicts

    kept = Kept(tmp_path)
    for _ in range(2):
        found = kept.verdicts("molecules", {"settings": 1}, make)
        assert found.checks["edm_valid"].protocol == "a rule"
        assert found.checks["edm_valid"].reasons == ["broken"]
    assert len(made) == 1
    kept.verdicts("molecules", {"settings": 2}, make)
    assert len(made) == 2
    table = tmp_path / "molecules.csv"
    table.write_text(table.read_text().replace("broken", "brocken"))  # damaged: its digest is another
    kept.verdicts("molecules", {"settings": 2}, make)
    (tmp_path / "molecules.json").write_text("{")
    kept.verdicts("molecules", {"settings": 2}, make)
    assert len(made) == 4


def test_a_killed_scoring_goes_on_after_its_stage(
    methane: AtomSet, rock_salt: AtomSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed in the crystals: the molecules are not judged again, and the result is that of one go."""
    from adit_scale.evaluation import crystals, molecules

    samples = {MOLECULE: [methane], CRYSTAL: [rock_salt]}
    whole = judge(samples, EDM)
    real_crystals, real_molecules = crystals.judge_crystals, molecules.judge_molecules
    calls: list[int] = []

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(crystals, "judge_crystals", killed)
    with pytest.raises(KeyboardInterrupt):
        judge(samples, EDM, keep=tmp_path)
    monkeypatch.setattr(crystals, "judge_crystals", real_crystals)

    def counted(*words: Any) -> Verdicts:
        calls.append(1)
        return real_molecules(*words)

    monkeypatch.setattr(molecules, "judge_molecules", counted)
    resumed = judge(samples, EDM, keep=tmp_path)
    assert not calls
    assert resumed.scores == whole.scores
    # Other samples, or other settings, are another stage.
    judge({MOLECULE: [methane, methane]}, EDM, keep=tmp_path)
    judge({MOLECULE: [methane]}, EvaluationConfig(protocols=["edm"], confidence=0.9), keep=tmp_path)
    assert len(calls) == 2


def test_identity_sees_every_atom(rock_salt: AtomSet) -> None:
    moved = crystal(rock_salt.numbers, rock_salt.fractional, rock_salt.cell)
    assert samples_identity([rock_salt]) == samples_identity([moved])
    moved.positions[3, 1] += 1e-9
    broken = Invalid(CRYSTAL, "a", rock_salt.numbers)
    found = [[rock_salt], [moved], [rock_salt] * 2, [broken], [Invalid(CRYSTAL, "b", rock_salt.numbers)], []]
    assert len({samples_identity(samples) for samples in found}) == len(found)


def test_references_are_made_once(methane: AtomSet, benzene: AtomSet, tmp_path: Path) -> None:
    read: list[int] = []

    def chunks(domain: int) -> Iterator[list[AtomSet]]:
        read.append(domain)
        yield [methane]
        yield [benzene, methane]

    for _ in range(2):
        found = load_references(chunks, [MOLECULE], EDM, tmp_path, "fingerprint")
        assert found.molecules is not None
        assert len(found.molecules) == 2
    assert read == [MOLECULE]
    load_references(chunks, [MOLECULE], EDM, tmp_path, "another")
    assert len(read) == 2
    [first, *_] = sorted(tmp_path.glob("edm_smiles-*.txt"))
    assert first.read_text().count("\n") == 2
    off = EvaluationConfig(protocols=["edm"], novelty=False)
    assert load_references(chunks, [MOLECULE, CRYSTAL], off, tmp_path) == References()
    assert load_references(lambda _: iter([]), [MOLECULE, CRYSTAL], EDM, None) == References()


def test_novelty_is_judged_against_the_references(methane: AtomSet, benzene: AtomSet) -> None:
    references = load_references(lambda _: iter([[methane]]), [MOLECULE], EDM, None)
    scores = judge({MOLECULE: [methane, benzene, benzene]}, EDM, references).scores
    assert scores.rates["molecule/edm_novelty"].successes == 1
    assert scores.rates["molecule/edm_valid_unique_novel"].trials == 3


def test_what_is_written(methane: AtomSet, rock_salt: AtomSet, tmp_path: Path) -> None:
    seen: list[tuple[str, int, int | None]] = []
    judged = judge({MOLECULE: [methane], CRYSTAL: [rock_salt]}, EDM, progress=lambda *told: seen.append(told))
    names = {path.name for path in judged.write(tmp_path)}
    assert names == {"verdicts-molecule.csv", "verdicts-crystal.csv", judging.SCORES}
    assert ("crystals", 1, 1) in seen
    read = Verdicts.read_csv(tmp_path / "verdicts-crystal.csv")
    assert read.checks["structural"].passed.tolist() == [True]
    assert json.loads((tmp_path / judging.SCORES).read_text())["samples"] == {"molecule": 1, "crystal": 1}
