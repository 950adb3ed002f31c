"""Simulated studies with planted laws, as realistic as the noise of runs allows; used by the benchmarks of
fits.

Loss is (E + A·N^-α + B·D^-β)·exp(u + e): u of a run (shared by all points that decay from its trunk), e of a
point. Losses lie between 0.5 and 3 and E is 30 to 70% of them unless a design says otherwise.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Planted:
    """E, A, α, B, β. B = 0: runs that all see the same data."""

    offset: float
    scale: float
    exponent: float
    data_scale: float = 0.0
    data_exponent: float = 0.3

    def __call__(self, n: Array, d: Array) -> Array:
        return self.offset + self.scale * n**-self.exponent + self.data_scale * d**-self.data_exponent


@dataclass(frozen=True)
class Design:
    """sizes: N of each. seeds: runs of each size. budgets: D of each size, (sizes, K). trunk: the K points
    of a run share it. run_sd, point_sd: of log loss. note: what a reader must know."""

    name: str
    law: Planted
    sizes: tuple[float, ...]
    seeds: tuple[int, ...]
    budgets: tuple[tuple[float, ...], ...]
    run_sd: float
    point_sd: float
    trunk: bool = True
    note: str = ""

    @property
    def surface(self) -> bool:
        return self.law.data_scale > 0

    def simulate(self, rng: np.random.Generator) -> tuple[Array, Array, Array, NDArray[np.intp]]:
        """n, d, loss, run of each point, (P,)."""
        rows = [
            (n, d, (i, seed) if self.trunk else (i, seed, k))
            for i, (n, seeds, budgets) in enumerate(zip(self.sizes, self.seeds, self.budgets, strict=True))
            for seed in range(seeds)
            for k, d in enumerate(budgets)
        ]
        n, d = np.array([r[0] for r in rows]), np.array([r[1] for r in rows])
        names = {name: j for j, name in enumerate(dict.fromkeys(r[2] for r in rows))}
        run = np.array([names[r[2]] for r in rows])
        noise = self.run_sd * rng.standard_normal(len(names))[run] + self.point_sd * rng.standard_normal(
            len(n)
        )
        return n, d, self.law(n, d) * np.exp(noise), run


SMALL = Planted(0.3, 8.0, 0.25)  # losses 0.75 to 0.42 over the sizes below
LARGE = Planted(1.2, 60.0, 0.35)
SMALL_2 = Planted(0.3, 8.0, 0.25, 30.0, 0.3)
LARGE_2 = Planted(1.2, 60.0, 0.35, 100.0, 0.3)


def _one_d(
    name: str, law: Planted, span: tuple[float, float], seeds: tuple[int, ...], sd: float, note: str = ""
) -> Design:
    sizes = tuple(np.geomspace(*span, len(seeds)).tolist())
    return Design(name, law, sizes, seeds, ((4e7,),) * len(seeds), sd, 0.0, note=note)


def _grid(
    name: str,
    law: Planted,
    span: tuple[float, float],
    seeds: tuple[int, ...],
    noise: tuple[float, float] = (0.003, 0.002),
    per_parameter: float = 0.0,
    trunk: bool = True,
    note: str = "",
) -> Design:
    """Four D of a trunk: 1e7 to 8e7 atoms, or multiples of per_parameter · N."""
    sizes = tuple(np.geomspace(*span, len(seeds)).tolist())
    multiples = np.array([0.5, 1.0, 2.0, 4.0])
    budgets = tuple(
        tuple((multiples * (per_parameter * n if per_parameter else 2e7)).tolist()) for n in sizes
    )
    return Design(name, law, sizes, seeds, budgets, *noise, trunk=trunk, note=note)


def _isoflop(name: str, law: Planted, n_sizes: int, sd: float) -> Design:
    """Four compute budgets, each at every size: D = C / (6 N), runs of their own."""
    sizes = tuple(np.geomspace(1e5, 1e7, n_sizes).tolist())
    compute = np.geomspace(6e13, 1.6e15, 4)
    budgets = tuple(tuple((compute / (6.0 * n)).tolist()) for n in sizes)
    return Design(name, law, sizes, (1,) * n_sizes, budgets, sd, 0.0, trunk=False)


WIDE, REAL = (1e5, 2e7), (1.5e5, 5e6)  # 2.3 and 1.5 orders of magnitude
DESIGNS = (
    _one_d("L(N), 5 sizes, 1 seed", SMALL, WIDE, (1,) * 5, 0.003),
    _one_d("L(N), 6 sizes, 3 seeds at the three smallest", SMALL, WIDE, (3, 3, 3, 1, 1, 1), 0.003),
    _one_d("L(N), 6 sizes over 1.5 decades, 3 seeds at the three smallest", SMALL, REAL, (3, 3, 3, 1, 1, 1),
    0.003), _one_d("L(N), 7 sizes, 1 seed, noise 0.6%", LARGE, WIDE, (1,) * 7, 0.006),
    _one_d("L(N), 7 sizes, 2 seeds", LARGE, WIDE, (2,) * 7, 0.003),
    _grid("L(N, D), 5 sizes x 4 D of one trunk, 1 seed", SMALL_2, WIDE, (1,) * 5),
    _grid("L(N, D), 6 sizes x 4 D of one trunk, seeds 3, 3, 2, 1, 1, 1", SMALL_2, WIDE, (3, 3, 2, 1, 1, 1)),
    _grid("L(N, D), 7 sizes x 4 D of one trunk, 1 seed", LARGE_2, WIDE, (1,) * 7),
    _grid("L(N, D), 6 sizes x 4 D = multiples of N, 2 seeds", LARGE_2, WIDE, (2,) * 6, per_parameter=20.0),
    _isoflop("L(N, D), IsoFLOP: 6 sizes x 4 budgets, runs of their own", SMALL_2, 6, 0.003),
    _one_d("L(N), 6 sizes, 1 seed, no E", Planted(0.0, 3.0, 0.2), WIDE, (1,) * 6, 0.003,
           "E = 0 lies on its bound"),
    _one_d("L(N), 5 sizes over one decade, 1 seed, noise 0.6%", SMALL, (5e5, 5e6), (1,) * 5, 0.006,
           "E and alpha are not identified"),
    _grid("L(N, D), 5 sizes over one decade x 4 D of one trunk, noise 0.6%", SMALL_2, (5e5, 5e6), (1,) * 5,
          (0.006, 0.003), note="E and alpha are not identified"),
)  # fmt: skip
