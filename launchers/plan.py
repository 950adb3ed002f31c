"""``adit plan``: what a run needs, before it is started: memory of a rank, and time of a step on GPUs.

    adit plan memory model=dit_l parallel.zero_stage=2 parallel.world_size=8 [key=value ...]
    adit plan step model=dit_l parallel.world_size=64 [budget.network=nvlink_ib] [key=value ...]

``model`` is short for ``model/denoiser``. Of memory alone: stage=autoencoder plans the other stage, and
device=cpu is for bf16 without FlashAttention. A step is a model's (adit_scale/performance), of budget.gpu and
budget.network. Everything else is an override of settings as launch.py takes it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from adit_scale.errors import ConfigError
from adit_scale.training.memory import MemoryPlan, plan_memory
from launchers.train import one_run

GIB = 2**30
STAGES, DEVICES = ("autoencoder", "diffusion"), ("cuda", "cpu")
USAGE = (__doc__ or "").partition("\n\n")[2]


def main(words: Sequence[str], prog: str = "adit plan") -> int:
    """Print the plan. Raises ConfigError."""
    if not words or {"-h", "--help"} & set(words):
        print(f"usage: {prog} memory|step KEY=VALUE ...\n\n{USAGE}", end="")
        return 0
    if words[0] == "step":
        from launchers.plan_step import plan_step

        print(plan_step(one_run(_overrides(words[1:]))))
        return 0
    if words[0] != "memory":
        raise ConfigError(f"{words[0]}: no such plan; expected memory or step")
    return _memory(words[1:])


def _overrides(words: Sequence[str]) -> list[str]:
    """Settings as launch.py takes them, in bf16 unless they say otherwise."""
    words = [f"model/denoiser={w.removeprefix('model=')}" if w.startswith("model=") else w for w in words]
    return ["parallel.precision=bf16", *words]


def _memory(words: Sequence[str]) -> int:
    own = {"stage": "diffusion", "device": "cuda"}
    overrides = _overrides([word for word in words if word.partition("=")[0] not in own])
    for word in words:
        key, _, value = word.partition("=")
        if key in own:
            own[key] = value
    for key, known in (("stage", STAGES), ("device", DEVICES)):
        if own[key] not in known:
            raise ConfigError(f"{key} is {own[key]!r}; expected {' or '.join(known)}")
    config = one_run(overrides)
    parallel = config.parallel
    if parallel.precision == "auto":
        parallel = replace(parallel, precision="bf16" if parallel.zero_stage else "fp32")
    cuda = own["device"] == "cuda"
    plan = plan_memory(config.model, parallel, own["stage"], cuda)
    name = config.model.denoiser.name if own["stage"] == "diffusion" else "autoencoder"
    recomputed = ", activations recomputed" if parallel.activation_checkpointing else ""
    print(
        f"{name}: {plan.parameters / 1e6:.1f} M parameters, {parallel.precision}, ZeRO {parallel.zero_stage} "
        f"on {parallel.world_size} ranks, micro-batches of {parallel.capacity_atoms} atoms{recomputed}\n"
    )
    print(text(plan))
    other = replace(parallel, activation_checkpointing=not parallel.activation_checkpointing)
    peak = plan_memory(config.model, other, own["stage"], cuda).peak_bytes
    print(
        f"\nwith parallel.activation_checkpointing={str(other.activation_checkpointing).lower()} the peak is "
        f"{peak / GIB:.2f} GiB; libraries and the allocator's slack come on top"
    )
    return 0


def text(plan: MemoryPlan) -> str:
    """The plan as a table, GiB a rank."""
    rows: list[tuple[str, float | None]] = []
    for title, part in (
        ("throughout", plan.standing),
        ("in backward", plan.backward),
        ("or in validation", plan.validation),
    ):
        rows.append((title, None))
        rows += [(f"  {name}", n_bytes) for name, n_bytes in part.items()]
    rows.append(("peak of a rank", plan.peak_bytes))
    rows += [(f"host: {name}", n_bytes) for name, n_bytes in plan.host.items()]
    return "\n".join(
        name if n_bytes is None else f"{name:<34}{n_bytes / GIB:>9.3f} GiB" for name, n_bytes in rows
    )
