"""``adit sample``: structures from a trained model, into a folder.

    adit sample run=RUN out=FOLDER n=10000 [domain=crystal,molecule] [key=value ...]

run        a diffusion run (of a study or of `adit train`), or one of
           `adit checkpoint export` or import-adit
out        folder of the samples; the same words again draw only what is missing there
n          samples of each domain (1000)
domain     crystal, molecule or crystal,molecule (what the training data have)
steps, solver, grid, grid_parameter, guidance, guidance_interval, seed
           as the run was configured for sampling unless said: steps=100 solver=euler|heun|midpoint
           grid=uniform|power|shifted|cosine guidance=2.0 guidance_interval=0.1,0.9
atoms      data (drawn from the training data's sizes), or a number for all
spacegroup none, data or 1 to 230; for models trained with spacegroup labels
data       shards whose sizes and spacegroups are drawn instead of those the model was trained on
autoencoder
           folder of the run that made the latents, where it has moved
formats    some of extxyz,cif,cifs,sdf,shards (extxyz); may be asked for later
processes  on this machine (on a CPU one a core, where there is enough to draw; else 1); torchrun and srun are
           understood too
device, precision
           auto, cpu, cuda or cuda:N; auto, fp32 or bf16
batch_atoms, batch_sets, pad_batches
           what one batch holds (batch_atoms=0: what suits the device); samples are the same to rounding for
           any, to the bit for equal ones
cuda_graphs, compile
           on CUDA: auto, on or off; true or false
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from adit_scale.evaluation.samples import SampleFolder
    from adit_scale.jobs.sample_words import SampleWords
    from adit_scale.jobs.sampling import Order, Ranks

_SHOWN = 3  # reasons named in a line, the most frequent first


def main(words: Sequence[str], prog: str = "adit sample") -> int:
    """Returns 0 when this process has done its share. Raises AditError, OSError."""
    if not words or {"-h", "--help"} & set(words):
        usage = (__doc__ or "").partition("\n\n")[2].partition("run        ")
        print(f"usage: {prog} run=RUN out=FOLDER [KEY=VALUE ...]\n\n{usage[1]}{usage[2]}", end="")
        return 0
    from adit_scale.errors import ConfigError
    from adit_scale.jobs.sample_words import SampleWords
    from adit_scale.jobs.sampling import Ranks

    chosen, ranks = SampleWords.parse(words), Ranks.from_environment()
    if ranks.world_size > 1 and chosen.processes > 1:
        raise ConfigError(
            f"processes={chosen.processes} under a launcher that started {ranks.world_size} processes; "
            "expected one of the two"
        )
    order = prepare(chosen, ranks)
    folder = order.folder(chosen.out)
    try:
        return _draw_and_finish(words, chosen, order, folder, ranks)
    except KeyboardInterrupt:
        missing = len(folder.missing())
        print(f"stopped; {missing} of {folder.n_parts} parts are left: the same words go on", file=sys.stderr)
        raise


def prepare(chosen: SampleWords, ranks: Ranks) -> Order:
    """The order that the words make. Raises AditError."""
    from pathlib import Path

    from adit_scale.errors import ConfigError
    from adit_scale.jobs.sample_model import open_model
    from adit_scale.jobs.sample_words import in_these_words
    from adit_scale.jobs.sampling import choose_device, make_order

    device = choose_device(chosen.device, ranks.local_rank)
    model = open_model(chosen.run, chosen.data, Path(chosen.autoencoder) if chosen.autoencoder else None)
    domains = chosen.domains or model.data.domains()
    sampling = chosen.settings(model.sampling)
    try:
        return make_order(model, dict.fromkeys(domains, chosen.n), sampling, device)
    except ConfigError as error:
        raise ConfigError(in_these_words(str(error))) from error


def _draw_and_finish(
    words: Sequence[str], chosen: SampleWords, order: Order, folder: SampleFolder, ranks: Ranks
) -> int:
    from adit_scale.data.tools.progress import ProgressBar
    from adit_scale.evaluation.sample_files import finish
    from adit_scale.jobs.sample_processes import draw_in_processes, usual_processes

    first = ranks.rank == 0
    if first:
        print(_headline(order, folder), flush=True)
    units = dict.fromkeys(("sampling",), "samples")
    with ProgressBar("structures", units=units, log_every_s=10.0 if first else float("inf")) as bar:
        missing = folder.missing()
        counter = _Counter(bar, order, missing, ranks)
        processes = chosen.processes
        if not processes and ranks.world_size == 1:
            processes = usual_processes(order.device.type, len(missing), order.parameters)
        if processes > 1 and missing:
            draw_in_processes(words, processes, counter, bar.say)
        else:
            order.draw(folder, ranks, counter, bar.say)
        if missing := folder.missing():
            bar.say(
                f"rank {ranks.rank}: done; {len(missing)} of {folder.n_parts} parts are left to other ranks"
            )
            return 0
        done = finish(folder, chosen.formats, bar)
    for line in _summary(done, order, str(chosen.out)):
        print(line)
    return 0


class _Counter:
    """Samples done, to the bar; told in fractions of a batch."""

    def __init__(self, bar: Any, order: Order, missing: Sequence[int], ranks: Ranks) -> None:
        own = {plan.number: len(plan.places) for plan in order.plans[ranks.rank :: ranks.world_size]}
        self.total = sum(own.values())
        self.done = float(self.total - sum(own.get(number, 0) for number in missing))
        self.bar = bar
        self.bar("sampling", int(self.done), self.total)

    def __call__(self, samples: float) -> None:
        self.done += samples
        self.bar("sampling", min(int(self.done + 1e-6), self.total), self.total)


def _headline(order: Order, folder: SampleFolder) -> str:
    s = order.sampling
    what = " and ".join(f"{n:,} {name}s" for name, n in folder.record["samples"].items())
    grid = s.time_grid if s.time_grid_parameter is None else f"{s.time_grid} {s.time_grid_parameter:g}"
    low, high = s.guidance_t_low, s.guidance_t_high
    during = "" if (low, high) == (0, 1) else f" from t {low:g} to {high:g}"
    facts = [
        f"{s.steps} steps of {s.solver}",
        f"{grid} grid",
        f"guidance {s.guidance_scale:g}{during}",
        f"atoms {s.atoms.replace('drawn', 'data')}",
        *([f"spacegroup {s.spacegroup.replace('drawn', 'data')}"] if s.spacegroup != "none" else []),
        f"seed {s.seed}",
        f"{s.precision} on {order.device.type}",
    ]
    there = folder.n_parts - len(folder.missing())
    return f"{what} of {order.model.place}: {', '.join(facts)}; {folder.n_parts} batches" + (
        f", {there} there already" if there else ""
    )


def _summary(done: Mapping[str, Any], order: Order, out: str) -> list[str]:
    lines = []
    for domain, counts in done["samples"].items():
        line = f"{domain}s: {counts['drawn']:,} drawn"
        if counts["invalid"]:
            line += f", {counts['invalid']:,} are no system of atoms ({_reasons(counts['reasons'])})"
        lines.append(line)
    for name, written in done["files"].items():
        line = (
            f"{name}: {', '.join(written['files']) or 'nothing to write'}, {written['samples']:,} structures"
        )
        if written["left_out"]:
            line += f"; left out: {_reasons(written['left_out'])}"
        lines.append(line)
    return [*lines, f"{out}: done, samples {done['digest'][:16]}"]


def _reasons(counts: Mapping[str, int]) -> str:
    ranked = sorted(counts.items(), key=lambda item: -item[1])
    more = f", {len(ranked) - _SHOWN} other reasons" if len(ranked) > _SHOWN else ""
    return ", ".join(f"{reason}: {n:,}" for reason, n in ranked[:_SHOWN]) + more
