"""Random SIGKILLs of random ranks at random moments: does the run end where an undisturbed one ends?

    python -m tests.faults.kill_drill --kills 100 --output results.txt

A kill comes a random time after a start (imports, resume, first steps), a random number of steps behind the
checkpoint, or while a save is on the disk but not committed. The rank that is left gets a short random grace,
as an agent gives it, and is killed too. Then the run is started again. At the end, weights are compared byte
by byte and the journal record by record, wall-clock fields and records about resuming left out.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import platform
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from adit_scale.config import StudyConfig
from adit_scale.tracking.journal import read_journal
from adit_scale.training import checkpoint
from adit_scale.training.exit_codes import EXIT_DONE
from tests.faults.zygote import Ranks, Zygote
from tests.training import runs

TRAIN = "tests.faults.injected:train"
WORLD_SIZE = 2
STEPS_PER_KILL = 5  # more than a run gains between two kills, so that kills do not outlast it
MOMENTS = ("start", "step", "save")


@dataclasses.dataclass(frozen=True)
class Kill:
    """torn: a save was cut off. from_step: the checkpoint that this attempt went on from. step: its last."""

    moment: str
    rank: int
    from_step: int
    step: int
    torn: bool


def drill(zygote: Zygote, folder: Path, shards: Path, kills: int, seed: int) -> tuple[list[Kill], list[str]]:
    """Run twice in ``folder``, once undisturbed. Returns the kills, and what differs at the end."""
    rng = random.Random(seed)
    config = study(shards, steps=STEPS_PER_KILL * kills + 10)
    whole = runs.prepare(folder / "whole", config, "autoencoder")
    killed = runs.prepare(folder / "killed", config, "autoencoder")
    codes = start(zygote, whole).wait(timeout_s=1200)
    assert codes == [EXIT_DONE] * WORLD_SIZE, (whole / "log.txt").read_text()[-3000:]
    done: list[Kill] = []
    while len(done) < kills:
        done.append(one_kill(zygote, killed, rng))
        if sys.stderr.isatty():
            print(f"\r{len(done)} of {kills} kills, step {done[-1].step}", end="", file=sys.stderr)
    codes = start(zygote, killed).wait(timeout_s=1200)
    assert codes == [EXIT_DONE] * WORLD_SIZE, (killed / "log.txt").read_text()[-3000:]
    return done, differences(whole, killed)


def study(shards: Path, steps: int) -> StudyConfig:
    config = runs.small_study(shards, steps, world_size=WORLD_SIZE, zero_stage=2)
    stage = config.autoencoder
    stage.atom_budget, stage.validation_sets = 60, 4
    stage.checkpoint_every_steps, stage.validate_every_steps, stage.log_every_steps = 3, 7, 2
    return config


def start(zygote: Zygote, folder: Path) -> Ranks:
    return zygote.start(TRAIN, str(folder), world_size=WORLD_SIZE, log=folder / "log.txt")


def one_kill(zygote: Zygote, folder: Path, rng: random.Random) -> Kill:
    """One attempt from its start to the death of all its ranks."""
    moment, rank = rng.choice(MOMENTS), rng.randrange(WORLD_SIZE)
    from_step, began_s = newest_step(folder), time.time()
    ranks = start(zygote, folder)
    if moment == "start":
        time.sleep(rng.uniform(0.0, 1.5))
    elif moment == "step":
        aim = from_step + rng.randint(1, 2 * STEPS_PER_KILL)
        watch(ranks, lambda: last_step(folder) >= aim)
        time.sleep(rng.uniform(0.0, 0.05))
    else:
        watch(ranks, lambda: last_step(folder) > from_step and saving(folder, began_s))
        time.sleep(rng.uniform(0.0, 0.03))
    ranks.kill(rank)
    torn = saving(folder, began_s)
    time.sleep(rng.choice((0.0, 0.1, 0.5)))
    ranks.kill_all()
    return Kill(moment, rank, from_step, last_step(folder), torn)


def watch(ranks: Ranks, reached: Callable[[], bool], timeout_s: float = 120) -> None:
    deadline_s = time.monotonic() + timeout_s
    while not reached():
        assert time.monotonic() < deadline_s, ranks.log.read_text()[-3000:]
        assert not ranks.poll(), "the run ended before it could be killed; raise STEPS_PER_KILL"
        time.sleep(0.002)


def newest_step(folder: Path) -> int:
    return max((int(path.name[5:]) for path in checkpoint.committed(folder / "checkpoints")), default=0)


def saving(folder: Path, since_s: float) -> bool:
    """Whether a save begun after ``since_s`` is on the disk without its marker."""
    for path in (folder / "checkpoints").glob("step-*"):
        with suppress(FileNotFoundError):  # pruned meanwhile
            if path.stat().st_ctime > since_s and not (path / checkpoint.MARKER).is_file():
                return True
    return False


def last_step(folder: Path) -> int:
    if not (folder / "journal.jsonl").is_file():
        return 0
    return max((record["step"] for record in read_journal(folder)), default=0)


def records(folder: Path) -> list[tuple]:
    """What a journal says, but for clocks and for what only a resumed run has to say."""
    return [
        (r["kind"], r["step"], r["values"])
        for r in read_journal(folder)
        if r["values"].get("event") not in checkpoint.RESUME_EVENTS
    ]


def differences(whole: Path, killed: Path) -> list[str]:
    """One line for each thing that is not the same in both folders."""
    lines = []
    weights = [(folder / "weights" / "weights.safetensors").read_bytes() for folder in (whole, killed)]
    if weights[0] != weights[1]:
        lines.append("weights differ")
    a, b = records(whole), records(killed)
    if len(a) != len(b):
        lines.append(f"journal: {len(a)} records undisturbed, {len(b)} killed")
    first = next((pair for pair in zip(a, b, strict=False) if pair[0] != pair[1]), None)
    if first:
        lines.append(f"journal: first difference: {first[0]} undisturbed, {first[1]} killed")
    return lines


def table(kills: list[Kill]) -> str:
    """Kills by moment: how many, of which rank, how many cut a save off, steps trained again."""
    rows = [("moment", "kills", "rank 0", "rank 1", "saves torn", "steps lost")]
    for moment in (*MOMENTS, "all"):
        chosen = [kill for kill in kills if moment in (kill.moment, "all")]
        by_rank = Counter(kill.rank for kill in chosen)
        torn = sum(kill.torn for kill in chosen)
        after = {id(a): b.from_step for a, b in itertools.pairwise(kills)}
        lost = sum(max(0, kill.step - after.get(id(kill), kill.step)) for kill in chosen)
        rows.append((moment, *map(str, (len(chosen), by_rank[0], by_rank[1], torn, lost))))
    return "\n".join("".join(f"{cell:>12}" for cell in row) for row in rows)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.faults.kill_drill", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, help="also write what is printed here")
    options = parser.parse_args(arguments)
    begin = time.monotonic()
    with tempfile.TemporaryDirectory() as name, Zygote() as zygote:
        folder = Path(name)
        shards = runs.small_data(folder / "shards")
        kills, different = drill(zygote, folder, shards, options.kills, options.seed)
    text = "\n".join(
        [
            f"python -m tests.faults.kill_drill --kills {options.kills} --seed {options.seed}",
            f"{time.strftime('%Y-%m-%d')}, {platform.machine()}, Python {platform.python_version()}, "
            f"{WORLD_SIZE} ranks (gloo), ZeRO 2, {STEPS_PER_KILL * options.kills + 10} steps, "
            f"a save every 3, {time.monotonic() - begin:.0f} s",
            table(kills),
            *(different or ["weights: equal byte by byte; journal: equal record by record"]),
        ]
    )
    print(text)
    if options.output:
        options.output.write_text(text + "\n")
    return 1 if different else 0


if __name__ == "__main__":
    sys.exit(main())
