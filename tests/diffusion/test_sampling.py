from __future__ import annotations

import pytest
import torch
from torch import Tensor

from adit_scale.atoms import PackedLayout
from adit_scale.diffusion.sampling import Conditions, sample_latents, sampling_noise, solve_latents
from adit_scale.diffusion.time_grids import time_grid
from adit_scale.models.config import DenoiserConfig
from adit_scale.models.dit import Denoiser

SIZE, DOMAIN = 6, 2  # of the sample that is watched, number 41


@pytest.fixture(scope="module")
def denoiser() -> Denoiser:
    torch.manual_seed(0)
    model = Denoiser(DenoiserConfig(width=64, depth=2, heads=2))
    with torch.no_grad():  # away from the zero start, at which every sample is zero
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return model


def drawn(
    denoiser: Denoiser, sizes: list[int], numbers: list[int], domains: list[int], fixed: bool, **options
) -> dict[int, Tensor]:
    """Latents by sample number of one batch."""
    capacities = {"capacity_atoms": 64, "capacity_sets": 12} if fixed else {}
    layout = PackedLayout.from_sizes(sizes, **capacities)
    spare = layout.n_sets - len(sizes)
    number_s = torch.tensor(numbers + [0] * spare)
    domain_s = torch.tensor(domains + [0] * spare)
    x_0_td = sampling_noise(5, number_s, layout, 8)
    out_td = sample_latents(
        denoiser, layout, domain_s, torch.zeros_like(domain_s), x_0_td, steps=12, **options
    )
    assert out_td.dtype == torch.float32
    return dict(zip(numbers, out_td.split(layout.sizes_s.tolist()), strict=False))


BATCHES = [
    ([SIZE], [41], [DOMAIN]),
    ([9, 9, SIZE, SIZE, 1], [2, 3, 41, 5, 6], [1, 2, DOMAIN, 1, 1]),
    ([20, 13, 8, SIZE, 4, 4, 4], [70, 41000, 9, 41, 1, 0, 8], [1, 1, 1, DOMAIN, 2, 2, 1]),
]


@pytest.mark.parametrize("guidance_scale", [1.0, 2.0])
def test_a_sample_is_the_same_in_any_batch(denoiser: Denoiser, guidance_scale: float):
    samples = [drawn(denoiser, *batch, False, guidance_scale=guidance_scale)[41] for batch in BATCHES]
    assert samples[0].shape == (SIZE, 8)
    assert samples[0].std() > 0.05
    for sample in samples[1:]:
        torch.testing.assert_close(sample, samples[0], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("guidance_scale", [1.0, 2.0])
def test_a_sample_is_the_same_bit_for_bit_at_fixed_capacities(denoiser: Denoiser, guidance_scale: float):
    samples = [drawn(denoiser, *batch, True, guidance_scale=guidance_scale)[41] for batch in BATCHES]
    for sample in samples[1:]:
        assert torch.equal(sample, samples[0])


def test_noise_starts_centred_and_differs_by_sample_and_seed():
    layout = PackedLayout.from_sizes((4, 4, 1))
    number_s = torch.tensor([0, 1, 2])
    x_0_td = sampling_noise(0, number_s, layout, 8)
    assert x_0_td[:4].mean(0).abs().max() < 1e-6
    assert x_0_td[8].abs().min() > 0
    assert (x_0_td[:4] - x_0_td[4:8]).abs().min() > 0
    assert (sampling_noise(1, number_s, layout, 8) - x_0_td).abs().min() > 0


def test_guidance_is_linear_in_its_scale():
    """With one evaluation the sample is uncond + s (cond - uncond), so s = 0, 1 and 3 lie on a line."""
    torch.manual_seed(0)
    model = Denoiser(DenoiserConfig(width=64, depth=1, heads=1))
    torch.nn.init.normal_(model.final.head.weight)
    torch.nn.init.normal_(model.final.modulation.weight)
    torch.nn.init.normal_(model.domain_embedding.weight)
    unconditional, conditional, far = (one_step(model, scale) for scale in (0.0, 1.0, 3.0))
    assert (conditional - unconditional).abs().max() > 0.01
    torch.testing.assert_close(far, unconditional + 3 * (conditional - unconditional), rtol=1e-4, atol=1e-4)


def one_step(model: Denoiser, guidance_scale: float) -> Tensor:
    layout = PackedLayout.from_sizes((5, 3))
    label_s = torch.tensor([1, 2])
    x_0_td = sampling_noise(0, label_s, layout, 8)
    return sample_latents(model, layout, label_s, label_s * 0, x_0_td, steps=1, guidance_scale=guidance_scale)


def test_a_perfect_denoiser_reaches_its_target():
    """One that always predicts the target is sampled exactly, and each step reports itself."""
    layout = PackedLayout.from_sizes((5, 3))
    target_td = torch.randn(8, 8)
    label_s = torch.tensor([1, 2])
    seen: list[tuple[float, Tensor]] = []
    conditioned_on: list[Tensor | None] = []

    class Perfect(Denoiser):
        def forward(
            self, x_td, self_conditioning_td, t_s, domain_s, spacegroup_s, layout, row_of_atom_t=None
        ):
            seen.append((float(t_s[0]), x_td))
            conditioned_on.append(self_conditioning_td)
            return target_td

    calls: list[int] = []
    sample = sample_latents(
        Perfect(DenoiserConfig(width=32, depth=1, heads=1)),
        layout,
        label_s,
        label_s * 0,
        torch.zeros(8, 8),
        steps=5,
        guidance_scale=1.0,
        on_step=lambda: calls.append(1),
    )
    assert torch.equal(sample, target_td)
    assert [t for t, _ in seen] == pytest.approx([0.01, 0.2575, 0.505, 0.7525, 1.0])
    assert conditioned_on[0] is None
    assert conditioned_on[1] is target_td
    assert len(calls) == 5
    # From zero at t = 0.01 the path to the target is a straight line, walked to its end.
    torch.testing.assert_close(seen[2][1], target_td * 0.5, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(seen[4][1], target_td, rtol=1e-5, atol=1e-6)


def test_guidance_acts_within_its_interval_alone(denoiser: Denoiser):
    """Outside only the conditional half is evaluated; ends of the interval belong to it."""
    layout = PackedLayout.from_sizes((5, 3))
    x_0_td = sampling_noise(0, torch.tensor([1, 2]), layout, 8)
    labels: list[int] = []

    class Watched(Denoiser):
        def forward(
            self, x_td, self_conditioning_td, t_s, domain_s, spacegroup_s, layout, row_of_atom_t=None
        ):
            labels.append(int(domain_s[0]))
            return super().forward(x_td, self_conditioning_td, t_s, domain_s, spacegroup_s, layout)

    watched = Watched(denoiser.config)
    watched.load_state_dict(denoiser.state_dict())
    times = time_grid(5)  # 0.01, 0.2575, 0.505, 0.7525, 1

    def drawn(low: float, high: float, scale: float = 3.0) -> Tensor:
        labels.clear()
        asked = Conditions.of_domain(2)
        return solve_latents(
            watched, layout, asked, x_0_td, times, guidance_scale=scale, guidance_interval=(low, high)
        )

    always, never = drawn(0.0, 1.0), drawn(0.6, 0.7)
    assert labels == [2] * 5
    assert torch.equal(never, drawn(0.0, 1.0, scale=1.0))
    some = drawn(times[1], times[2])
    assert labels == [2, 2, 0, 2, 0, 2, 2]
    assert (some - always).abs().max() > 1e-4
    assert (some - never).abs().max() > 1e-4


def test_rows_of_conditions_are_the_conditions_of_sets(denoiser: Denoiser):
    """One row for all, or a table of spacegroups, in place of one row a set."""
    torch.manual_seed(1)
    model = Denoiser(DenoiserConfig(width=64, depth=2, heads=2, spacegroup_conditioning=True))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    layout = PackedLayout.from_sizes((6, 4, 4, 1))
    spacegroup_s, domain_s = torch.tensor([225, 1, 0, 1]), torch.ones(4, dtype=torch.int64)
    x_0_td = sampling_noise(0, torch.arange(4), layout, 8)
    times = time_grid(4)
    a_row_a_set = solve_latents(model, layout, Conditions(domain_s, spacegroup_s), x_0_td, times)
    table = solve_latents(model, layout, Conditions.of_spacegroups(1, spacegroup_s, layout), x_0_td, times)
    torch.testing.assert_close(table, a_row_a_set, rtol=1e-5, atol=1e-5)
    none = solve_latents(model, layout, Conditions(domain_s, spacegroup_s * 0), x_0_td, times)
    one_row = solve_latents(model, layout, Conditions.of_domain(1), x_0_td, times)
    torch.testing.assert_close(one_row, none, rtol=1e-5, atol=1e-5)
    assert (none - a_row_a_set)[:6].abs().max() > 1e-3
