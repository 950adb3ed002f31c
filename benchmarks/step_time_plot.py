"""Weak and strong scaling as the step model has it, for docs/benchmarks.md."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from adit_scale.models.config import AutoencoderConfig, ModelConfig
from adit_scale.models.ladder import LADDER, encoder_flops, training_flops
from adit_scale.performance.choice import Choice, best, choices
from adit_scale.performance.constants import NETWORKS, find_device, find_network
from adit_scale.performance.step import StepTime, Work, gpu_machine, step_time
from adit_scale.training.config import DiffusionStageConfig, ParallelConfig

GPU, MFU = "h100", 0.4
RANKS = (8, 16, 32, 64, 128, 256, 512, 1024)
RUNGS = ("dit_s", "dit_b", "dit_l", "dit_xl")
SET_ATOMS = 16
LOADERS = 4  # data.workers
WEAK_ATOMS = 16_384  # a GPU
STRONG_ATOMS = 2**20  # all GPUs together
# Colours of Okabe and Ito, which colour-blind readers tell apart; marks differ as well.
STYLES = dict(
    zip(RUNGS, (("#0072B2", "o"), ("#D55E00", "s"), ("#009E73", "^"), ("#CC79A7", "D")), strict=True)
)
TITLES = {
    "nvlink_ib": "NVLink, 8 x 400G InfiniBand a node",
    "nvlink_200g": "NVLink, 1 x 200G a node",
    "nvlink_ethernet": "NVLink, 1 x 100G Ethernet a node",
    "pcie": "PCIe 4.0, 1 x 200G a node",
}
STAGE = DiffusionStageConfig(
    steps=500_000, validate_every_steps=5000, validation_sets=2048, checkpoint_every_steps=5000
)


def step_of(rung: str, network: str, ranks: int, atoms: float) -> Choice:
    """The best choice for ``atoms`` of all ranks."""
    model = ModelConfig(AutoencoderConfig(), LADDER[rung])
    machine = replace(gpu_machine(GPU, MFU, "bf16"), loaders=LOADERS)
    sets = max(1, round(atoms / SET_ATOMS))
    sizes = [SET_ATOMS] * sets
    flops = training_flops(model.denoiser, sizes, STAGE.self_conditioning)
    work = Work(flops, encoder_flops(model.autoencoder, sizes), SET_ATOMS * sets, sets)
    parallel = ParallelConfig(ranks, 1, "bf16", micro_batch_atoms=WEAK_ATOMS)
    between = find_network(network, GPU)

    def time_of(own: ParallelConfig) -> StepTime:
        return step_time(model, STAGE, own, work, machine, between)

    found = best(choices(model, parallel, work.atoms / ranks, find_device(GPU).usable_bytes, time_of))
    assert found is not None, (rung, ranks)
    return found


def efficiencies(rung: str, network: str, strong: bool = False) -> list[float]:
    """By RANKS: the model's efficiency at WEAK_ATOMS a GPU; or, strong, of STRONG_ATOMS over all GPUs,
    GPU-seconds a step of 8 over those of W."""
    if not strong:
        return [step_of(rung, network, ranks, WEAK_ATOMS * ranks).time.efficiency for ranks in RANKS]
    gpu_s = [ranks * step_of(rung, network, ranks, STRONG_ATOMS).time.step_s for ranks in RANKS]
    return [gpu_s[0] / s for s in gpu_s]


def table() -> str:
    """Markdown: efficiency of weak and strong scaling, and the best stage and micro-batch."""
    lines = [
        "| network | rung | weak, 8 | 64 | 256 | 1,024 | strong, 64 | 256 | 1,024 | best at 64, at 1,024 |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for network in NETWORKS:
        for rung in RUNGS:
            weak, strong = efficiencies(rung, network), efficiencies(rung, network, strong=True)
            at = [RANKS.index(ranks) for ranks in (8, 64, 256, 1024)]
            cells = [f"{100 * weak[i]:.0f}%" for i in at] + [f"{100 * strong[i]:.0f}%" for i in at[1:]]
            own = [step_of(rung, network, n, WEAK_ATOMS * n).parallel for n in (64, 1024)]
            words = "; ".join(f"ZeRO {p.zero_stage}, {p.micro_batch_atoms:,}" for p in own)
            lines.append(f"| {network} | {rung} | {' | '.join(cells)} | {words} |")
    return "\n".join(lines)


def draw(path: Path) -> None:
    """A panel a network."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, panels = plt.subplots(1, len(NETWORKS), figsize=(13.5, 3.9), sharey=True, layout="constrained")
    for panel, network in zip(panels, NETWORKS, strict=True):
        for rung in RUNGS:
            colour, mark = STYLES[rung]
            percent = [100 * e for e in efficiencies(rung, network)]
            panel.plot(RANKS, percent, color=colour, marker=mark, markersize=5, label=rung)
        panel.set_xscale("log", base=2)
        panel.set_xticks(RANKS, [str(n) for n in RANKS])
        panel.set(title=TITLES[network], xlabel="GPUs", ylim=(0, 105))
        panel.axhline(100, color="#888888", linewidth=0.8, linestyle=":")
        panel.grid(alpha=0.25)
    panels[0].set_ylabel("weak-scaling efficiency (%)")
    panels[0].legend(title="model, not measured", loc="lower left")
    figure.suptitle(
        f"Share of a step that one GPU would take too: {WEAK_ATOMS:,} atoms a GPU, H100 at {100 * MFU:.0f}% "
        "MFU (assumed), best ZeRO stage. Model, not measured"
    )
    figure.savefig(path, dpi=110)
    print(f"wrote {path}\n\n{table()}")
