"""DeepSpeed behind four verbs: backward, step, the fragments a rank owns, and loading them back.

The only file that imports deepspeed. A *fragment* is a contiguous range of one flattened parameter: its fp32
master weights and Adam moments, as this rank's optimizer holds them. Every ZeRO stage cuts parameters into
fragments in its own way; here they all look alike, so a checkpoint written at one stage and world size is a
list of named ranges that any other can read.
"""

from __future__ import annotations

import functools
import logging
import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import deepspeed
import torch
import torch.distributed as dist
from deepspeed.runtime import bf16_optimizer
from deepspeed.runtime.zero.stage_1_and_2 import DeepSpeedZeroOptimizer
from torch import Tensor, nn

from adit_scale.training.config import BUCKET_ELEMENTS, OptimConfig, ParallelConfig
from adit_scale.training.optimizer import parameter_groups, set_learning_rate

# (name, start, length, key) -> flat fp32 values; key is "master", "exp_avg" or "exp_avg_sq".
FragmentReader = Callable[[str, int, int, str], Tensor]
MOMENTS = ("exp_avg", "exp_avg_sq")


@dataclass
class Fragment:
    """Elements ``start`` to ``start + master.numel()`` of flattened parameter ``name``, as live views."""

    name: str
    start: int
    master: Tensor
    exp_avg: Tensor
    exp_avg_sq: Tensor

    @property
    def length(self) -> int:
        return self.master.numel()


def init_distributed(device: torch.device) -> None:
    """Join the process group described by the environment (torchrun, or RANK=0 WORLD_SIZE=1)."""
    logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
    # DeepSpeed's own collectives, by names that torch means to drop: a line a rank a start that helps nobody.
    warnings.filterwarnings("ignore", message=".*torch.distributed.*deprecated", category=FutureWarning)
    bf16_optimizer.see_memory_usage = lambda *_, **__: None  # else a dozen lines of memory at every start
    # DeepSpeed would compile a shared-memory all-reduce in C++ at first use, which needs a compiler, takes
    # tens of seconds and leaves a lock file behind when killed; gloo serves as well here.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    deepspeed.init_distributed(dist_backend="nccl" if device.type == "cuda" else "gloo", verbose=False)


class Engine:
    """One model under DeepSpeed ZeRO 0 to 3.

    ``step_loss`` is called through the engine so that ZeRO 3 can gather weights around each submodule.
    lr_multipliers: of the learning rate, by parameter name; 1 for names that it lacks.
    """

    def __init__(
        self,
        module: nn.Module,
        optim: OptimConfig,
        parallel: ParallelConfig,
        device: torch.device,
        lr_multipliers: Mapping[str, float] | None = None,
    ):
        self.zero_stage = parallel.zero_stage
        self.world_size = dist.get_world_size()
        self.rank = dist.get_rank()
        self.shapes = {name: p.shape for name, p in module.named_parameters() if p.requires_grad}
        module.to(device)
        adamw = torch.optim.AdamW(
            parameter_groups(module.named_parameters(), optim, lr_multipliers or {}),
            betas=(optim.beta1, optim.beta2),
            eps=optim.eps,
            fused=True,
        )
        self._engine, *_ = deepspeed.initialize(
            model=module, optimizer=adamw, config=_deepspeed_config(optim, parallel, module)
        )
        self._names = {p: name for name, p in self._engine.module.named_parameters() if p.requires_grad}
        self._inner = adamw if self.zero_stage == 0 else self._engine.optimizer.optimizer
        self._create_optimizer_state()
        _spare_small_kernels(self._engine.optimizer)

    # -- one step ------------------------------------------------------------------------------------------

    def forward(self, *args, **kwargs):
        """The module's forward, through DeepSpeed's hooks."""
        return self._engine(*args, **kwargs)

    def backward(self, loss: Tensor, last: bool) -> None:
        """Accumulate the gradient of this rank's part of the step's loss; ``last`` reduces over ranks.

        Losses of all ranks and micro-batches are summed: DeepSpeed divides by the world size, so it is
        multiplied here, and the micro-batches of a step, whose number varies, are not averaged.

        A non-finite loss can have a finite gradient. It makes every gradient NaN here, so that ``step`` skips
        on all ranks by the one check it makes anyway.
        """
        self._engine.set_gradient_accumulation_boundary(last)
        nan_if_not_finite = loss.detach() * 0.0
        self._engine.backward(loss * (self.world_size + nan_if_not_finite), scale_wrt_gas=False)

    def step(self, lr: float) -> tuple[Tensor, bool]:
        """Apply the accumulated gradient. Returns (global gradient norm before clipping, applied).

        A non-finite gradient leaves weights, moments and step counter as they were. To decide that, the norm
        is waited for once, before the update; the norm returned is a scalar on the device, NaN where not
        applied.
        """
        set_learning_rate(self._inner.param_groups, lr)
        if self.zero_stage == 0:
            # Plain DeepSpeed neither reports a norm nor skips a non-finite step: both are done here.
            norm = _gradient_norm(self._engine.module)
            if not torch.isfinite(norm):
                self._engine.optimizer.zero_grad()
                self._engine.zero_grad()
                return norm, False
            self._engine.step()
            return norm, True
        skipped_before = self._engine.skipped_steps
        self._engine.step()
        applied = self._engine.skipped_steps == skipped_before
        return torch.as_tensor(self._engine.get_global_grad_norm() if applied else math.nan), applied

    # -- fragments -----------------------------------------------------------------------------------------

    def fragments(self) -> list[Fragment]:
        """This rank's fragments. Together the ranks' fragments cover every parameter exactly once."""
        return [f for f in self._all_fragments() if f.length]

    def load(self, read: FragmentReader, optimizer_steps: int) -> None:
        """Overwrite weights and moments from ``read``, then refresh the copies that forward uses."""
        for fragment in self._full_parameters() if self.zero_stage == 0 else self._all_fragments():
            args = (fragment.name, fragment.start, fragment.length)
            fragment.master.copy_(read(*args, "master"))
            fragment.exp_avg.copy_(read(*args, "exp_avg"))
            fragment.exp_avg_sq.copy_(read(*args, "exp_avg_sq"))
        for state in self._inner.state.values():
            state["step"].fill_(float(optimizer_steps))
        self._refresh_working_weights(read)

    def _all_fragments(self) -> Iterator[Fragment]:
        if self.zero_stage == 0:
            return (self._own_slice(full) for full in self._full_parameters())
        return self._partitioned_fragments() if self.zero_stage == 3 else self._flat_fragments()

    def _full_parameters(self) -> Iterator[Fragment]:
        """ZeRO 0: every rank holds everything."""
        for p, name in self._names.items():
            state = self._inner.state[p]
            yield Fragment(name, 0, p.data.view(-1), *(state[key].view(-1) for key in MOMENTS))

    def _own_slice(self, full: Fragment) -> Fragment:
        """ZeRO 0: the part of a replicated parameter that this rank writes to a checkpoint."""
        begin = full.length * self.rank // self.world_size
        end = full.length * (self.rank + 1) // self.world_size
        views = (full.master[begin:end], full.exp_avg[begin:end], full.exp_avg_sq[begin:end])
        return Fragment(full.name, begin, *views)

    def _flat_fragments(self) -> Iterator[Fragment]:
        """ZeRO 1 and 2: one flat fp32 partition a parameter group; parameters may straddle ranks."""
        for p, name in self._names.items():
            mapping = p._hp_mapping
            if mapping is None:
                continue  # lies in another rank's partition
            flat = self._inner.param_groups[mapping.param_group_index]["params"][0]
            address = mapping.hp_fragment_address
            views = [
                tensor.narrow(0, address.start, address.numel)
                for tensor in (flat.data, *(self._inner.state[flat][key] for key in MOMENTS))
            ]
            yield Fragment(name, mapping.lp_fragment_address.start, *views)

    def _partitioned_fragments(self) -> Iterator[Fragment]:
        """ZeRO 3: every parameter is cut into equal parts, the last ones padded or empty."""
        zero3 = self._engine.optimizer
        for group, flat in zip(zero3.fp16_groups, zero3.fp32_partitioned_groups_flat, strict=True):
            state = self._inner.state[flat]
            offset = 0
            for p in group:
                part = p.ds_tensor.ds_numel
                start = self.rank * part
                length = max(0, min(part, p.ds_numel - start))
                views = [
                    tensor.narrow(0, offset, length)
                    for tensor in (flat.data, *(state[key] for key in MOMENTS))
                ]
                yield Fragment(self._names[p], start, *views)
                offset += part

    def _create_optimizer_state(self) -> None:
        """Give AdamW its zero moments now, so that fresh and resumed runs hold the same tensors."""
        if self.zero_stage == 3:  # hands its flat groups to AdamW one by one, inside each step
            optimized = self._engine.optimizer.fp32_partitioned_groups_flat
        else:
            optimized = [p for group in self._inner.param_groups for p in group["params"]]
        for p in optimized:
            state = self._inner.state[p]
            if not state:
                state["step"] = torch.zeros((), dtype=torch.float32, device=p.device)
                for key in MOMENTS:
                    state[key] = torch.zeros_like(p, memory_format=torch.preserve_format)

    def _refresh_working_weights(self, read: FragmentReader) -> None:
        """Copy master weights into the (possibly bf16, possibly partitioned) weights of the module."""
        if self.zero_stage == 0:
            return  # the module's weights are the master weights
        for p, name in self._names.items():
            if self.zero_stage == 3:
                part = p.ds_tensor.ds_numel
                start = self.rank * part
                length = max(0, min(part, p.ds_numel - start))
                p.ds_tensor.data[:length].copy_(read(name, start, length, "master"))
            if p.data.numel():  # ZeRO 3 keeps small parameters gathered; ZeRO 1 and 2 keep them all
                p.data.view(-1).copy_(read(name, 0, p.data.numel(), "master"))


def _gradient_norm(module: nn.Module) -> Tensor:
    """L2 norm of all gradients, float32 scalar."""
    gradients = [p.grad for p in module.parameters() if p.grad is not None]
    return torch.nn.utils.get_total_norm(gradients)


def _spare_small_kernels(optimizer: Any) -> None:
    """Let DeepSpeed's optimizers do in one operation what they do in several for every parameter.

    The sums are the same. ZeRO 1 and 2: norms accumulate in float64 without a float64 copy of each gradient,
    and a non-finite gradient is found by the norm, not also by two extrema of each. ZeRO 1 in bf16: all
    gradients of a group lie in one array, whose norm is taken and which is clipped.
    """
    if isinstance(optimizer, DeepSpeedZeroOptimizer):
        optimizer.get_grad_norm_direct = functools.partial(_norm_of_ranks, optimizer)
        optimizer.check_overflow = lambda partition_gradients=True: None
    elif isinstance(optimizer, bf16_optimizer.BF16_Optimizer):
        flat = optimizer.fp32_groups_gradients_flat
        optimizer.get_grads_for_norm = lambda for_clipping=False: flat if for_clipping else (flat, {})
        optimizer.update_hp_grads = functools.partial(_add_gradients, optimizer)


def _norm_of_ranks(
    optimizer: DeepSpeedZeroOptimizer, gradients: Sequence[Tensor], params: object, norm_type: int = 2
) -> Tensor:
    """L2 norm of a group's gradients, of which each rank holds a part; float32 scalar. A collective call."""
    assert norm_type == 2, norm_type
    flat = getattr(gradients, "flat_partition", None)  # there in bf16; padded with zeros
    parts = [flat] if flat is not None else [g for g in gradients if not getattr(g, "_zero_padding", False)]
    norms = [torch.linalg.vector_norm(part, dtype=torch.float64) for part in parts]
    norms = norms or [torch.zeros((), dtype=torch.float64, device=optimizer.device)]
    total = torch.stack(norms).square().sum().float()
    dist.all_reduce(total, group=optimizer.dp_process_group)
    return total.sqrt()


@torch.no_grad()
def _add_gradients(optimizer: bf16_optimizer.BF16_Optimizer, clear_lp_grads: bool = False) -> None:
    """Add a micro-batch's bf16 gradients to the step's in fp32, without copies in fp32, and drop them."""
    for group, totals in zip(optimizer.bf16_groups, optimizer.fp32_groups_gradients, strict=True):
        there = [(p, total) for p, total in zip(group, totals, strict=True) if p.grad is not None]
        if there:
            torch._foreach_add_([total for _, total in there], [p.grad.view(t.shape) for p, t in there])
        for p, _ in there:
            p.grad = None


def _deepspeed_config(optim: OptimConfig, parallel: ParallelConfig, module: nn.Module) -> dict:
    """DeepSpeed's own settings. Batch sizes are ours to keep: it is told one of each."""
    n_parameters = sum(p.numel() for p in module.parameters() if p.requires_grad)
    zero = {
        "stage": parallel.zero_stage,
        "overlap_comm": False,
        # One rank exchanges nothing: gradients need no copy in a bucket.
        "contiguous_gradients": dist.get_world_size() > 1,
        "reduce_bucket_size": min(BUCKET_ELEMENTS, n_parameters),
    }
    config: dict = {
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,
        "gradient_clipping": optim.gradient_clip,
        "zero_allow_untested_optimizer": True,
        "zero_optimization": zero,
        "steps_per_print": 1_000_000_000,
        # On by default, and then waits for the device at the first forward and the last line of every step.
        "timers": {"throughput": {"enabled": False}},
    }
    if parallel.precision == "bf16":
        config["bf16"] = {"enabled": True}
        # Without this, gradients of micro-batches are summed in bf16.
        config["data_types"] = {"grad_accum_dtype": "fp32"}
    return config
