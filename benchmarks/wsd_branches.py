"""Claim: three decay branches of one trunk of constant rate each end below the trunk's loss at the same step.

    python benchmarks/wsd_branches.py --sources qm9_sample.extxyz.gz mp20_biternary_val.csv.gz --work FOLDER

Shards, an autoencoder, a trunk with kept checkpoints and the branches, each by the command a user would type
(`adit data build`, `adit train stage=...`, `adit train resume=CHECKPOINT schedule=decay`). Started again it
goes on where it stopped. Each branch decays over --decay-fraction of its total; the trunk is validated at
every branch's end. Prints JSON, writes it to benchmarks/results/ and the curves to FOLDER/wsd_branches.png.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path

from record import RESULTS, record, row, write

ADIT = (sys.executable, "-c", "import sys; from adit_scale.cli import main; sys.exit(main())")
EVENTS_EVERY = 25


def adit(*words: str) -> None:
    """Run a command to its end, its output on this terminal."""
    print("$ adit", *words, file=sys.stderr, flush=True)
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    subprocess.run([*ADIT, *words], check=True, env=environment, stdout=sys.stderr)


def stage_words(args: argparse.Namespace, stage: str, out: Path) -> list[str]:
    return [
        "train",
        "sweep=scaling_demo",
        "data=files",
        f"stage={stage}",
        f"out={out}",
        f"data.shards={args.work / 'shards'}",
        f"parallel.threads={args.threads}",
        f"parallel.precision={args.precision}",
        f"{stage}.steps={args.autoencoder_steps if stage == 'autoencoder' else args.steps}",
        f"{stage}.atom_budget={args.autoencoder_atoms if stage == 'autoencoder' else args.atoms}",
    ]


def train_all(args: argparse.Namespace) -> tuple[Path, dict[int, Path]]:
    """The trunk's folder and the branches', by the steps of the trunk they left at."""
    work: Path = args.work
    if not (work / "shards" / "manifest.json").is_file():
        adit("data", "build", *map(str, args.sources), "--out", str(work / "shards"))
    autoencoder, trunk = work / "autoencoder", work / "trunk"
    if not (autoencoder / "weights").is_dir():
        adit(*stage_words(args, "autoencoder", autoencoder))
    at = ",".join(map(str, args.branch_steps))
    if not (trunk / "weights").is_dir():
        adit(
            *stage_words(args, "diffusion", trunk),
            f"autoencoder={autoencoder}",
            f"model/denoiser={args.rung}",
            "diffusion.optim.schedule=constant",
            f"diffusion.optim.lr={args.lr}",
            f"diffusion.branch_steps=[{at}]",
            f"diffusion.validate_every_steps={EVENTS_EVERY}",
            f"diffusion.checkpoint_every_steps={args.steps}",
            "diffusion.samples_every_steps=0",
        )
    branches = {}
    for step in args.branch_steps:
        branches[step] = work / f"branch-{step}"
        if not (branches[step] / "weights").is_dir():
            total = branch_end(args, step)
            adit(
                "train",
                f"resume={trunk / 'checkpoints' / f'step-{step:08d}'}",
                "schedule=decay",
                f"steps={total}",
                f"out={branches[step]}",
            )
    return trunk, branches


def branch_end(args: argparse.Namespace, step: int) -> int:
    """The total of which the decay is the asked fraction, at a step where the trunk is validated too."""
    return EVENTS_EVERY * round(step / (1 - args.decay_fraction) / EVENTS_EVERY)


def curve(folder: Path) -> dict[int, float]:
    from adit_scale.tracking.journal import read_journal, series

    return dict(zip(*series(read_journal(folder), "validation/loss"), strict=True))


def draw(path: Path, trunk: dict[int, float], branches: dict[int, dict[int, float]]) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(6.4, 4))
    late = {step: loss for step, loss in trunk.items() if step >= min(branches) / 2}
    axes.plot(list(late), list(late.values()), color="0.5", label="trunk, constant rate")
    for step, found in branches.items():
        start = {step: trunk[step]} if step in trunk else {}
        points = {**start, **found}
        (line,) = axes.plot(list(points), list(points.values()), label=f"decay from step {step}")
        axes.plot(*list(points.items())[-1], "o", color=line.get_color())
    axes.set(xlabel="step", ylabel="validation loss of the average", xscale="log")
    axes.legend(frameon=False)
    figure.savefig(path, dpi=160, bbox_inches="tight")


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--sources", nargs="+", type=Path, required=True, help="files for `adit data build`")
    parser.add_argument("--work", type=Path, required=True, help="folder for shards and runs")
    parser.add_argument("--rung", default="dit_96")
    parser.add_argument("--steps", type=int, default=6000, help="of the trunk")
    parser.add_argument("--atoms", type=int, default=1024, help="a step")
    parser.add_argument("--lr", type=float, default=3e-3)
    parser.add_argument("--branch-steps", type=int, nargs="+", default=[1000, 2000, 4000])
    parser.add_argument("--decay-fraction", type=float, default=0.3)
    parser.add_argument("--autoencoder-steps", type=int, default=3500)
    parser.add_argument("--autoencoder-atoms", type=int, default=2048)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--precision", default="fp32")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder for the result")
    args = parser.parse_args()
    args.work = args.work.absolute()
    for step in args.branch_steps:
        if branch_end(args, step) > args.steps:
            parser.error(f"--steps is {args.steps}; the branch from {step} ends at {branch_end(args, step)}")
    trunk, folders = train_all(args)
    constant = curve(trunk)
    branches = {step: curve(folder) for step, folder in folders.items()}
    rows = []
    for step, found in branches.items():
        end = max(found)
        rows.append(
            row(f"branch from step {step}", found[end], f"trunk at step {end}", constant[end],
                "validation loss", end=end, trunk_at_start=constant.get(step))
        )  # fmt: skip
    draw(args.work / "wsd_branches.png", constant, branches)
    write("wsd_branches", record("wsd_branches", ["torch", "deepspeed"], rows), args.out)
    return 0 if all(r["ratio"] < 1 for r in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
