"""Claim: under muP activations keep their size at every width, and wide networks bear larger rates.

    python benchmarks/mup_coordinates.py

Denoisers of one depth and head width on the demo corpus (latents of an autoencoder never trained), of the
base width and up to 8 times it. First, after a few steps of Adam: the slope of log rms of each layer's change
against log width (tests/training/coordinates.py). Then short runs of one seed at several learning rates: the
largest one at which a width still trains. They are too short and too few to tell the best rate. Prints JSON,
writes it to benchmarks/results/ and the picture to docs/img/mup_coordinates.png.
"""

from __future__ import annotations

import argparse
import math
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np
import torch
from record import RESULTS, record, row, write

from adit_scale.training.config import OptimConfig
from adit_scale.training.optimizer import set_learning_rate
from adit_scale.training.schedule import learning_rate
from tests.training import coordinates
from tests.training.coordinates import Coordinates

PICTURE = Path(__file__).parents[1] / "docs" / "img" / "mup_coordinates.png"
PARAMETRIZATIONS = ("standard", "mup")
LABELS = {"standard": "standard", "mup": "muP"}
LAYERS = {  # of the last block, with Okabe and Ito's colours
    "blocks.1.attention.qkv": ("queries, keys, values", "#0072B2", "o"),
    "blocks.1.attention": ("attention", "#E69F00", "s"),
    "blocks.1.mlp": ("MLP", "#009E73", "^"),
    "blocks.1.modulation": ("modulation", "#D55E00", "D"),
    "final.head": ("head", "#000000", "x"),
}
COLOURS = ("#56B4E9", "#0072B2", "#D55E00", "#000000")
LAST = 0.3  # of the steps, over which the loss of a short run is a mean
DIVERGED = 2.0  # times the lowest loss of its width

Losses = dict[int, list[float]]  # width -> loss by learning rate


def short_run(width: int, optim: OptimConfig, data: coordinates.Data) -> float:
    """Mean training loss over the last steps; the data and noise of each step are the same in all runs."""
    datasets, steps = data
    stage = coordinates.make_stage(width, optim, 0, datasets)
    adamw = coordinates.make_optimizer(stage)
    losses = []
    for step, batches in enumerate(steps):
        set_learning_rate(adamw.param_groups, learning_rate(step, len(steps), optim))
        loss = coordinates.step_loss(stage, batches, step)
        loss.backward()
        adamw.step()
        adamw.zero_grad()
        losses.append(float(loss.detach()))
    return float(np.mean(losses[-max(1, round(LAST * len(losses))) :]))


def basins(args: argparse.Namespace, rates: list[float]) -> dict[str, Losses]:
    data = coordinates.steps_of(args.steps)
    found: dict[str, Losses] = {}
    for parametrization in PARAMETRIZATIONS:
        found[parametrization] = {}
        for width in args.rate_widths:
            losses = []
            for lr in rates:
                optim = OptimConfig(
                    lr=lr, schedule="wsd", warmup_steps=args.steps // 10, parametrization=parametrization,
                    base_width=args.widths[0],
                )  # fmt: skip
                losses.append(short_run(width, optim, data))
                print(f"{parametrization} width {width} lr {lr:.2g}: {losses[-1]:.3f}", file=sys.stderr)
            found[parametrization][width] = losses
    return found


def largest_rate(rates: list[float], losses: list[float]) -> float:
    """The largest at which, and below which, no run diverged."""
    bad = [i for i, loss in enumerate(losses) if not loss < DIVERGED * min(losses)]
    return rates[min(bad) - 1] if bad else rates[-1]


def draw(path: Path, checks: dict[str, Coordinates], step: int, rates: list[float], found: dict) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, panels = pyplot.subplots(2, 2, figsize=(9, 7), sharey="row", layout="constrained")
    for column, parametrization in enumerate(PARAMETRIZATIONS):
        axes, check = panels[0, column], checks[parametrization]
        for layer, (label, colour, marker) in LAYERS.items():
            axes.plot(check.widths, check.change[layer][:, step], marker=marker, color=colour, label=label)
        axes.set(xscale="log", yscale="log", xlabel="width", title=LABELS[parametrization])
        axes.set_xticks(check.widths, [str(width) for width in check.widths])
        axes.minorticks_off()
        axes = panels[1, column]
        for (width, losses), colour in zip(found[parametrization].items(), COLOURS, strict=False):
            axes.plot(rates, losses, "o-", color=colour, label=f"width {width}", markersize=4)
        axes.set(xscale="log", yscale="log", xlabel="learning rate at the base width")
        axes.set_yticks([2, 3, 5, 10, 20], ["2", "3", "5", "10", "20"])
        axes.minorticks_off()
    panels[0, 0].set_ylabel(f"change of activations (rms) after {step} steps")
    panels[1, 0].set_ylabel("training loss, end of a short run")
    panels[0, 1].legend(frameon=False)
    panels[1, 1].legend(frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--widths", type=int, nargs="+", default=[64, 128, 256, 512], help="base width first")
    parser.add_argument("--lr", type=float, default=1e-3, help="of the coordinate check")
    parser.add_argument("--check-steps", type=int, default=5)
    parser.add_argument("--seeds", type=int, default=2, help="of the coordinate check")
    parser.add_argument("--rate-widths", type=int, nargs="+", default=[64, 256])
    parser.add_argument("--rates", type=float, nargs=2, default=[5e-4, 6.4e-2], help="lowest and highest")
    parser.add_argument("--steps", type=int, default=120, help="of a short run")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder for the result")
    parser.add_argument("--picture", type=Path, default=PICTURE)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    n = args.check_steps
    checks = {p: coordinates.coordinates(p, args.widths, args.lr, n, args.seeds) for p in PARAMETRIZATIONS}
    slopes = {p: check.slopes("change", n) for p, check in checks.items()}
    for layer in slopes["mup"]:
        print(f"{layer:24s}" + "".join(f" {p} {slopes[p][layer]:+.3f}" for p in PARAMETRIZATIONS),
              file=sys.stderr)  # fmt: skip
    steepest = {p: max(abs(slope) for slope in slopes[p].values()) for p in PARAMETRIZATIONS}
    low, high = args.rates
    rates = [low * 2**i for i in range(round(math.log2(high / low)) + 1)]
    found = basins(args, rates)
    most = {p: {w: largest_rate(rates, losses) for w, losses in found[p].items()} for p in PARAMETRIZATIONS}
    draw(args.picture, checks, n, rates, found)
    first, last = args.rate_widths[0], args.rate_widths[-1]
    kept = {p: most[p][last] / most[p][first] for p in PARAMETRIZATIONS}
    names = f"widths {args.widths[0]} to {args.widths[-1]}"
    rows = [
        row(f"largest slope of any layer's change, {names}, muP", steepest["mup"],
            "standard parametrization", steepest["standard"], "d log rms / d log width", slopes=slopes),
        row(f"largest learning rate that trains, width {last} over width {first}, muP", kept["mup"],
            "standard parametrization", kept["standard"], "", rates=rates, losses=found, largest=most),
    ]  # fmt: skip
    write("mup_coordinates", record("mup_coordinates", ["torch"], rows), args.out)
    return 0 if steepest["mup"] <= 0.1 else 1


if __name__ == "__main__":
    sys.exit(main())
