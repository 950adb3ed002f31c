"""Joint training against one domain alone."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest

from adit_scale.scaling.fit import fit_points
from adit_scale.scaling.model_costs import model_costs
from adit_scale.scaling.surface import fit_surface
from adit_scale.scaling.transfer import transfer_pairs
from tests.scaling.handmade import hand_point, noisy

SIZES = (1e5, 3e5, 1e6, 3e6, 1e7)
ATOMS = 4e7


def domain_loss(n):
    return 0.4 + 12 * n**-0.3


def run(n, domain="", match="", *, seed=0, factor=1.0, atoms=ATOMS, crystal=0.0, **fields):
    """Joint: half of its sets are crystals. crystal: their loss, or ``factor`` times the planted one."""
    share = {"crystal": atoms / 36, "molecule": atoms / 36} if not domain else {domain: atoms / 18}
    return hand_point(
        n,
        atoms,
        seed=seed,
        label=f"{n:g}-{domain or 'joint'}-{match}-{seed}",
        domain=domain,
        domain_match=match,
        domain_sets=share,
        domain_losses={"crystal": crystal or domain_loss(n) * factor, "molecule": 1.0},
        **fields,
    )


def crystal_law(points):
    joint = [dataclasses.replace(p, final_loss=p.domain_losses["crystal"]) for p in points if not p.domain]
    return {"crystal": fit_points(joint, bootstrap=200)}


def test_the_difference_its_noise_and_the_verdict():
    gains = {"flops": 0.03, "samples": -0.03}
    noise = noisy(0.004)
    points = [run(1e6, seed=s, factor=noise(1.0)) for s in range(3)]
    for match, gain in gains.items():
        atoms = ATOMS if match == "flops" else ATOMS / 2
        points += [
            run(1e6, "crystal", match, seed=s, atoms=atoms, factor=noise(math.exp(gain))) for s in range(3)
        ]
    pairs = {p.match: p for p in transfer_pairs(points, {}, [])}
    for match, gain in gains.items():
        assert -gain in pairs[match].delta.interval
        assert pairs[match].delta.value == pytest.approx(-gain, abs=0.01)
    assert (pairs["flops"].verdict, pairs["samples"].verdict) == ("helps", "hurts")
    assert (pairs["flops"].n_joint, pairs["flops"].n_single) == (3, 3)
    assert "paired (4 degrees of freedom)" in pairs["flops"].note


def test_a_gain_below_the_noise_is_within_noise():
    noise = noisy(0.004)
    points = [run(1e6, d, seed=s, factor=noise(1.0)) for d in ("", "crystal") for s in range(3)]
    (pair,) = transfer_pairs(points, {}, [])
    assert pair.match == "flops"
    assert pair.verdict == "within noise"


def test_intervals_cover_with_and_without_shared_seeds():
    inside = []
    for k in range(150):
        noise = noisy(0.004, k)
        joint = [run(n, seed=s, factor=noise(1.0)) for n in SIZES[:3] for s in range(2)]
        single = [run(n, "crystal", seed=s, factor=noise(1.02)) for n in SIZES[:3] for s in range(2)]
        alone = [run(SIZES[3], factor=noise(1.0)), run(SIZES[3], "crystal", seed=9, factor=noise(1.02))]
        pairs = transfer_pairs([*joint, *single, *alone], {}, [])
        assert len(pairs) == 4
        inside += [-math.log(1.02) in p.delta.interval for p in pairs]
    assert 0.92 <= np.mean(inside) <= 0.98


def test_one_seed_each_tells_no_verdict_unless_the_noise_is_given():
    points = [run(1e6), run(1e6, "crystal", factor=1.02)]
    (pair,) = transfer_pairs(points, {}, [])
    assert pair.verdict == "unknown"
    assert pair.delta.interval is None
    (pair,) = transfer_pairs(points, {}, [], seed_sigma=0.002)
    assert pair.verdict == "helps"
    half = 1.959964 * 0.002 * math.sqrt(2)
    assert pair.delta.interval.high == pytest.approx(-math.log(1.02) + half, rel=1e-5)


def test_the_multiplier_is_the_compute_of_the_same_loss():
    noise = noisy(0.001)
    joint = [run(n, seed=s, factor=noise(1.0)) for n in SIZES for s in range(2)]
    # Alone, 1e6 parameters reach what the joint law reaches with 5e5: half the compute at C = 6 N D.
    factor = domain_loss(5e5) / domain_loss(1e6)
    single = [run(1e6, "crystal", "flops", seed=s, factor=noise(factor)) for s in range(2)]
    points = [*joint, *single]
    (pair,) = transfer_pairs(points, crystal_law(points), model_costs(joint))
    assert pair.multiplier.value == pytest.approx(0.5, rel=0.03)
    assert 0.5 in pair.multiplier.interval
    assert pair.multiplier.interval.high < 1
    assert "times the compute of the run on crystals alone" in pair.note


def test_no_compute_reaches_a_loss_below_the_offset():
    joint = [run(n, seed=s) for n in SIZES for s in range(2)]
    points = [*joint, run(1e6, "crystal", "flops", factor=0.5)]
    (pair,) = transfer_pairs(points, crystal_law(points), model_costs(joint))
    assert pair.multiplier is None
    assert "more than 100 times" in pair.note


@pytest.mark.parametrize(
    "change",
    [
        {"lr": 3e-3},
        {"n_parameters": 1_100_000},
        {"flops": 9e14},
        {"domain_losses": {}},
        {"status": "failed"},
        {"autoencoder_id": "other"},
    ],
)
def test_runs_that_differ_otherwise_are_no_pair(change):
    single = dataclasses.replace(run(1e6, "crystal", "flops"), **change)
    assert transfer_pairs([run(1e6), single], {}, []) == []


def test_with_a_surface_the_multiplier_is_longer_training():
    def loss(n, d):
        return 0.3 + 10 * n**-0.3 + 60 * d**-0.3

    noise = noisy(0.0005)
    atoms = (1e7, 2e7, 4e7, 8e7, 1.6e8)
    joint = [run(n, atoms=d, crystal=noise(loss(n, d))) for n in SIZES for d in atoms]
    # Alone, 4e7 atoms reach what joint training reaches with 2e7 at the same size.
    single = run(1e6, "crystal", "flops", crystal=loss(1e6, 2e7))
    crystal = [dataclasses.replace(p, final_loss=p.domain_losses["crystal"]) for p in joint]
    law = {"crystal": fit_surface(crystal, bootstrap=200, hold_out_largest=False)}
    (pair,) = transfer_pairs([*joint, single], law, model_costs(joint), seed_sigma=0.0005)
    assert pair.multiplier.value == pytest.approx(0.5, rel=0.03)
    assert 0.5 in pair.multiplier.interval
    assert "longer training" in pair.note
