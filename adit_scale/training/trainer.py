"""The training loop: one for both stages, one path for fresh and resumed runs.

    fit():  batches -> train_step -> log -> validate -> hand samples over -> checkpoint, until the last step

What a step computes is in stages.py, how gradients and weights move between ranks in engine.py, which sets a
step holds in data/plan.py. Everything a resumed run needs is in checkpoint.TrainState and the fragments.
"""

from __future__ import annotations

import copy
import time
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor

from adit_scale.config import StudyConfig
from adit_scale.data.loader import BatchLoader, StepBatches
from adit_scale.models.config import DenoiserConfig
from adit_scale.models.products import use_onednn
from adit_scale.models.transformer import prepare_blocks
from adit_scale.tracking.journal import Journal
from adit_scale.training import branches, checkpoint, weights
from adit_scale.training.backends import RUN_WITH, Setup, use_fitting_attention
from adit_scale.training.checkpoint import Checkpoint, TrainState
from adit_scale.training.ema import ExponentialMovingAverage
from adit_scale.training.engine import MOMENTS, Engine
from adit_scale.training.export import describe_data
from adit_scale.training.feed import Feed
from adit_scale.training.guards import give_up
from adit_scale.training.interrupts import StopRequest
from adit_scale.training.lock import RunLock
from adit_scale.training.meters import Meters
from adit_scale.training.profiling import StepProfiler
from adit_scale.training.retention import Policy
from adit_scale.training.schedule import decay_start, learning_rate
from adit_scale.training.side_scoring import SideScoring
from adit_scale.training.sight import Sight
from adit_scale.training.stage import Stage, StepTotals, Sums
from adit_scale.training.sums import gather, means_in_order, summed, to_floats
from adit_scale.training.watchdog import Watchdog
from adit_scale.training.writer import CheckpointWriter

POLL_S = 0.2  # of a finished run that waits for its scores


class Trainer:
    """One training run in one folder.

    Construction joins what is on disk: with a committed checkpoint in ``folder`` the run goes on behind it,
    otherwise it starts, a decay branch from the trunk's checkpoint ``start_from``. ``setup`` is said at its
    start. Raises CheckpointError for a checkpoint of another model or data set.
    """

    def __init__(
        self,
        folder: Path,
        config: StudyConfig,
        stage: Stage,
        loader: BatchLoader,
        device: torch.device,
        samples: SideScoring | None = None,
        start_from: Path | None = None,
        setup: Setup | None = None,
    ):
        self.folder, self.config, self.stage, self.loader, self.device = folder, config, stage, loader, device
        self.rank, self.world_size = dist.get_rank(), dist.get_world_size()
        self.lock = RunLock(folder)  # before anything of the run is read
        self.settings = stage.config
        self.samples, self.setup = samples, setup
        self.eval_module = copy.deepcopy(stage.module).float().to(device).eval().requires_grad_(False)
        use_fitting_attention(self.eval_module, stage.model_config, device)
        use_onednn(self.eval_module, torch.float32, device, trained=False)
        parallel = config.parallel
        prepare_blocks(
            stage.module,
            parallel.activation_checkpointing,
            parallel.compile,
            fullgraph=parallel.zero_stage < 3,  # which gathers weights in hooks inside a block
        )
        self.engine = Engine(
            stage.module, self.settings.optim, config.parallel, device, stage.lr_multipliers()
        )
        self.fragments = self.engine.fragments()
        self.ema = ExponentialMovingAverage(self.fragments, self.settings.optim.ema_decay)
        self.meters = Meters(device)
        self.feed = Feed(stage, loader, device, self.settings.steps)
        # Read now, so that a data set without held-out sets is refused before the first step.
        self.validation = loader.validation_batches(
            self.settings.validation_sets, config.parallel.capacity_atoms
        )
        self.journal = Journal(folder) if self.rank == 0 else None
        self.state = TrainState(
            fingerprint=loader.fingerprint,
            world_size=self.world_size,
            shapes={name: list(shape) for name, shape in self.engine.shapes.items()},
            config=asdict(config),
            stage=stage.name,
            autoencoder=stage.autoencoder_digest,
            data=describe_data(loader.manifest) if self.rank == 0 else {},
        )
        self.decay_start = decay_start(self.settings.steps, self.settings.optim)
        self.writer = CheckpointWriter(
            self.checkpoints, device, Policy.of(self.settings), self.settings.checkpoint_async
        )
        self._resume(start_from)
        precision = config.parallel.precision
        self.sight = Sight(stage.name, self.settings, self.state, self.journal, device, precision)
        self.phases = self.sight.phases

    # -- the loop ------------------------------------------------------------------------------------------

    def fit(self) -> bool:
        """Train to the last step. Returns False if asked to stop before it; the run is then on disk."""
        with (
            self.lock,
            self.writer,
            StopRequest(self.config.parallel.wall_time_s) as stop,
            Watchdog(self.folder, self.phases, self.config.parallel.hang_timeout_s),
            StepProfiler(self.settings.profile, self.folder / "profile", self.rank == 0) as profiler,
            self.sight.progress as progress,
            self.samples or nullcontext(),
        ):
            for note in self.notes:
                progress.note(note)
            self._open_samples()
            while self.state.step < self.settings.steps:
                step, last = self.state.step + 1, self.state.step + 1 == self.settings.steps
                profiler.before(step)
                self.phases.enter("data", step)
                self.train_step(self.feed.step(self.state.step))
                profiler.after(step, progress.note)
                if last or step % self.settings.log_every_steps == 0:
                    self.phases.enter("log", step)
                    self.log()
                if last or step % self.settings.validate_every_steps == 0:
                    self.phases.enter("validate", step)
                    self.validate()
                if self.samples and self.samples.due(step):
                    self.phases.enter("samples", step)
                    self.hand_samples_over()
                self.phases.enter("agree", step)
                stopping = stop.agreed(self.device) and not last
                if last or stopping or self._save_due(step):
                    self.phases.enter("save", step)
                    self.save()
                progress.advance(step)
                if stopping:
                    self.writer.wait()
                    progress.note(f"{stop.reason}: saved step {step}")
                    return False
            self.phases.enter("save", self.state.step)
            self.writer.wait()
            self.export()
            if not self._wait_for_samples(stop):
                progress.note(f"{stop.reason}: some samples are not scored yet")
                return False
            self.sight.summary(checkpoints=len(checkpoint.committed(self.checkpoints)))
        return True

    def train_step(self, batches: StepBatches) -> None:
        """Forward and backward over this rank's micro-batches, then one optimiser step for all ranks."""
        state = self.state
        totals = StepTotals(state.step, batches.n_sets, batches.n_atoms)
        self.phases.enter("compute", state.step + 1)
        losses: list[Tensor] = []
        measured: list[Sums] = []
        for prepared, last in self.feed.prepared(batches, totals):
            loss, sums = self.stage.loss(self.engine.forward, prepared, totals)
            if last:
                self.phases.enter("exchange", state.step + 1)
            self.engine.backward(loss, last)
            losses.append(loss.detach())
            measured.append(sums)
        lr = learning_rate(state.step, self.settings.steps, self.settings.optim)
        self.writer.before_update()
        gradient_norm, applied = self.engine.step(lr)
        flops, flops_total = self.stage.flops(batches.sizes)
        state.step += 1
        state.validation = {}
        state.sets_seen += batches.n_sets
        state.atoms_seen += batches.n_atoms
        state.flops += flops
        state.flops_total += flops_total
        if applied:
            state.applied_steps += 1
            state.skipped_in_a_row = 0
            self.ema.update(self.fragments)
            for sums in measured:  # those of a skipped step would turn the interval's means into NaN
                self.meters.add(sums)
            self.meters.add_step(torch.stack(losses).sum(), gradient_norm)
        else:
            found = {"loss": summed(losses), "gradient_norm": float(gradient_norm)}
            self._count_skipped(batches, totals, found)

    def _count_skipped(self, batches: StepBatches, totals: StepTotals, found: dict[str, float]) -> None:
        """A non-finite step changed nothing; too many in a row end the run, with the step dumped."""
        self.state.skipped_in_a_row += 1
        self.sight.event("skipped_step", found, "step skipped, weights untouched")
        if self.state.skipped_in_a_row > self.settings.max_skipped_in_a_row:
            master = ExponentialMovingAverage(self.fragments, 0.0).gather(self.fragments, self.engine.shapes)
            self.eval_module.load_state_dict(master, strict=True)
            raise give_up(self.folder, self.stage, self.eval_module, self.state, batches, totals, found)

    # -- what is written down ------------------------------------------------------------------------------

    def log(self) -> None:
        """Journal and print the interval's means. A collective call."""
        state = self.state
        values = self.meters.means()
        values["lr"] = learning_rate(state.step - 1, self.settings.steps, self.settings.optim)
        values |= {
            "atoms_seen": state.atoms_seen,
            "sets_seen": state.sets_seen,
            "flops_cum": state.flops,
            "flops_total_cum": state.flops_total,
            "skipped_steps": state.step - state.applied_steps,
        }
        self.sight.interval(values)
        if self.journal and self.samples:
            self.samples.collect()

    @torch.no_grad()
    def validate(self) -> None:
        """Score EMA weights on held-out sets; the batches are shared out over the ranks."""
        begin = time.monotonic()
        self._load_ema_into_eval_module()
        batches = self.validation
        mine = [
            (i, to_floats(self.stage.validation_sums(self.eval_module, batches[i].to(self.device))))
            for i in range(self.rank, len(batches), self.world_size)
        ]
        means = means_in_order(gather(mine))
        values = self.stage.validation_values(means)
        self.sight.validation_loss = values["loss"]
        self.state.validation = dict(values)
        values |= {"flops_cum": self.state.flops, "atoms_seen": self.state.atoms_seen}
        if self.journal:
            named = {f"validation/{k}": v for k, v in values.items()}
            self.journal.log_metrics(self.state.step, named, {"validation_s": time.monotonic() - begin})
            self.journal.flush()

    # -- samples for the validity curves, scored by a process of their own ---------------------------------

    def _open_samples(self) -> None:
        """Take up the scores of the run so far. A collective call."""
        if self.samples is None:
            return
        missing = [False]
        if self.journal:
            missing = [self.samples.open(self.state.step, self.device, self.sight.progress.note)]
        dist.broadcast_object_list(missing, src=0)
        if missing[0]:
            self.hand_samples_over()

    def hand_samples_over(self) -> None:
        """Have samples of the EMA weights drawn and scored. A collective call."""
        weights_now = self.stage.exported(self.ema.gather(self.fragments, self.engine.shapes))
        if self.journal and self.samples:
            assert isinstance(self.stage.model_config, DenoiserConfig)
            step, values = self.state.step, {"flops_cum": self.state.flops}
            last = step == self.settings.steps
            self.samples.hand_over(step, weights_now, self.stage.model_config, values, last)

    def _wait_for_samples(self, stop: StopRequest) -> bool:
        """Until the curves are whole; False if asked to stop meanwhile. A collective call."""
        begin_s = time.monotonic()
        while self.samples is not None:
            self.phases.enter("samples", self.state.step)
            left = self.samples.left(time.monotonic() - begin_s) if self.journal else 0
            n_left = torch.tensor([left], device=self.device)
            dist.all_reduce(n_left, op=dist.ReduceOp.MAX)
            if not n_left.item():
                if text := self.samples.summary():
                    self.sight.progress.note(text)
                return True
            if stop.agreed(self.device):
                return False
            time.sleep(POLL_S)
        return True

    def _load_ema_into_eval_module(self) -> None:
        state = self.ema.gather(self.fragments, self.engine.shapes)
        self.eval_module.load_state_dict(state, strict=True)

    # -- checkpoints ---------------------------------------------------------------------------------------

    @property
    def checkpoints(self) -> Path:
        return self.folder / "checkpoints"

    def _save_due(self, step: int) -> bool:
        return step % self.settings.checkpoint_every_steps == 0 or bool(self._tags(step))

    def _tags(self, step: int) -> list[str]:
        """What the checkpoint of a step is kept for."""
        tags = ["decay_start"] if step == self.decay_start else []
        return [*tags, "branch"] if step in self.settings.branch_steps else tags

    def save(self) -> None:
        """Begin to write a checkpoint. The journal is synced first: its offset is part of the state."""
        if self.journal:
            if self.samples:
                self.samples.wait_written(before=self.state.step)
            self.journal.sync()
            self.state.journal_offset = self.journal.offset
        self.state.cursor = self.loader.cursor(self.state.step)
        self.state.time_s = time.time()
        self.state.tags = self._tags(self.state.step)
        self.writer.save(self.state, self.tensors())

    def tensors(self) -> dict[str, Tensor]:
        """What this rank writes into a checkpoint, under the names it has there."""
        tensors = {f"counter|{name}|0": value for name, value in self.meters.state().items()}
        for fragment, average in zip(self.fragments, self.ema.average, strict=True):
            address = f"{fragment.name}|{fragment.start}"
            tensors[f"master|{address}"] = fragment.master
            tensors[f"ema|{address}"] = average
            for key in MOMENTS:
                tensors[f"{key}|{address}"] = getattr(fragment, key)
        return tensors

    def _resume(self, start_from: Path | None) -> None:
        """Go on behind the newest committed checkpoint; without one, start with an empty journal."""
        found, problems = checkpoint.open_newest(self.checkpoints)
        self.notes = [self.setup.line] if self.setup else []
        self.notes += [problem.text for problem in problems]
        changed: dict[str, str] = {}
        trunk: Checkpoint | None = None
        if found is not None:
            branches.check_same_trunk(found, self.settings)
            self._load(found)
            changed = found.changed_settings(self.state.config, self.stage.name)
            others = found.changed_settings(self.state.config, "parallel")
            changed |= {f"parallel.{key}": v for key in RUN_WITH if (v := others.get(f"parallel.{key}"))}
        elif start_from is not None:
            trunk = branches.open_trunk(start_from, self.settings, self.rank, self.world_size)
            self._load(trunk)
            self.state.journal_offset = 0
        if self.journal:
            self.journal.truncate(self.state.journal_offset)
            for problem in problems:
                self.journal.log_event(problem.event, self.state.step, {"problem": problem.text})
            if changed:
                self.journal.log_event(checkpoint.RESUMED_WITH, self.state.step, changed)
            if trunk is not None:
                self.journal.log_event(branches.EVENT, self.state.step, branches.origin(trunk, self.settings))
            if found is None:
                self.journal.log_params(self.state.config)
                self.journal.log_tags(self.setup.tags if self.setup else {})
            self.journal.flush()

    def _load(self, found: Checkpoint) -> None:
        """Take up the state of a checkpoint, the journal's excepted."""
        found.check_fits(self.state)
        self.notes.append(f"going on behind {found.folder}")
        saved = found.state
        self.engine.load(found.read, saved.applied_steps)
        for fragment, average in zip(self.fragments, self.ema.average, strict=True):
            average.copy_(found.read(fragment.name, fragment.start, fragment.length, "ema"))
        self.ema.n_updates = saved.applied_steps
        self.meters.load_state(found.counters(self.rank, self.world_size))
        self.loader.seek(saved.step, saved.cursor)
        self.state = saved.taken_up_by(self.state)

    def export(self) -> None:
        """EMA weights of the bare network, as safetensors beside their settings."""
        exported = self.stage.exported(self.ema.gather(self.fragments, self.engine.shapes))
        if self.rank == 0:
            weights.save(self.folder / "weights", self.stage.model_config, exported)
        dist.barrier()
