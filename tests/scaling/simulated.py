"""Simulated studies: points of a planted law with seed noise, loss curves and rates."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from adit_scale.evaluation.statistics import Rate
from adit_scale.scaling.study_data import LossCurve, Point

SIZES = {
    "dit_32": 87_000,
    "dit_64": 410_000,
    "dit_128": 1_650_000,
    "dit_192": 4_200_000,
    "dit_256": 9_800_000,
}


def simulated_points(
    sizes: dict[str, int] | None = None,
    *,
    offset: float = 0.3,
    scale: float = 8.0,
    exponent: float = 0.25,
    noise: float = 0.003,
    seeds: Sequence[int] = (0,),
    atoms: int = 40_000_000,
    rng_seed: int = 0,
) -> list[Point]:
    """One point a size and seed: L = offset + scale·N^-exponent, times exp(noise·normal)."""
    rng = np.random.default_rng(rng_seed)
    return [
        _point(
            name,
            n,
            seed,
            (offset + scale * n**-exponent) * math.exp(noise * rng.standard_normal()),
            atoms,
            rng,
        )
        for name, n in (sizes or SIZES).items()
        for seed in seeds
    ]


def _point(size: str, n: int, seed: int, loss: float, atoms: int, rng: np.random.Generator) -> Point:
    flops = 6.6 * n * atoms
    share = np.linspace(0.02, 1, 40)
    decay = np.where(share > 0.7, 0.06 * (1 - share) / 0.3, 0.06)  # the last part of the schedule pays off
    curve = loss * (1 + decay + 0.5 * (share**-0.35 - 1)) * np.exp(0.004 * rng.standard_normal(40))
    curve[-1] = loss
    steps = (share * 3000).astype(int).tolist()
    quality = math.log10(n) - 6.2

    def rate(logit: float, trials: int = 1000) -> Rate:
        return Rate(int(rng.binomial(trials, 1 / (1 + math.exp(-logit)))), trials)

    rates = {
        "molecule/edm_validity": rate(-1.0 + 0.02 * quality),
        "molecule/edm_molecule_stability": rate(-4.0 + 0.6 * quality),
        "crystal/validity": rate(0.8 + 0.7 * quality),
        "crystal/structural_validity": rate(1.9 + 0.9 * quality),
        "crystal/compositional_validity": rate(1.5 + 0.4 * quality),
    }
    return Point(
        label=f"{size}-seed{seed}",
        size=size,
        n_parameters=n,
        n_matrix_parameters=int(0.93 * n),
        atoms_seen=atoms,
        sets_seen=atoms // 18,
        epochs=atoms / 18 / 15_000,
        flops=flops,
        flops_total=flops + 2e6 * atoms,
        seed=seed,
        final_loss=loss,
        constant_loss=27.5,
        curve=LossCurve(steps, (share * flops).tolist(), curve.tolist()),
        rates=rates,
        autoencoder_id="a1b2c3d4",
        data_fingerprint="5e6f",
    )


REFERENCE = {
    "molecule/edm_validity": Rate(980, 1000),
    "molecule/edm_molecule_stability": Rate(958, 1000),
    "crystal/validity": Rate(884, 1000),
    "crystal/structural_validity": Rate(1000, 1000),
    "crystal/compositional_validity": Rate(884, 1000),
}


FULL_SIZES = {
    "dit_32": 87_000,
    "dit_64": 410_000,
    "dit_96": 1_020_000,
    "dit_128": 1_950_000,
    "dit_192": 5_900_000,
    "dit_256": 13_600_000,
}
FULL_LAW = {"E": 0.45, "A": 18.0, "alpha": 0.31, "B": 420.0, "beta": 0.43}
ATOMS = 40_000_000  # D of most runs; a branch at multiple m saw m times as much
UNIQUE_ATOMS = 12e6
RUN_NOISE, POINT_NOISE = 0.004, 0.002  # of log loss: between trunks (seeds), between decays of one trunk
# What the loss of a domain is to that of both: (factor of E, factor of the rest, exponent's change).
DOMAIN_LAWS = {"molecule": (0.8, 0.9, 0.03), "crystal": (1.25, 1.15, -0.02)}
PEAK_FLOPS = 2e11  # of the machine
BUDGETS = (6e13, 2.4e14, 9.6e14)
LEARNING_RATES = (2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 1e-2)


def full_loss(n: float, d: float, domain: str = "") -> float:
    """The planted law of ``full_study``: L = E + A·N^-α + B·D^-β, of both domains or of one."""
    law = FULL_LAW
    offset, rest, steeper = DOMAIN_LAWS.get(domain, (1.0, 1.0, 0.0))
    size = law["A"] * n ** -law["alpha"] * (n / 1e6) ** -steeper
    return offset * law["E"] + rest * (size + law["B"] * d ** -law["beta"])


def best_rate(n: float) -> float:
    """The planted optimum of the learning rate."""
    return 2.5e-3 * (n / 1e6) ** -0.28


def full_study(rng_seed: int = 0) -> list[Point]:
    """Every design in one study: sizes × data (decays of trunks), seeds, budgets, learning rates, domains,
    sampling, autoencoders; a run that diverged, one that is unfinished. About 110 points.

    Losses follow ``full_loss`` with RUN_NOISE and POINT_NOISE; rates are binomial in their domain's.
    """
    rng = np.random.default_rng(rng_seed)
    points = [*_trunks(rng), *_seeds(rng), *_budgets(rng), *_rates_of_learning(rng), *_domains(rng)]
    points += [*_sampling(rng, points), *_autoencoders(rng), *_unfinished(rng)]
    return points


def full_ceilings() -> dict[str, dict[str, Rate]]:
    """Rates of the real data, and of the real data after the autoencoder."""
    real = {**REFERENCE, "molecule/edm_atom_stability": Rate(17_860, 18_000, effective_trials=4000)}
    kept = {name: ceiling for name, (*_, ceiling) in RATE_LAWS.items() if ceiling < 1}
    reconstructed = {name: Rate(round(1000 * ceiling), 1000) for name, ceiling in kept.items()}
    return {"real data, reconstructed": reconstructed, "real data": real}


def _trunks(rng: np.random.Generator) -> list[Point]:
    """Each size at four amounts of data, as decays of one trunk."""
    points = []
    for size, n in FULL_SIZES.items():
        deviation = RUN_NOISE * rng.standard_normal()
        for multiple in (0.5, 1, 2, 4):
            label = f"{size}-seed0-d{multiple:g}"
            points.append(
                full_point(rng, label, size, n, multiple * ATOMS, deviation=deviation,
                           trunk=f"trunk-{size}", axes={"sweep.decays": multiple})
            )  # fmt: skip
    return points


def _seeds(rng: np.random.Generator) -> list[Point]:
    """Two more seeds of the four smallest sizes."""
    return [
        full_point(rng, f"{size}-seed{seed}", size, FULL_SIZES[size], ATOMS, seed=seed, axes={"seed": seed})
        for size in list(FULL_SIZES)[:4]
        for seed in (1, 2)
    ]


def _budgets(rng: np.random.Generator) -> list[Point]:
    points = []
    for budget in BUDGETS:
        for size, n in FULL_SIZES.items():
            atoms = budget / flops_an_atom(n)
            if 2e6 <= atoms <= 1e9:
                label = f"{size}-c{budget:.2g}"
                axes = {"sweep.budgets_flops": budget}
                points.append(full_point(rng, label, size, n, atoms, axes=axes, scored=False))
    return points


def _rates_of_learning(rng: np.random.Generator) -> list[Point]:
    points = []
    for size in ("dit_32", "dit_96", "dit_192"):
        n = FULL_SIZES[size]
        for lr in LEARNING_RATES:
            off = math.log10(lr / best_rate(n))
            deviation = 0.06 * off**2 + RUN_NOISE * rng.standard_normal()
            points.append(
                full_point(rng, f"{size}-lr{lr:g}", size, n, ATOMS, deviation=deviation, lr=lr,
                           axes={"diffusion.optim.lr": lr}, scored=False)
            )  # fmt: skip
    return points


def _domains(rng: np.random.Generator) -> list[Point]:
    """One domain alone: joint training helps crystals by 3% of the loss, and molecules by nothing."""
    gain = {"molecule": 0.0, "crystal": 0.03}
    return [
        full_point(rng, f"{size}-{domain}-{match}-seed{seed}", size, FULL_SIZES[size], ATOMS, seed=seed,
                   deviation=gain[domain] + RUN_NOISE * rng.standard_normal(), domain=domain, match=match)
        for size in ("dit_64", "dit_128", "dit_192")
        for domain in gain
        for match in ("flops", "samples")
        for seed in ((0, 1, 2) if size == "dit_64" else (0,))
    ]  # fmt: skip


def _sampling(rng: np.random.Generator, trained: Sequence[Point]) -> list[Point]:
    """Two of the runs, sampled with other numbers of steps and solvers."""
    points = []
    by_label = {p.label: p for p in trained}
    for size in ("dit_64", "dit_192"):
        of = by_label[f"{size}-seed0-d1"]
        for solver in ("euler", "heun"):
            for steps in (10, 25, 50, 100, 250):
                worse = (60.0 if solver == "euler" else 12.0) / steps**1.5
                points.append(
                    replace(of, label=f"{size}-{solver}-{steps}", sampling_steps=steps, solver=solver,
                            axes={"sampling.steps": steps, "sampling.solver": solver},
                            rates=_rates(rng, of.domain_losses, worse))
                )  # fmt: skip
    return points


def _autoencoders(rng: np.random.Generator) -> list[Point]:
    return [
        full_point(rng, f"dit_128-ae{width}x{latent}", "dit_128", FULL_SIZES["dit_128"], ATOMS,
                   autoencoder={"width": width, "latent": latent, "parameters": 18 * width**2 * 6},
                   deviation=0.1 * math.log(8 / latent))
        for width, latent in ((64, 8), (256, 8), (128, 4), (128, 16))
    ]  # fmt: skip


def _unfinished(rng: np.random.Generator) -> list[Point]:
    n = FULL_SIZES["dit_256"]
    failed = full_point(rng, "dit_256-lr3e-2", "dit_256", n, 0.3 * ATOMS, lr=3e-2)
    running = full_point(rng, "dit_256-seed1", "dit_256", n, 0.6 * ATOMS, seed=1)
    lost = {"final_loss": math.nan, "rates": {}, "domain_losses": {}}
    note = "loss was nan at 26 steps in a row"
    return [
        replace(failed, status="diverged", note=note, restarts=2, **lost),
        replace(running, status="unfinished", note="has not reached its last step", **lost),
    ]


def flops_an_atom(n: float) -> float:
    return 6.6 * n


def full_point(
    rng: np.random.Generator,
    label: str,
    size: str,
    n: int,
    atoms: float,
    *,
    deviation: float | None = None,
    domain: str = "",
    match: str = "",
    scored: bool = True,
    autoencoder: dict[str, Any] | None = None,
    **others: Any,
) -> Point:
    """A finished point with every field filled. deviation: of log loss from the law, before POINT_NOISE.

    others: further fields.
    """
    deviation = RUN_NOISE * rng.standard_normal() if deviation is None else deviation
    factor = math.exp(deviation + POINT_NOISE * rng.standard_normal())
    loss = full_loss(n, atoms) * factor
    domain_losses = {name: full_loss(n, atoms, name) * factor for name in DOMAIN_LAWS}
    if domain:
        other = next(name for name in DOMAIN_LAWS if name != domain)
        domain_losses[other] *= 4  # never trained on
        loss = sum(domain_losses.values()) / 2
    shape = autoencoder or {"width": 128, "latent": 8, "parameters": 1_650_000}
    seconds_an_atom = (flops_an_atom(n) + 2e7) / PEAK_FLOPS
    mfu = flops_an_atom(n) / (seconds_an_atom * PEAK_FLOPS) * math.exp(0.02 * rng.standard_normal())
    planned = atoms * (flops_an_atom(n) + 2e6) / (0.5 * PEAK_FLOPS) / 3600
    restarts = int(rng.poisson(0.15))
    share = {"molecule": 0.62, "crystal": 0.38} if not domain else {domain: 1.0}
    if match == "samples":
        share = {domain: {"molecule": 0.62, "crystal": 0.38}[domain]}
    seen = atoms * sum(share.values())
    steps = max(int(atoms / 13_000), 100)
    return Point(
        label=label,
        size=size,
        n_parameters=n,
        n_matrix_parameters=int(0.93 * n),
        atoms_seen=int(seen),
        sets_seen=int(seen / 18),
        epochs=seen / UNIQUE_ATOMS,
        flops=flops_an_atom(n) * seen,
        flops_total=(flops_an_atom(n) + 2e6) * seen,
        final_loss=loss,
        constant_loss=27.5,
        curve=_full_curve(rng, loss, domain_losses, seen, flops_an_atom(n), steps),
        rates=_rates(rng, domain_losses, 0.0) if scored else {},
        autoencoder_id=f"ae{shape['width']}x{shape['latent']}",
        data_fingerprint="5e6f",
        study="full",
        run=label,
        warmup_steps=100,
        steps=steps,
        domain=domain,
        domain_match=match,
        domain_losses=domain_losses,
        domain_atoms={name: part * atoms for name, part in share.items()},
        domain_sets={name: part * atoms / 18 for name, part in share.items()},
        unique_atoms=UNIQUE_ATOMS,
        validation_grid="9c41",
        train_loss=loss * (0.985 - 0.012 * seen / UNIQUE_ATOMS * (n / 1.36e7) ** 0.4),
        autoencoder=shape,
        sampling_steps=100,
        guidance=2.0,
        solver="euler",
        gpu_hours=planned * (1.12 + 0.3 * restarts) * math.exp(0.08 * rng.standard_normal()),
        planned_gpu_hours=planned,
        restarts=restarts,
        atoms_per_s=1 / seconds_an_atom * math.exp(0.02 * rng.standard_normal()),
        mfu=mfu,
        devices="2 cores",
        leakage={"molecule": 0.0, "crystal": 0.002},
        training_rates=_training_rates(rng, domain_losses, seen) if scored and not domain else {},
        **({"lr": best_rate(n), "schedule": "wsd"} | others),
    )


def _full_curve(
    rng: np.random.Generator,
    loss: float,
    domain_losses: dict[str, float],
    atoms: float,
    cost: float,
    steps: int,
) -> LossCurve:
    share = np.linspace(0.02, 1, 40)
    decay = np.where(share > 0.7, 0.06 * (1 - share) / 0.3, 0.06)
    shape = (1 + decay + 0.5 * (share**-0.35 - 1)) * np.exp(0.004 * rng.standard_normal(40))
    shape[-1] = 1.0
    seen = share * atoms
    return LossCurve(
        steps=(share * steps).astype(int).tolist(),
        flops_cum=(seen * cost).tolist(),
        loss=(loss * shape).tolist(),
        atoms=seen.tolist(),
        train=(loss * shape * (0.985 - 0.01 * seen / UNIQUE_ATOMS)).tolist(),
        domain={name: (value * shape).tolist() for name, value in domain_losses.items()},
    )


# (domain, logit at a loss of 0.9, change of the logit per unit of loss, ceiling)
RATE_LAWS = {
    "molecule/edm_validity": ("molecule", 1.6, -3.5, 0.93),
    "molecule/edm_atom_stability": ("molecule", 2.4, -3.0, 0.97),
    "molecule/edm_molecule_stability": ("molecule", -0.6, -5.0, 0.86),
    "molecule/edm_uniqueness": ("molecule", 4.5, 0.5, 1.0),
    "molecule/edm_novelty": ("molecule", 0.9, 0.4, 1.0),
    "crystal/validity": ("crystal", 1.2, -2.5, 0.87),
    "crystal/structural_validity": ("crystal", 2.6, -3.0, 0.995),
    "crystal/compositional_validity": ("crystal", 2.0, -1.2, 0.874),
    "crystal/uniqueness": ("crystal", 3.8, 0.3, 1.0),
    "crystal/novelty": ("crystal", 2.2, 0.6, 1.0),
}


def true_rate(name: str, loss: float, worse: float = 0.0) -> float:
    """The planted rate at a domain's loss; ``worse`` is taken from the logit."""
    _, logit, slope, ceiling = RATE_LAWS[name]
    return ceiling / (1 + math.exp(-(logit + slope * (loss - 0.9) - worse)))


def _rates(rng: np.random.Generator, losses: dict[str, float], worse: float) -> dict[str, Rate]:
    rates = {}
    for name, (domain, *_) in RATE_LAWS.items():
        chance = true_rate(name, losses[domain], worse)
        worth = 4000.0 if name.endswith("atom_stability") else None
        trials = 18_000 if worth else 1000
        rates[name] = Rate(int(rng.binomial(trials, chance)), trials, effective_trials=worth)
    return rates


def _training_rates(
    rng: np.random.Generator, losses: dict[str, float], atoms: float
) -> dict[str, list[list[float]]]:
    rows: dict[str, list[list[float]]] = {}
    for name in ("molecule/edm_validity", "crystal/validity"):
        rows[name] = []
        for share in (0.2, 0.4, 0.6, 0.8, 1.0):
            chance = true_rate(name, losses[RATE_LAWS[name][0]] * share**-0.2)
            rate = Rate(int(rng.binomial(200, chance)), 200)
            rows[name].append([share * atoms, rate.value, *rate.interval])
    return rows
