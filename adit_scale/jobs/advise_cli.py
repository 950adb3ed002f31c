"""``adit advise``: what to train with a budget, from a finished study.

    adit advise study=FOLDER[,FOLDER...] gpu_hours=N gpu=NAME [key=value ...]

study      folders RUNS/STUDY of studies over one autoencoder; together their sizes and
           amounts of data must fit L(N, D) (sweep=isoflop or sweep=chinchilla)
gpu_hours  to spend on one training run
gpu        a100, b200, gh200, h100, h100 nvl, h100 pcie, h200 or h200 nvl
mfu        share of the peak that training reaches; by default as the study measured it
           on such a GPU, else 0.4
price      of a GPU-hour, in any currency
loss       a validation loss: the budget that it needs; gpu_hours may then be left out
json       print JSON
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from adit_scale.errors import ConfigError, DataError
from adit_scale.scaling.config import BudgetConfig

KEYS = ("study", "gpu_hours", "gpu", "mfu", "price", "loss", "json")


def main(words: Sequence[str], prog: str = "adit advise") -> int:
    """Returns 0. Raises AditError, OSError."""
    if not words or {"-h", "--help"} & set(words):
        usage = (__doc__ or "").partition("\n\n")[2].partition("study      ")
        print(
            f"usage: {prog} study=FOLDER gpu_hours=N gpu=NAME [KEY=VALUE ...]\n\n{usage[1]}{usage[2]}", end=""
        )
        return 0
    chosen = AdviseWords.parse(words)
    print(advise_from(chosen))
    return 0


@dataclass(frozen=True)
class AdviseWords:
    """gpu_hours, mfu, loss: None where not said."""

    studies: tuple[Path, ...]
    gpu: str
    gpu_hours: float | None
    mfu: float | None
    price: float
    loss: float | None
    as_json: bool

    @staticmethod
    def parse(words: Sequence[str]) -> AdviseWords:
        """From ``key=value`` words. Raises ConfigError in one line."""
        from adit_scale.jobs.sample_words import key_values, study_folders
        from adit_scale.scaling.advice_budget import bf16_peak

        said = key_values(["json=true" if w in ("json", "--json") else w for w in words], KEYS, "adit advise")
        folders = study_folders(said)
        if not {"gpu_hours", "loss"} & set(said):
            raise ConfigError("gpu_hours is missing; expected gpu_hours=N, or loss=X for what that needs")
        if "gpu" not in said:
            raise ConfigError("gpu is missing; expected a GPU such as gpu=h100 (see adit advise --help)")
        bf16_peak(said["gpu"])  # mistakes first, then reading and fitting
        return AdviseWords(
            tuple(Path(folder) for folder in folders),
            said["gpu"],
            _positive(said, "gpu_hours"),
            _positive(said, "mfu", 1.0),
            _positive(said, "price") or 0.0,
            _positive(said, "loss"),
            said.get("json", "false") != "false",
        )


def advise_from(chosen: AdviseWords) -> str:
    """What is printed. Raises DataError where the studies have no L(N, D)."""
    # Fits and their arrays: not before words are known to be right.
    from adit_scale.jobs.points import collect
    from adit_scale.scaling.advice import advise, budget_for, with_wanted_loss
    from adit_scale.scaling.advice_budget import hardware
    from adit_scale.scaling.advice_text import as_json, as_text
    from adit_scale.scaling.study_fit import fit_study

    found = collect(chosen.studies)
    assumed = BudgetConfig().mfu
    machine = hardware(found.points, chosen.gpu, chosen.mfu, assumed, chosen.price)
    study = fit_study(found.points, found.sweep, ceilings=found.ceilings)
    if chosen.gpu_hours is not None:
        advice = advise(study, machine.flops(chosen.gpu_hours))
        if chosen.loss is not None:
            advice = with_wanted_loss(advice, study, chosen.loss)
    else:
        assert chosen.loss is not None
        needed = budget_for(study, chosen.loss)
        if math.isinf(needed.value):
            raise DataError(
                f"loss is {chosen.loss:g}, which no budget reaches as far as the fitted law goes; expected "
                "more than its E"
            )
        advice = replace(advise(study, needed.value), needed=needed, wanted_loss=chosen.loss)
    if chosen.as_json:
        return json.dumps(as_json(advice, machine, found.studies), indent=1, allow_nan=False)
    return as_text(advice, machine, found.studies)


def _positive(said: dict[str, str], key: str, most: float = math.inf) -> float | None:
    if key not in said:
        return None
    try:
        value = float(said[key])
    except ValueError:
        value = math.nan
    if not (0 < value <= most and math.isfinite(value)):
        upto = f" and at most {most:g}" if math.isfinite(most) else ""
        raise ConfigError(f"{key} is {said[key]}; expected a number over 0{upto}")
    return value
