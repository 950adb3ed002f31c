"""The lowest loss that finished runs reached at each compute.

Only ends of finished runs count: the learning rate of a run under way has not decayed, and an envelope of
such losses lies too high, most so for large sizes. It is drawn, never fitted: the fits of L(N, D) and the
IsoFLOP parabolas use all runs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from adit_scale.scaling.results import EnvelopePoint
from adit_scale.scaling.study_data import Point


def lower_envelope(points: Sequence[Point]) -> list[EnvelopePoint]:
    """The finished runs below which no other lies at their FLOPs or fewer, by FLOPs. Losses must compare."""
    envelope: list[EnvelopePoint] = []
    usable = [p for p in points if p.status == "done" and p.flops > 0 and 0 < p.final_loss < math.inf]
    for point in sorted(usable, key=lambda p: (p.flops, p.final_loss)):
        if not envelope or point.final_loss < envelope[-1].loss:
            envelope.append(EnvelopePoint(point.label, point.flops, point.n_parameters, point.final_loss))
    return envelope
