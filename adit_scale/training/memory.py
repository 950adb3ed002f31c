"""What a training run needs a rank, in bytes, before it is started. No torch: the planner reads this file.

N parameters, W ranks, b bytes of a working weight (2 in bf16, 4 in fp32). DeepSpeed holds, between the last
backward of a step and its update (measured tensor by tensor in benchmarks/memory_planner.py):

| ZeRO | weights | gradients | fp32 master | moments |
|---|---|---|---|---|
| 0 (fp32) | 4N | 4N | the weights | 8N |
| 1 fp32 | 4N | 4N/W | 4N/W | 8N/W |
| 1 bf16 | 2N | 4N fp32 + 2N bf16 (until a backward ends) | 4N/W | 8N/W |
| 2 | bN | 4N/W | 4N/W | 8N/W |
| 3 | bN/W | 4N/W | 4N/W | 8N/W |

Of our own: the average 4N/W; an fp32 copy for validation 4N, and as much again while it is being filled; the
frozen autoencoder of stage 2; the checkpoint writer's snapshot of master, moments and average, 16N/W, in host
memory. Activations are what backward keeps of the largest micro-batch.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from adit_scale.models.config import AutoencoderConfig, DenoiserConfig, ModelConfig
from adit_scale.models.ladder import autoencoder_parameters, denoiser_parameters
from adit_scale.training.config import BUCKET_ELEMENTS, ParallelConfig

FP32 = 4
PER_ATOM_FEATURE_BYTES = 20  # kept per atom and feature outside the blocks (head, input), either precision
# Gradients on their way through one block, in arrays of atoms x features: two of the MLP's hidden width, six
# of the modulation's, and a few of the stream's.
BACKWARD_ARRAYS = 16
FUSED_MODULATION_ARRAYS = 10  # that a block keeps fewer (docs/benchmarks.md, "Fused modulation")


@dataclass(frozen=True)
class MemoryPlan:
    """Bytes of one rank by what they are for; those of ``host`` lie in host memory also where there is a GPU.

    standing: there from the first step to the last. passing: at the fullest moment of a training step
    (``backward``), or while validating or exporting (``validation``): only one of the two at a time.
    """

    parameters: int
    standing: dict[str, int]
    backward: dict[str, int]
    validation: dict[str, int]
    host: dict[str, int] = field(default_factory=dict)

    @property
    def peak_bytes(self) -> int:
        """Of the device (on a CPU without ``host``)."""
        return sum(self.standing.values()) + max(sum(self.backward.values()), sum(self.validation.values()))

    @property
    def host_bytes(self) -> int:
        return sum(self.host.values())


def plan_memory(model: ModelConfig, parallel: ParallelConfig, stage: str, cuda: bool) -> MemoryPlan:
    """The plan of a stage (``autoencoder`` or ``diffusion``); ``parallel.precision`` must be definite.

    cuda: with FlashAttention where the precision is bf16; else attention grouped by size, which keeps its
    inputs in float32.
    """
    assert parallel.precision in ("fp32", "bf16"), parallel.precision
    world, atoms = parallel.world_size, parallel.capacity_atoms
    frozen = 0
    if stage == "diffusion":
        n = denoiser_parameters(model.denoiser)
        frozen = FP32 * autoencoder_parameters(model.autoencoder)
        kept, a_block = denoiser_activations(model.denoiser, parallel, atoms, cuda)
    else:
        n = autoencoder_parameters(model.autoencoder)
        kept, a_block = autoencoder_activations(model.autoencoder, parallel, atoms, cuda)
    states = state_bytes(n, parallel.zero_stage, parallel.precision, world)
    gradients = states.pop("gradients")
    standing = states | {"EMA": FP32 * n // world, "copy for validation": FP32 * n}
    if frozen:
        standing["frozen autoencoder"] = frozen
    bucket = bucket_bytes(n, parallel)
    if parallel.zero_stage == 3:
        standing["bucket of gradients"] = bucket
        passing = {"gathered weights": working_bytes(parallel.precision) * n}
    else:
        passing = {"bucket of gradients": bucket} if parallel.zero_stage else {}
    if (parallel.zero_stage, parallel.precision) == (1, "fp32"):
        gradients = FP32 * n  # whole until they are shared out behind the last micro-batch
    passing["gradients"] = gradients
    return MemoryPlan(
        parameters=n,
        standing=standing,
        backward=passing | {"activations": kept, "backward of a block": a_block},
        validation={"average being gathered": FP32 * n},
        host={"snapshot of a checkpoint": 4 * FP32 * n // world},
    )


def working_bytes(precision: str) -> int:
    return 2 if precision == "bf16" else FP32


def state_bytes(n: int, zero_stage: int, precision: str, world: int) -> dict[str, int]:
    """DeepSpeed's weights, gradients, master weights and moments, as the table above says."""
    b = working_bytes(precision)
    whole, part = FP32 * n, FP32 * n // world
    if zero_stage == 0:
        return {"weights": whole, "gradients": whole, "master weights": 0, "moments": 2 * whole}
    gradients = (FP32 + b) * n if (zero_stage, precision) == (1, "bf16") else part
    return {
        "weights": b * n // world if zero_stage == 3 else b * n,
        "gradients": gradients,
        "master weights": part,
        "moments": 2 * part,
    }


def bucket_bytes(n: int, parallel: ParallelConfig) -> int:
    """The buffer in which gradients are brought together to be exchanged."""
    return working_bytes(parallel.precision) * min(n, BUCKET_ELEMENTS)


def denoiser_activations(
    config: DenoiserConfig, parallel: ParallelConfig, atoms: int, cuda: bool
) -> tuple[int, int]:
    """(kept for backward, passing through one block) of a micro-batch of ``atoms``.

    A block keeps 21 + 2 r arrays of atoms x width, r the MLP's ratio: 6 of modulation; input, norm, 1 + scale
    and modulated norm, twice; queries, keys and values; attention's output before and after it is laid
    together; the two branches' outputs; 2 r inside the MLP. Recomputed, it keeps its input. Fused modulation
    (``parallel.kernels``, on CUDA) reads a set's row in place: no modulation an atom, no norm and 1 + scale.
    """
    stream = working_bytes(parallel.precision) * atoms * config.width
    saved = FUSED_MODULATION_ARRAYS if cuda and parallel.kernels != "torch" else 0
    arrays = 21 + 2 * config.mlp_ratio - saved
    block = arrays * stream + _attention_extra(parallel, atoms, config.width, cuda)
    return _stack(config.depth, block, parallel, atoms, config.width)


def autoencoder_activations(
    config: AutoencoderConfig, parallel: ParallelConfig, atoms: int, cuda: bool
) -> tuple[int, int]:
    """As ``denoiser_activations``: a layer keeps 9 arrays of atoms x width and 2 of the feedforward's."""
    stream = working_bytes(parallel.precision) * atoms
    layer = (9 * config.width + 2 * config.feedforward) * stream
    layer += _attention_extra(parallel, atoms, config.width, cuda)
    depth = config.encoder_depth + config.decoder_depth
    kept, a_block = _stack(depth, layer, parallel, atoms, config.width)
    return kept + PER_ATOM_FEATURE_BYTES * atoms * config.width, a_block  # two stacks, two ends


def _stack(depth: int, block: int, parallel: ParallelConfig, atoms: int, width: int) -> tuple[int, int]:
    stream = working_bytes(parallel.precision) * atoms * width
    ends = PER_ATOM_FEATURE_BYTES * atoms * width
    passing = BACKWARD_ARRAYS * stream
    if parallel.activation_checkpointing:
        return depth * stream + ends, block + passing
    return depth * block + ends, passing


def _attention_extra(parallel: ParallelConfig, atoms: int, width: int, cuda: bool) -> int:
    """bf16 on a CPU attends in fp32: queries, keys, values and output are kept at 4 bytes instead of 2.

    FlashAttention on CUDA lays its output out at once, one array less.
    """
    if parallel.precision != "bf16":
        return 0
    return -2 * atoms * width if cuda else 4 * 2 * atoms * width
