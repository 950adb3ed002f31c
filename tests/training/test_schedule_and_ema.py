"""Rates and averages by the numbers."""

from __future__ import annotations

import pytest
import torch

from adit_scale.training.config import OptimConfig
from adit_scale.training.ema import ExponentialMovingAverage
from adit_scale.training.engine import Fragment
from adit_scale.training.schedule import learning_rate


def test_warm_up_then_wsd():
    optim = OptimConfig(lr=1.0, warmup_steps=10, schedule="wsd", decay_fraction=0.2, final_lr_fraction=0.1)
    rates = [learning_rate(step, 100, optim) for step in range(100)]
    assert rates[0] == pytest.approx(0.1)
    assert rates[9:80] == [1.0] * 71
    assert rates[90] == pytest.approx(0.1 + 0.9 * 0.5)
    assert rates[99] == pytest.approx(0.1 + 0.9 * 0.05)


def test_cosine_and_constant():
    cosine = OptimConfig(lr=2.0, schedule="cosine")
    assert learning_rate(0, 10, cosine) == pytest.approx(2.0)
    assert learning_rate(5, 10, cosine) == pytest.approx(1.0)
    assert learning_rate(7, 10, OptimConfig(lr=3.0)) == 3.0


def test_ema_ramps_up_to_its_decay():
    fragment = Fragment("w", 0, torch.zeros(2), torch.zeros(2), torch.zeros(2))
    ema = ExponentialMovingAverage([fragment], decay=0.2)
    fragment.master.fill_(1.0)
    ema.update([fragment])  # decay 1/10
    assert ema.average[0].tolist() == pytest.approx([0.9, 0.9])
    ema.update([fragment])  # decay 2/11
    assert ema.average[0].tolist() == pytest.approx([1 - 0.1 * 2 / 11] * 2)
    ema.update([fragment])  # decay min(0.2, 3/12)
    assert ema.average[0].tolist() == pytest.approx([1 - 0.1 * 2 / 11 * 0.2] * 2)
