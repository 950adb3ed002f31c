"""Relaxation, energies above hull and discoveries, with ASE's effective medium theory as the model."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from energy_models import alloy

from adit_scale.atoms import CRYSTAL, MOLECULE, AtomSet
from adit_scale.errors import ConfigError, DataError
from adit_scale.evaluation.config import EnergyConfig, EvaluationConfig
from adit_scale.evaluation.decode import Invalid
from adit_scale.evaluation.energies import reasons
from adit_scale.evaluation.energies.hull import Place
from adit_scale.evaluation.energies.judge import add_stability, asked_places, judge_energies
from adit_scale.evaluation.energies.potentials import Potential
from adit_scale.evaluation.energies.references import reference_entries_from_structures
from adit_scale.evaluation.energies.relaxation import displacement, relax_crystal, relax_crystals, to_ase
from adit_scale.evaluation.energies.summary import energy_spreads, spread
from adit_scale.evaluation.verdicts import OVER_TIME, Verdicts

EMT = Potential("emt")
TIGHT = EnergyConfig(fmax_ev_per_angstrom=0.01)


def inline(
    crystals: list[AtomSet],
    potential: Potential,
    config: EnergyConfig,
    processes: int,
    progress: object = None,
) -> list:
    """Without processes, which take seconds to start."""
    return relax_crystals(crystals, potential, config, 0)


def user_model(name: str) -> Potential:
    return Potential(f"energy_models:{name}")


@pytest.fixture(scope="module")
def hull(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Cu-Au hull of EMT: Cu, Au, Cu3Au, CuAu and CuAu3, relaxed here."""
    path = tmp_path_factory.mktemp("hull") / "emt.json"
    compounds = [
        alloy("AuCuCuCu", 3.75, "Cu3Au"), alloy("CuCuAuAu", 3.85, "CuAu"), alloy("CuAuAuAu", 3.98, "CuAu3"),
    ]  # fmt: skip
    report = reference_entries_from_structures(compounds, EMT, path, TIGHT)
    assert (report.n_entries, report.failed, report.uncovered) == (5, {}, ())
    return path


def settings(hull: Path | str = "", **energies: object) -> EvaluationConfig:
    return EvaluationConfig(
        relax="emt",
        hull=str(hull),
        processes=1,
        energies=replace(TIGHT, **energies),
    )


def rows(samples: list, domain: int = CRYSTAL) -> Verdicts:
    return Verdicts(domain, [s.id for s in samples], np.array([len(s) for s in samples]))


def test_relaxation_finds_the_known_minimum() -> None:
    """EMT's copper: 3.594 Å; a squeezed and rattled cell comes back to it."""
    found = relax_crystal(alloy("CuCuCuCu", 3.45, noise=0.08), EMT, TIGHT)
    assert found.fault is None
    assert found.relaxed is not None
    assert np.abs(np.linalg.det(found.relaxed.cell)) ** (1 / 3) == pytest.approx(3.594, abs=0.005)
    assert found.relaxed_energy == pytest.approx(-0.007, abs=0.001)  # EMT counts from the bulk metals
    assert found.energy > found.relaxed_energy + 0.1
    assert 0.03 < found.rmsd < 0.3
    assert found.volume_ratio == pytest.approx((3.594 / 3.45) ** 3, rel=0.01)


def test_displacement_is_of_atoms_not_of_cell_or_origin() -> None:
    rng = np.random.default_rng(0)
    cell, positions = np.eye(3) * 4 + 0.1 * rng.normal(size=(3, 3)), 4 * rng.random((5, 3))
    stretch = np.diag([1.1, 0.9, 1.05])
    moved = (positions + np.array([0.3, 0.2, 5.0])) @ stretch
    assert displacement(positions, cell, moved, cell @ stretch) == pytest.approx(0, abs=1e-12)
    one = positions.copy()
    one[0] += [0.5, 0, 0]
    # One of five atoms by 0.5 Å, seen from the mean: 0.5·sqrt(1/5 − 1/25).
    assert displacement(positions, cell, one, cell) == pytest.approx(0.5 * np.sqrt(0.16))


coincident = AtomSet(np.array([29, 29]), np.zeros((2, 3)), np.eye(3) * 4, True, "")
nowhere = AtomSet(np.array([29]), np.full((1, 3), np.nan), np.eye(3) * 4, True, "")


@pytest.mark.parametrize(
    ("crystal", "model", "reason"),
    [
        (coincident, EMT, reasons.NON_FINITE_FORCES),
        (alloy("CuCuCuCu", 3.6), user_model("not_a_number"), reasons.NON_FINITE_ENERGY),
        (alloy("CuCuCuCu", 3.6), user_model("blowing"), reasons.EXPLODED),
        (alloy("CuCuCuCu", 3.6), user_model("raising"), "the model fails (ValueError)"),
        (alloy("CuCuCuCu", 3.6), user_model("ignorant"), reasons.UNKNOWN_TO_MODEL),
        (alloy("CuCuCuCu", 3.6), user_model("slow"), OVER_TIME),
        (alloy("FeFeFeFe", 3.6), EMT, reasons.UNKNOWN_TO_MODEL),
        (alloy("CuCuCuCu", 1.0), EMT, reasons.COLLAPSED),
        (alloy("AuCuCuCu", 3.5, noise=0.1), EMT, "did not converge in 3 steps"),
        (nowhere, EMT, reasons.NON_FINITE_STRUCTURE),
    ],
)
def test_what_goes_wrong_is_the_samples_reason(crystal: AtomSet, model: Potential, reason: str) -> None:
    limit_s = 1.0 if reason == OVER_TIME else 30.0
    config = EnergyConfig(relax_limit_s=limit_s, max_steps=3 if "3 steps" in reason else 200)
    found = relax_crystal(crystal, model, config)
    assert found.fault == reason
    assert found.relaxed is None
    assert np.isnan(found.relaxed_energy)


def test_overlap_is_seen_through_the_cells_faces() -> None:
    """Nearer than half the sum of covalent radii, 1.32 Å for copper; H2's bond of 0.74 Å is none."""
    from adit_scale.evaluation.energies.guard import overlap

    def pair(number: int, distance: float) -> str | None:
        sites = np.array([[0, 0, 0.1], [0, 0, 5.1 - distance]])
        return overlap(to_ase(AtomSet(np.array([number] * 2), sites, np.eye(3) * 5, True, "")))

    assert pair(29, 1.30) == reasons.OVERLAP
    assert pair(29, 1.34) is None
    assert pair(1, 0.74) is None


def test_a_mistake_of_the_users_model_is_raised() -> None:
    with pytest.raises(TypeError):
        relax_crystal(alloy("CuCuCuCu", 3.6), user_model("mistaken"), TIGHT)


def test_hanging_model_is_killed_and_others_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    from adit_scale.evaluation.energies import relaxation

    monkeypatch.setattr(relaxation, "_STARTUP_S", 2.0)
    config = EnergyConfig(relax_limit_s=0.2)
    (found,) = relax_crystals([alloy("CuCuCuCu", 3.6)], user_model("hanging"), config, 1)
    assert found.fault == OVER_TIME


def test_same_result_in_processes_as_inline() -> None:
    crystals = [alloy("AuCuCuCu", 3.8, str(i), 0.05, i) for i in range(3)]
    told: list[int] = []
    there = relax_crystals(crystals, EMT, EnergyConfig(), 2, told.append)
    assert sum(told) == 3
    for a, b in zip(there, relax_crystals(crystals, EMT, EnergyConfig(), 0), strict=True):
        assert (a.energy, a.relaxed_energy, a.steps) == (b.energy, b.relaxed_energy, b.steps)


def test_verdicts_of_alloys(hull: Path) -> None:
    """Three ordered alloys found again, two of them drafts of one; what is none fails or is not asked."""
    samples: list[AtomSet | Invalid] = [
        alloy("CuCuAuAu", 3.7, "a", 0.1, seed=1),
        alloy("CuCuAuAu", 3.95, "b", 0.1, seed=2),
        alloy("AuCuCuCu", 3.8, "c", 0.05, seed=3),
        Invalid(CRYSTAL, "cell is not finite", np.array([29]), "d"),
        alloy("AgAgAuAu", 4.0, "e"),
        alloy("CuCuAuAu", 3.9, "f"),
    ]
    verdicts = rows(samples)
    config = settings(hull, relax_samples=5, stable_ev=0.001)
    relaxed = judge_energies(verdicts, samples, config, known=[alloy("AuCuCuCu", 3.7)], relax=inline)
    checks = {name: check.verdict.tolist() for name, check in verdicts.checks.items()}
    assert checks == {
        "relaxed": [1, 1, 1, 0, 1, -1],
        "stable": [1, 1, 1, 0, 0, -1],
        "metastable": [1, 1, 1, 0, 0, -1],
        "sun": [1, 0, 0, 0, 0, -1],
        "msun": [1, 0, 0, 0, 0, -1],
    }
    assert [crystal is not None for crystal in relaxed] == [True, True, True, False, True, False]
    assert verdicts.checks["stable"].reasons[3:] == ["cell is not finite", "no elemental reference: Ag", ""]
    assert verdicts.checks["sun"].reasons[1:3] == [
        "the same structure as an earlier sample", "the structure of a training crystal",
    ]  # fmt: skip
    # The same minimum as the reference's own: the relaxations' noise remains.
    above = verdicts.values["e_above_hull_ev_per_atom"]
    np.testing.assert_allclose(above[:3], 0, atol=1e-3)
    assert np.isnan(above[3:]).all()
    assert (verdicts.values["formation_energy_ev_per_atom"][:3] < -0.005).all()
    assert verdicts.rate("sun").trials == 5
    protocol = verdicts.checks["sun"].protocol
    for part in ("EMT of ASE", "emt.json (5 entries, sha256", "FIRE", "0.001 eV/atom", "1 training crystals"):
        assert part in protocol
    assert energy_spreads(verdicts)["e_above_hull_ev_per_atom"].n == 3


def test_far_below_the_hull_is_no_discovery() -> None:
    """A hull of elements alone puts every compound's whole formation energy below it."""
    verdicts = rows([alloy("CuCuAuAu", 3.9, name) for name in "abcd"])
    places = [Place(0.0, -0.1), Place(-0.19, -0.3), Place(-3.39, -3.39), Place(fault="cell collapsed")]
    add_stability(verdicts, places, EvaluationConfig(), "a hull")
    for name in ("stable", "metastable"):
        assert verdicts.checks[name].verdict.tolist() == [1, 1, 0, 0]
        assert verdicts.checks[name].reasons[2].startswith("more than 0.2 eV/atom below hull")


def test_unordered_alloy_lies_above_the_hull(hull: Path) -> None:
    """CuAu stretched to a cell that EMT relaxes elsewhere than L1_0 cannot lie under the hull."""
    samples = [alloy("CuCuAuAu", 4.3, "x", 0.3, seed=i) for i in range(2)]
    verdicts = rows(samples)
    judge_energies(verdicts, samples, settings(hull), relax=inline)
    above = verdicts.values["e_above_hull_ev_per_atom"]
    assert (above[np.isfinite(above)] > -1e-3).all()
    assert "sun" not in verdicts.checks  # without a training set it would be another rate


def test_nothing_asked_adds_nothing() -> None:
    samples = [alloy("CuCuAuAu", 3.7)]
    verdicts = rows(samples)
    assert judge_energies(verdicts, samples, EvaluationConfig()) == [None]
    assert not verdicts.checks
    assert not verdicts.values
    assert asked_places(10, settings(relax_samples=0)) == 10


def test_hull_of_another_model_is_refused(hull: Path) -> None:
    samples = [alloy("CuCuAuAu", 3.7)]
    config = replace(settings(hull), relax="lj")
    with pytest.raises(ConfigError, match=r"made with EMT of ASE .* is Lennard-Jones"):
        judge_energies(rows(samples), samples, config)
    with pytest.raises(DataError, match="no such file"):
        judge_energies(rows(samples), samples, settings("none.json"))


def test_references_say_what_they_lack(tmp_path: Path) -> None:
    structures = [alloy("AuCuCuCu", 3.75, "a"), alloy("FeFeAuAu", 3.8, "b"), alloy("CuCuAuAu", 0.6, "c")]
    report = reference_entries_from_structures(structures, EMT, tmp_path / "h.json", add_elements=False)
    assert report.n_entries == 1
    assert report.uncovered == ("Cu", "Au")
    assert report.failed == {"atoms closer than 0.5 Å": 1, reasons.UNKNOWN_TO_MODEL: 1}


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("chgnett", "no energy model is named 'chgnett'; expected one of chgnet, "),
        ("no_such_module:f", "cannot be imported"),
        ("energy_models:nothing", "cannot be imported"),
        ("energy_models:not_callable", "is no callable"),
        ("energy_models:no_calculator", "gave a str; expected an ASE calculator"),
    ],
)
def test_names_that_are_no_model(name: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Potential(name).calculator()


def test_missing_package_names_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    from adit_scale.evaluation.energies import potentials

    monkeypatch.setattr(potentials, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"pip install 'adit-scale\[potentials\]'"):
        Potential("chgnet")
    with pytest.raises(ConfigError, match=r"adit-scale\[potentials\]"):
        Potential("energy_models:emt")


def test_users_model_by_name() -> None:
    assert user_model("emt").describe() == "energy_models:emt (version unknown)"
    crystal = alloy("AuCuCuCu", 3.8)
    assert relax_crystal(crystal, user_model("emt"), TIGHT).relaxed_energy == pytest.approx(
        relax_crystal(crystal, EMT, TIGHT).relaxed_energy
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"energies": EnergyConfig(optimizer="LBFGS")}, "evaluation.energies.optimizer is 'LBFGS'"),
        ({"energies": EnergyConfig(fmax_ev_per_angstrom=0)}, "energies.fmax_ev_per_angstrom is 0"),
        ({"energies": EnergyConfig(max_steps=0)}, "energies.max_steps is 0"),
        ({"energies": EnergyConfig(stable_ev=0.2)}, "energies.metastable_ev is 0.1; expected 0.2"),
        ({"hull": "x.json"}, "evaluation.relax is empty"),
        ({"relax_molecules": ["uff"]}, "'uff'; expected some of mmff, xtb"),
    ],
)
def test_settings_out_of_range(changes: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        replace(EvaluationConfig(), **changes).validate()


def test_spread() -> None:
    found = spread(np.array([np.nan, 1, 2, 3, 4, np.inf]))
    assert found is not None
    assert (found.n, found.lower, found.median, found.upper) == (4, 1.75, 2.5, 3.25)
    assert spread(np.array([np.nan])) is None
    assert rows([], MOLECULE).values == {}
