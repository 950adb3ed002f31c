"""What a real atom of training costs: as measured where runs are, by the ladder's formula beyond."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from adit_scale.models.ladder import LADDER, denoiser_parameters, training_flops
from adit_scale.scaling.results import Array, ModelCost

# The formula stands for shapes alone: what sets of other sizes do to it is in the measured ratio.
NOMINAL_ATOMS = 16
NOMINAL_SELF_CONDITIONING = 0.5


class AtomCost:
    """C_total a real atom at N parameters: the denoiser's C and the frozen encoder's forward.

    The encoder's share does not depend on N. The denoiser's is the formula of models/ladder.py, log-log
    between the ladder's rungs and in proportion to N beyond the largest, times what the study's runs measured
    over that formula: log-log between measured sizes, and as at the nearest one outside of them.
    """

    def __init__(self, costs: Sequence[ModelCost]) -> None:
        assert costs
        ordered = sorted(costs, key=lambda c: c.n_parameters)
        self.encoder = float(np.median([c.flops_total_an_atom - c.flops_an_atom for c in ordered]))
        rungs = sorted(LADDER.values(), key=denoiser_parameters)
        self._n = np.log([denoiser_parameters(rung) for rung in rungs])
        flops = [training_flops(rung, [NOMINAL_ATOMS], NOMINAL_SELF_CONDITIONING) for rung in rungs]
        self._flops = np.log(flops) - np.log(NOMINAL_ATOMS)
        self._first_slope = (self._flops[1] - self._flops[0]) / (self._n[1] - self._n[0])
        self._measured_n = np.log([c.n_parameters for c in ordered])
        measured = np.log([c.flops_an_atom for c in ordered])
        self._measured_ratio = measured - self._formula(self._measured_n)

    def __call__(self, n: Array | float) -> Array:
        """FLOPs a real atom at ``n`` parameters, of any shape."""
        at = np.log(np.asarray(n, dtype=float))
        ratio = np.interp(at, self._measured_n, self._measured_ratio)
        return self.encoder + np.exp(self._formula(at) + ratio)

    def _formula(self, log_n: Array) -> Array:
        inside = np.interp(log_n, self._n, self._flops)
        above, below = np.maximum(log_n - self._n[-1], 0), np.minimum(log_n - self._n[0], 0)
        return inside + above + self._first_slope * below
