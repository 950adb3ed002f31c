"""Flow matching from noise (t = 0) to clean latents (t = 1), with draws that belong to their set.

docs/method.md; Lipman et al., arXiv 2210.02747. Every ``key_s`` is from ``randomness.set_keys``.
"""

from __future__ import annotations

import torch
from torch import Tensor

from adit_scale.atoms import PackedLayout
from adit_scale.models.transformer import expand_sets, mean_sets, sum_sets
from adit_scale.randomness import normal_atoms, uniform

T_MIN, T_MAX = 0.01, 0.99
T_LOSS_MAX = 0.9  # the loss weight 1/(1-t)^2 stops growing here


def centred_noise(key_s: Tensor, layout: PackedLayout, n_features: int) -> Tensor:
    """Standard normals ``(T, n_features)`` less the mean over their set; a one-atom set is not centred."""
    x_0_td = normal_atoms(key_s, layout.set_of_atom_t, layout.index_in_set_t, n_features)
    mean_sd = torch.where((layout.sizes_s > 1)[:, None], mean_sets(x_0_td, layout), 0.0)
    return x_0_td - expand_sets(mean_sd, layout)


def sample_times(key_s: Tensor) -> Tensor:
    """One time a set, uniform on [0.01, 0.99], ``(S,)``."""
    return T_MIN + (T_MAX - T_MIN) * uniform(key_s, 1)[:, 0]


def drop_labels(label_s: Tensor, key_s: Tensor, probability: float) -> Tensor:
    """Labels with a share of them set to 0, the null label; labels dropped by the same keys go together."""
    return torch.where(uniform(key_s, 1)[:, 0] < probability, torch.zeros_like(label_s), label_s)


def interpolate(x_0_td: Tensor, x_1_td: Tensor, t_s: Tensor, layout: PackedLayout) -> Tensor:
    """``x_t = (1 - t) x_0 + t x_1``, ``(T, d)``."""
    t_t1 = expand_sets(t_s[:, None], layout)
    return (1 - t_t1) * x_0_td + t_t1 * x_1_td


def flow_matching_loss(x1_hat_td: Tensor, x_1_td: Tensor, t_s: Tensor, layout: PackedLayout) -> Tensor:
    """The loss of each set, ``(S,)``; zero on the masked tail.

    The mean over the set's atoms and features of ``((x_1 - x1_hat) / (1 - min(t, 0.9)))^2``.
    """
    error_t = (x_1_td - x1_hat_td).square().mean(-1)
    loss_s = sum_sets(error_t, layout) / layout.sizes_s.clamp(min=1)
    return torch.where(layout.real_s, loss_s / (1 - t_s.clamp(max=T_LOSS_MAX)).square(), 0.0)
