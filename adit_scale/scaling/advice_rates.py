"""Rates at losses that no run has reached yet, through the fitted link of loss and rate."""

from __future__ import annotations

import numpy as np
from scipy.special import expit, logit

from adit_scale.scaling.results import Estimate, Interval, LossLink

EDGE = 1e-6  # logits of rates nearer to 0 or to the ceiling have no digits left


def link_rate(link: LossLink, loss: Estimate) -> Estimate | None:
    """The rate at a predicted loss; None where the rate was not found to follow the loss.

    The link's band is a hyperbola on the logit scale: its squared half-width is quadratic in the loss, which
    carries it beyond the losses seen. The loss's own interval is added in quadrature. identified: False
    beyond the losses that the link was fitted on.
    """
    if not link.midpoint.identified or link.midpoint.interval is None:
        return None
    eta = (link.midpoint.value - loss.value) / link.width.value
    value = float(link.ceiling * expit(eta))
    inside = bool(link.curve[0][0] <= loss.value <= link.curve[0][-1])
    half = _half_width(link, loss.value)
    if half is None or loss.interval is None:
        return Estimate(value, identified=inside)
    own = (loss.interval.high - loss.interval.low) / 2 / link.width.value
    half = float(np.hypot(half, own))
    low, high = (float(link.ceiling * expit(eta + sign * half)) for sign in (-1, 1))
    return Estimate(value, Interval(low, high), identified=inside)


def _half_width(link: LossLink, at: float) -> float | None:
    """Of the link's interval at a loss, in logits of rate over ceiling."""
    loss, _, low, high = (np.asarray(column, dtype=float) for column in link.curve)
    low, high = low / link.ceiling, high / link.ceiling
    kept = (low > EDGE) & (high < 1 - EDGE)
    if kept.sum() < 3:
        return None
    squares = ((logit(high[kept]) - logit(low[kept])) / 2) ** 2
    centre = loss[kept].mean()
    quadratic = np.polyfit(loss[kept] - centre, squares, 2)
    return float(np.sqrt(max(0.0, float(np.polyval(quadratic, at - centre)))))
