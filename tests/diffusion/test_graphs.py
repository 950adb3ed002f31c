"""Recorded evaluations give the bits of the code they were recorded from, in every batch.

No GPU is needed for that: ``Tape`` does what a CUDA graph does, on the CPU. It keeps every tensor operation
of one run, with the memory and the Python numbers of that run, and does them again on the same memory.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from adit_scale.atoms import CRYSTAL, MOLECULE
from adit_scale.diffusion.config import BATCH_ATOMS, SamplingConfig
from adit_scale.diffusion.generate import Sampler, draw_sizes, for_device, plan_batches
from adit_scale.diffusion.inference import why_no_graphs
from adit_scale.errors import ConfigError
from adit_scale.models.autoencoder import Autoencoder
from adit_scale.models.config import AutoencoderConfig, DenoiserConfig
from adit_scale.models.dit import Denoiser

HISTOGRAM = np.array([0, 1, 2, 4, 8, 8, 6, 5, 4, 3, 2, 2, 1])
FP32 = SamplingConfig(steps=5, batch_atoms=96, precision="fp32")


class Tape(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.done: list[tuple[Callable, tuple, dict, object]] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if not (is_view(func) and not func._schema.is_mutable):
            self.done.append((func, args, kwargs or {}, out))
        return out

    def again(self) -> None:
        for func, args, kwargs, out in self.done:
            found = func(*args, **kwargs)
            if is_view(func):  # in place: it is written
                continue
            for old, new in zip(flat(out), flat(found), strict=True):
                old.copy_(new)


def is_view(func) -> bool:
    return any(result.alias_info is not None for result in func._schema.returns)


def flat(out: object) -> list[Tensor]:
    return [x for x in (out if isinstance(out, tuple | list) else (out,)) if isinstance(x, Tensor)]


class TapeRecorder:
    def __init__(self) -> None:
        self.tapes: list[Tape] = []
        self.replays, self.closed = 0, False

    def record(self, run: Callable[[], None]) -> Callable[[], None]:
        run()
        self.tapes.append(tape := Tape())
        with tape:
            run()

        def again() -> None:
            assert not self.closed
            self.replays += 1
            with torch.no_grad():
                tape.again()

        return again

    def close(self) -> None:
        self.closed = True


@cache
def networks(spacegroups: bool = False, backend: str = "reference") -> tuple[Denoiser, Autoencoder]:
    """With attention that takes the sizes of sets from tensors alone, as FlashAttention does."""
    torch.manual_seed(0)
    shape = DenoiserConfig(name="t", width=64, depth=2, heads=2, spacegroup_conditioning=spacegroups)
    denoiser = Denoiser(shape, backend)
    for parameter in denoiser.parameters():  # adaLN-Zero starts as a constant: nothing to compare
        torch.nn.init.normal_(parameter, std=0.1)
    config = AutoencoderConfig(width=32, encoder_depth=1, decoder_depth=1, heads=2, feedforward=64)
    return denoiser.eval(), Autoencoder(config).eval()


def sizes(n: int) -> dict[int, np.ndarray]:
    return {domain: draw_sizes(HISTOGRAM, n, domain, seed=0) for domain in (CRYSTAL, MOLECULE)}


def latents(
    config: SamplingConfig, n: int, recorder: TapeRecorder | None, spacegroups: bool = False
) -> list[Tensor]:
    """Of every batch."""
    labels = {CRYSTAL: np.random.default_rng(0).integers(1, 231, n)} if spacegroups else None
    plans = plan_batches(sizes(n), config, labels)
    assert len(plans) >= 4
    with Sampler(networks(spacegroups)[0], config, plans, recorder) as sampler:
        return [sampler.latents(plan)[0] for plan in plans]


CASES = {
    "euler": ({}, 1),
    "bf16": ({"precision": "bf16"}, 1),
    "unguided": ({"guidance_scale": 1.0}, 1),
    "heun, guidance at some times": ({"solver": "heun", "guidance_t_low": 0.2, "guidance_t_high": 0.6}, 2),
    "midpoint, bf16": ({"solver": "midpoint", "guidance_t_high": 0.5, "precision": "bf16"}, 2),
    "few sets": ({"batch_sets": 7}, 1),
}


@pytest.mark.parametrize(("changes", "recordings"), CASES.values(), ids=CASES)
def test_recorded_evaluations_give_the_same_bits(changes: dict, recordings: int):
    """Batches of different mixes, 37 samples a domain; one recording serves all batches of both domains."""
    config = replace(FP32, **changes)
    recorder = TapeRecorder()
    found, expected = latents(config, 37, recorder), latents(config, 37, None)
    assert len(recorder.tapes) == recordings
    assert recorder.closed
    steps = config.steps if config.solver == "euler" else 2 * config.steps - 2
    assert recorder.replays == steps * len(found)
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
    assert len({float(x.sum()) for x in found}) == len(found)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_spacegroups_are_an_input(precision: str):
    """Crystals with a table of labels, molecules with one row: two shapes, each recorded once."""
    config, recorder = replace(FP32, precision=precision), TapeRecorder()
    found, expected = latents(config, 31, recorder, True), latents(config, 31, None, True)
    assert len(recorder.tapes) == 2
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def test_a_sample_larger_than_a_batch_has_a_recording_of_its_own():
    plans = plan_batches({MOLECULE: np.array([9] * 12 + [150])}, FP32)
    recorder = TapeRecorder()
    with Sampler(networks()[0], FP32, plans, recorder) as sampler:
        found = [sampler.latents(plan)[0] for plan in plans]
    expected = [Sampler(networks()[0], FP32, plans).latents(plan)[0] for plan in plans]
    assert len(recorder.tapes) == 2
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def test_batches_handed_over_late_are_the_same_in_the_same_order():
    denoiser, autoencoder = networks()
    plans = plan_batches(sizes(37), FP32)
    taken: list[int] = []

    def watched():
        for plan in plans:
            taken.append(plan.number)
            yield plan

    told: list[int] = []
    with Sampler(denoiser, FP32, plans, TapeRecorder(), late=1) as sampler:
        late = []
        for plan, batch in sampler.batches(autoencoder, watched(), lambda plan: told.append(plan.number)):
            assert len(taken) == min(plan.number + 2, len(plans))  # one is under way, where there is one
            late.append((plan, batch))
    at_once = list(Sampler(denoiser, FP32, plans).batches(autoencoder, plans))
    assert [plan.number for plan, _ in late] == [plan.number for plan in plans]
    assert told == [plan.number for plan in plans for _ in range(FP32.steps)]
    for (_, a), (_, b) in zip(late, at_once, strict=True):
        assert a.index_s.tolist() == b.index_s.tolist()
        assert torch.equal(a.decoded.positions_t3, b.decoded.positions_t3)
        assert torch.equal(a.decoded.lengths_s3, b.decoded.lengths_s3)


def test_without_a_device_for_them():
    denoiser, cpu, cuda = networks()[0], torch.device("cpu"), torch.device("cuda")
    bf16 = replace(FP32, precision="bf16")
    assert why_no_graphs(FP32, denoiser, cpu) == "the device is cpu"
    assert why_no_graphs(replace(bf16, cuda_graphs="off"), denoiser, cuda) == "sampling.cuda_graphs=off"
    by_groups = networks(backend="auto")[0]
    assert "in fp32 attention is grouped" in why_no_graphs(FP32, by_groups, cuda)
    assert "every batch has a shape" in why_no_graphs(replace(bf16, pad_batches=False), by_groups, cuda)
    for config, device, expected in (
        (replace(FP32, cuda_graphs="on"), cpu, "is 'on', but the device is cpu; expected 'auto' or 'off'"),
        (replace(FP32, cuda_graphs="on"), cuda, "'auto' or 'off', or sampling.precision=bf16"),
        (replace(FP32, compile=True), cpu, "sampling.compile is true, but the device is cpu; expected"),
    ):
        with pytest.raises(ConfigError) as caught:
            why_no_graphs(config, by_groups, device)
        assert expected in str(caught.value)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"cuda_graphs": "maybe"}, "sampling.cuda_graphs is 'maybe'; expected one of auto, on, off"),
        ({"cuda_graphs": "True"}, "a bare on or off; in a file write it as 'on' or 'off'"),
        ({"cuda_graphs": "on", "pad_batches": False}, "expected 'auto' or 'off', or pad_batches=true"),
        ({"compile": True, "cuda_graphs": "off"}, "sampling.compile is true without CUDA graphs"),
    ],
)
def test_bad_settings(changes: dict, expected: str):
    with pytest.raises(ConfigError) as caught:
        replace(FP32, **changes).validate()
    assert expected in str(caught.value)


def test_what_the_device_decides():
    config = SamplingConfig(precision="fp32")
    assert for_device(config, torch.device("cpu")).batch_atoms == BATCH_ATOMS["cpu"] == 1024
    assert for_device(config, torch.device("cuda")).batch_atoms == BATCH_ATOMS["cuda"] == 132 * 128
    assert for_device(replace(config, batch_atoms=7), torch.device("cuda")).batch_atoms == 7


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("compile_", [False, True], ids=["as written", "compiled"])
@pytest.mark.parametrize("changes", [case for case, _ in CASES.values()], ids=CASES)
def test_cuda_graphs_give_the_same_bits(changes: dict, compile_: bool):
    """Several batches of different mixes; compiled blocks round otherwise, so they are near only."""
    config = replace(FP32, **changes, precision="bf16")
    denoiser, autoencoder = (copy.deepcopy(network).cuda() for network in networks(backend="auto"))
    plans = plan_batches(sizes(37), config)

    def drawn(config: SamplingConfig) -> list[Tensor]:
        with Sampler(denoiser, config, plans) as sampler:
            return [b.decoded.positions_t3 for _, b in sampler.batches(autoencoder, plans)]

    eager = drawn(replace(config, cuda_graphs="off"))
    graphs = drawn(replace(config, cuda_graphs="on", compile=compile_))
    for a, b in zip(graphs, eager, strict=True):
        if compile_:
            torch.testing.assert_close(a, b, rtol=0.1, atol=0.1)
        else:
            assert torch.equal(a, b)
