"""The picture of step_profile.py: a bar a side, its phases one after another as shares of the step."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from step_phases import (
    ATTENTION,
    BACKWARD,
    DATA,
    EMA,
    EMBEDDINGS,
    ENCODE,
    GRADIENTS,
    HEAD,
    LOGGING,
    LOSS,
    MLP,
    MODULATION,
    NOISE,
    NORM,
    OPTIMIZER,
    PRODUCTS,
    REST,
    SELF,
)

# Okabe and Ito's colours and greys: around the network pale, in it strong; what is small goes together.
SEGMENTS: dict[str, tuple[str, tuple[str, ...]]] = {
    "data wait, noise": ("#cccccc", (DATA, NOISE)),
    "encode": ("#999999", (ENCODE,)),
    "self-conditioning forward": ("#f0e442", (SELF,)),
    "qkv and proj": ("#0072b2", (PRODUCTS,)),
    "MLP": ("#56b4e9", (MLP,)),
    "attention": ("#d55e00", (ATTENTION,)),
    "norm, shift, scale, gate": ("#009e73", (NORM,)),
    "modulation": ("#cc79a7", (MODULATION,)),
    "embeddings, head, loss": ("#e69f00", (EMBEDDINGS, HEAD, LOSS)),
    "gradients, optimizer, EMA": ("#555555", (GRADIENTS, OPTIMIZER, EMA)),
    "logging, rest": ("#dddddd", (LOGGING, REST)),
}
LABELLED = 0.045  # of a bar; narrower pieces carry no number


def draw(results: Path, place: str, path: Path) -> None:
    """All results of a place (cpu, gpu) in one picture."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot
    from matplotlib.patches import Patch

    found = [json.loads(file.read_text()) for file in sorted(results.glob(f"step_profile-{place}-*.json"))]
    found.sort(key=lambda result: result["rows"][0]["baseline_value"])
    bars = [bar for result in found for bar in _bars(result)]
    figure, axes = pyplot.subplots(figsize=(10, 1.45 + 0.62 * len(bars)))
    for i, (_, shares) in enumerate(bars):
        _bar(axes, i, shares)
    axes.set_yticks(range(len(bars)), [title for title, _ in bars], fontsize=9)
    axes.invert_yaxis()
    axes.set(xlim=(0, 100), xlabel="share of the step (%); hatched: backward")
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(axis="y", length=0)
    handles = [Patch(facecolor=colour, label=name) for name, (colour, _) in SEGMENTS.items()]
    figure.legend(handles=handles, loc="upper center", ncols=4, frameon=False, fontsize=8.5)
    figure.tight_layout(rect=(0, 0, 1, 1 - 0.7 / figure.get_figheight()))
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=140)
    pyplot.close(figure)


def _bars(result: dict[str, Any]) -> list[tuple[str, list[tuple[str, bool, float]]]]:
    """Of one result, the baseline first: title and (segment, backward, share)."""
    whole, *phases = result["rows"]
    rung = next(iter(result["sides"].values()))["rung"]
    bars = []
    for value, share, how in (
        ("baseline_value", "baseline_share", whole["baseline"]),
        ("value", "share", whole["what"].split(", ", 1)[1]),
    ):
        shares = {row["phase"]: row[share] for row in phases}
        pieces = [
            (name, backward, sum(shares.get(f"{key}, {BACKWARD}" if backward else key, 0.0) for key in keys))
            for backward in (False, True)
            for name, (_, keys) in SEGMENTS.items()
        ]
        first = [piece for piece in pieces if not piece[1] and piece[0] not in _LAST]
        last = [piece for piece in pieces if not piece[1] and piece[0] in _LAST]
        backward_pieces = [piece for piece in pieces if piece[1]]
        title = (
            f"{rung}, {how.replace(' attention', '').replace(' kernels', '')}\n{whole[value]:,.0f} ms a step"
        )
        bars.append((title, [*first, *backward_pieces, *last]))
    return bars


_LAST = ("gradients, optimizer, EMA", "logging, rest")


def _bar(axes: Any, place: int, pieces: list[tuple[str, bool, float]]) -> None:
    left = 0.0
    for name, backward, share in pieces:
        colour, width = SEGMENTS[name][0], 100 * share
        hatch = "////" if backward else None
        axes.barh(
            place, width, left=left, color=colour, edgecolor="white", hatch=hatch, linewidth=0.6, height=0.7
        )
        if share >= LABELLED:
            box = {"facecolor": "white", "edgecolor": "none", "pad": 1, "alpha": 0.75}
            axes.text(left + width / 2, place, f"{width:.0f}", ha="center", va="center", fontsize=8, bbox=box)
        left += width
