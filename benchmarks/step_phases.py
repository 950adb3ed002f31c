"""Which phase of a training step each moment belongs to: named ranges, and the profile's events under them.

Ranges stand around the modules of the denoiser (forward hooks) and around the parts of a step. What autograd
runs backward carries the sequence number of the operation that made it, so it is counted to that operation's
phase, marked BACKWARD. On a CPU an event's time is its own, children left out, the Python between operations
included; on CUDA it is that of the kernels it launched.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile, record_function

from adit_scale.models.dit import Denoiser

PREFIX = "phase: "
STEP = "step"
EMBEDDINGS, MODULATION, NORM = "embeddings", "modulation", "norm, shift, scale, gate"
PRODUCTS, ATTENTION, MLP, HEAD = "qkv and proj", "attention", "MLP", "head"
DATA, ENCODE, NOISE, SELF = "data wait", "encode", "augmentation, noise, labels", "self-conditioning forward"
LOSS, GRADIENTS, OPTIMIZER = "loss", "gradients summed and exchanged", "optimizer"
EMA, LOGGING, REST = "EMA", "logging", "rest"
BACKWARD = "backward"
NETWORK = (EMBEDDINGS, MODULATION, NORM, PRODUCTS, ATTENTION, MLP, HEAD)
# In the order of a step.
PHASES = (
    DATA, ENCODE, NOISE, SELF, *NETWORK, LOSS, *(f"{name}, {BACKWARD}" for name in (LOSS, *NETWORK)),
    GRADIENTS, OPTIMIZER, EMA, LOGGING, REST,
)  # fmt: skip
_ENGINE = "autograd::engine::evaluate_function"


def phase(name: str) -> AbstractContextManager:
    return record_function(PREFIX + name)


@contextmanager
def phases_of_network(network: Denoiser) -> Iterator[None]:
    """While it lasts, the denoiser's modules stand in ranges of their own."""
    places: list[tuple[nn.Module, str]] = [(network, EMBEDDINGS), (network.final, HEAD)]
    for block in network.blocks:
        places.append((block, NORM))
        places += [(block.get_submodule(name), of) for name, of in
                   (("modulation", MODULATION), ("attention", ATTENTION), ("attention.qkv", PRODUCTS),
                    ("attention.proj", PRODUCTS), ("mlp", MLP))]  # fmt: skip
    handles = [handle for module, name in places for handle in _hooked(module, name)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _hooked(module: nn.Module, name: str) -> list[Any]:
    """The network without gradient is the first of the two predictions of self-conditioning."""
    entered: list[AbstractContextManager] = []

    def before(*_: Any) -> None:
        first = isinstance(module, Denoiser) and not torch.is_grad_enabled()
        entered.append(phase(SELF if first else name))
        entered[-1].__enter__()

    def after(*_: Any) -> None:
        entered.pop().__exit__(None, None, None)

    return [module.register_forward_pre_hook(before), module.register_forward_hook(after)]


def profiled(run: Callable[[], None], device: torch.device) -> dict[str, float]:
    """Seconds of each phase while ``run`` works, which puts STEP around everything."""
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if device.type == "cuda" else [])]
    with profile(activities=activities) as found:
        run()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
    return _attributed(list(found.events()), device)


def _attributed(events: list[Any], device: torch.device) -> dict[str, float]:
    on_cpu = [e for e in events if e.device_type == torch.autograd.DeviceType.CPU]
    made = _made_in(on_cpu)
    seconds: dict[str, float] = defaultdict(float)
    for event in on_cpu:
        own_us = event.self_cpu_time_total if device.type == "cpu" else _kernels_us(event)
        if own_us and (name := _phase_of(event, made)):
            seconds[name] += own_us / 1e6
    return dict(seconds)


def _kernels_us(event: Any) -> float:
    """Of the kernels an event launched itself. A range has a copy of itself on the device, which is none."""
    return sum(kernel.duration for kernel in event.kernels if not kernel.name.startswith(PREFIX))


def _made_in(events: list[Any]) -> dict[int, str]:
    """Phase of forward operations by sequence number; the last with a number made the node."""
    made = {}
    for event in sorted(events, key=lambda e: e.time_range.start):
        if event.sequence_nr >= 0 and not _ancestor(event, _ENGINE) and (name := _range_of(event)):
            made[event.sequence_nr] = name
    return made


def _phase_of(event: Any, made: dict[int, str]) -> str:
    """ "" outside of a step."""
    node = _ancestor(event, _ENGINE)
    if node is None:
        found = _range_of(event)
        return REST if found == STEP else found
    if "AccumulateGrad" in node.name:
        return GRADIENTS
    origin = made.get(node.sequence_nr, "")
    backward = f"{origin}, {BACKWARD}"
    return backward if backward in PHASES else REST


def _range_of(event: Any) -> str:
    """The nearest range, but all of the self-conditioning pass is one."""
    names = []
    while event is not None:
        if event.name.startswith(PREFIX):
            names.append(event.name.removeprefix(PREFIX))
        event = event.cpu_parent
    return SELF if SELF in names else next(iter(names), "")


def _ancestor(event: Any, start: str) -> Any | None:
    """The outermost event above, or itself, whose name begins so."""
    found = None
    while event is not None:
        if event.name.startswith(start):
            found = event
        event = event.cpu_parent
    return found
