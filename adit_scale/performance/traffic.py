"""The collectives of a training step at every ZeRO stage, as DeepSpeed 0.19.8 makes them for our settings.

Read in its source and counted call by call in runs (tests/performance/test_traffic.py). N parameters, b bytes
of a working weight (2 in bf16, 4 in fp32), R micro-batches a step:

| ZeRO | gradients | weights |
|---|---|---|
| 0 | all-reduce, 4N, a step | |
| 1 | all-reduce, bN, a step | all-gather, bN, a step |
| 2 | all-reduce, bN, a **micro-batch** | all-gather, bN, a step |
| 3 | reduce-scatter, bN, a micro-batch | all-gather of large ones, a micro-batch; of small ones, a step |

Not what the names promise: stages 1 and 2 bring gradients together by all-reduce (``reduce_scatter`` sends a
bucket as one all-reduce to several ranks), and in bf16 they travel in bf16 although they are summed over
micro-batches in fp32. Stage 3 gathers a large weight once a micro-batch, for forward, the self-conditioning
pass and backward together, since all our models lie within its 1e9 elements of reuse; weights of at most
100,000 elements stay and are gathered one by one behind each update. It follows a recorded order of modules:
where self-conditioning begins or ends, the order breaks, and two micro-batches gather module by module.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from adit_scale.models.config import DenoiserConfig
from adit_scale.performance.modules import Module, denoiser_modules
from adit_scale.training.config import BUCKET_ELEMENTS
from adit_scale.training.memory import working_bytes

# DeepSpeed's own, which our settings leave alone.
PERSISTENT_NUMEL = 100_000  # stage3_param_persistence_threshold
PREFETCH_NUMEL = 50_000_000  # stage3_prefetch_bucket_size
PLAIN_BUCKET_NUMEL = 500_000_000  # of stage 0
ALIGNMENT = 2  # of a rank's part of the flattened weights, in elements
ALL_REDUCE, ALL_GATHER, REDUCE_SCATTER = "all_reduce", "all_gather", "reduce_scatter"


@dataclass(frozen=True)
class Collective:
    """``count`` a step, expected where chance decides. n_bytes: of the whole, on all ranks together.

    when: ``micro-batch`` or ``step``. what: ``gradients``, ``weights`` or ``control`` (norms, agreement).
    """

    kind: str
    n_bytes: float
    when: str
    what: str
    count: float = 1.0

    @property
    def rounds(self) -> int:
        """An all-reduce passes over the ring twice."""
        return 2 if self.kind == ALL_REDUCE else 1

    def sent_bytes(self, world: int) -> float:
        """By each rank, once, on a ring."""
        return self.rounds * (world - 1) / world * self.n_bytes


def step_collectives(
    config: DenoiserConfig, zero_stage: int, precision: str, world: int, rounds: int, p_conditioned: float
) -> list[Collective]:
    """Of one step of ``rounds`` micro-batches; none on one rank.

    p_conditioned: of self-conditioning, drawn anew each step.
    """
    if world == 1:
        return []
    modules, b = denoiser_modules(config), working_bytes(precision)
    found = [*step_end(modules, zero_stage, precision, world), Collective(ALL_REDUCE, 4, "step", "control")]
    if zero_stage < 2:
        return [*gradients(modules, zero_stage, precision, world), *found]
    each = gradients(modules, zero_stage, precision, world)
    found += [Collective(c.kind, c.n_bytes, "micro-batch", c.what, c.count * rounds) for c in each]
    if zero_stage == 3:
        for weight, passes in likely_passes(rounds, p_conditioned):
            found += [
                Collective(c.kind, c.n_bytes, c.when, c.what, weight * c.count)
                for c in gathers(modules, passes, b, world)
            ]
    return found


def gradients(modules: Sequence[Module], zero_stage: int, precision: str, world: int) -> list[Collective]:
    """Of one exchange: a step's at stages 0 and 1, a micro-batch's at 2 and 3."""
    b = working_bytes(precision)
    numels = [n for module in modules for n in module.numels]
    if zero_stage == 0:
        numels_b = _filled(numels, PLAIN_BUCKET_NUMEL)
    elif zero_stage == 1 and precision == "bf16":
        numels_b = [_padded(sum(numels), ALIGNMENT * world)]  # flattened already
    else:  # as backward makes them, the last first
        bucket = min(BUCKET_ELEMENTS, sum(numels))
        padded = [_padded(n, world) if zero_stage == 3 else n for n in numels]
        numels_b = _held(numels[::-1], padded[::-1], bucket)
    kind = REDUCE_SCATTER if zero_stage == 3 else ALL_REDUCE
    when = "step" if zero_stage < 2 else "micro-batch"
    return [Collective(kind, b * n, when, "gradients") for n in numels_b]


def step_end(modules: Sequence[Module], zero_stage: int, precision: str, world: int) -> list[Collective]:
    """Around the update: weights handed out again, and a few bytes of norms."""
    b = working_bytes(precision)
    numels = [n for module in modules for n in module.numels]
    if zero_stage == 0:
        return [Collective(ALL_REDUCE, 4, "step", "control")]
    if zero_stage == 3:
        kept = [n for n in numels if n <= PERSISTENT_NUMEL]
        found = [Collective(ALL_GATHER, b * _padded(n, world), "step", "weights") for n in kept]
        return [*found, Collective(ALL_REDUCE, 8, "step", "control")]
    found = [Collective(ALL_GATHER, b * _padded(sum(numels), ALIGNMENT * world), "step", "weights")]
    if precision == "fp32" or zero_stage == 2:
        found.append(Collective(ALL_REDUCE, 4, "step", "control"))
    return found


# -- stage 3: what is gathered follows from what was recorded ---------------------------------------------


@dataclass(frozen=True)
class Pass:
    """Forward and backward of one micro-batch. mode: ``followed`` is of a known order, ``broken`` of one that
    no longer holds, ``recorded`` of a new one. conditioned: with a self-conditioning pass. resident: small
    weights that are there at its beginning: ``all``, or ``begins``, those of modules that begin."""

    mode: str
    conditioned: bool
    resident: str


def passes_of(conditioned: Sequence[bool], rounds: int) -> list[list[Pass]]:
    """The passes of each step of a run, where the first step follows an order already known."""
    known: bool | None = conditioned[0]  # the order's; None where it must be recorded
    steps = []
    for now in conditioned:
        passes: list[Pass] = []
        resident = "all"
        for _ in range(rounds):
            mode = "recorded" if known is None else "followed" if known == now else "broken"
            passes.append(Pass(mode, now, resident))
            known = None if mode == "broken" else now
            resident = "all" if mode == "followed" else "begins"
        steps.append(passes)
    return steps


def likely_passes(rounds: int, p_conditioned: float) -> list[tuple[float, list[Pass]]]:
    """(share of all steps, passes of such a step) where each step draws whether it is conditioned.

    With one micro-batch a step, an order is known behind a followed or recorded step, none behind a broken
    one: of steps that are conditioned with probability p and are not with 1 - p, the share n = 1 / (1 + p /
    (1 - p) + (1 - p) / p) records, as many break, and the others follow.
    """
    p_of = {True: p_conditioned, False: 1 - p_conditioned}
    found = []
    for now, p in p_of.items():
        same, changed = passes_of([now, now], rounds)[1], passes_of([not now, now, now], rounds)
        if rounds > 1 or p in (0, 1):
            found += [(p * p, same), (p * (1 - p), changed[1])]
            continue
        n = 1 / (1 + p / (1 - p) + (1 - p) / p)
        found += [(n * p * p / (1 - p), same), (n * (1 - p), changed[1]), (n * p, changed[2])]
    return found


def gathers(modules: Sequence[Module], passes: Iterable[Pass], b: int, world: int) -> list[Collective]:
    """The all-gathers of weights in the passes of a step at stage 3."""
    found: list[int] = []
    for a_pass in passes:
        missing = [[n for n in m.numels if not _is_resident(n, m, a_pass)] for m in modules]
        alone = [list(m.numels) for m in modules]  # each module's, when it is reached
        if a_pass.mode == "recorded":
            found += _one_by_one(missing, world)
            found += _one_by_one(alone, world) * (2 if a_pass.conditioned else 1)
            continue
        found += _ahead([n for numels in missing for n in numels], world)
        if a_pass.mode == "broken" and a_pass.conditioned:
            found += _one_by_one(alone, world)
    return [Collective(ALL_GATHER, b * n, "micro-batch", "weights") for n in found]


def _is_resident(n: int, module: Module, a_pass: Pass) -> bool:
    return n <= PERSISTENT_NUMEL and (a_pass.resident == "all" or module.begins)


def _one_by_one(numels_m: Sequence[Sequence[int]], world: int) -> list[int]:
    return [sum(_padded(n, world) for n in numels) for numels in numels_m if numels]


def _ahead(numels: Sequence[int], world: int) -> list[int]:
    """Gathered ahead of their use, so many at once that PREFETCH_NUMEL is reached."""
    found, n_held, n_sent = [], 0, 0
    for n in numels:
        n_held, n_sent = n_held + n, n_sent + _padded(n, world)
        if n_held >= PREFETCH_NUMEL:
            found.append(n_sent)
            n_held = n_sent = 0
    return [*found, n_sent] if n_sent else found


def _filled(numels: Sequence[int], bucket: int) -> list[int]:
    """Sent when more than ``bucket`` are held."""
    found, held = [], 0
    for n in numels:
        held += n
        if held > bucket:
            found.append(held)
            held = 0
    return [*found, held] if held else found


def _held(numels: Sequence[int], sent: Sequence[int], bucket: int) -> list[int]:
    """Sent before more than ``bucket`` would be held."""
    found, held, n_sent = [], 0, 0
    for n, s in zip(numels, sent, strict=True):
        if held and held + n > bucket:
            found.append(n_sent)
            held = n_sent = 0
        held, n_sent = held + n, n_sent + s
    return [*found, n_sent] if held else found


def _padded(n: int, parts: int) -> int:
    return math.ceil(n / parts) * parts
