"""Claim: the memory a training run plans for a GPU (training/memory.py) is within 10% of what it takes.

    python benchmarks/gpu_memory.py

Each case is a process of its own: a real run of three steps with a validation and a save (training/run.py)
on random sets of 8 to 24 atoms over a small autoencoder. Measured is torch.cuda.max_memory_allocated. Of the
cases ``auto`` the run finds its micro-batch itself (parallel.micro_batch=auto). On a CPU, only to try the
script, the measured growth is that of the resident memory. Writes benchmarks/results/gpu-memory.json anew
after every case.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

GIB = 2**30
MARK = "MEASURED "


@dataclass(frozen=True)
class Case:
    """atoms: of a micro-batch; 0 lets the run find the most that fit."""

    rung: str
    precision: str
    atoms: int
    recompute: bool = False
    zero_stage: int = 1

    def __str__(self) -> str:
        atoms = f"{self.atoms:,} atoms" if self.atoms else "auto"
        return (
            f"{self.rung}, {self.precision}, ZeRO {self.zero_stage}, {atoms}{', recomputed' * self.recompute}"
        )


CASES = (
    Case("dit_s", "bf16", 16_384),
    Case("dit_b", "bf16", 16_384),
    Case("dit_l", "bf16", 16_384),
    Case("dit_xl", "bf16", 16_384),
    Case("dit_l", "bf16", 16_384, recompute=True),
    Case("dit_b", "fp32", 8192),
    Case("dit_b", "bf16", 16_384, zero_stage=2),
    Case("dit_s", "bf16", 0),
    Case("dit_l", "bf16", 0),
)
TINY = (Case("dit_64", "fp32", 512), Case("dit_64", "fp32", 0))


def settings(case: Case, device: str, shards: Path, most_atoms: int) -> Any:
    """The settings of the run. most_atoms: of a step whose micro-batch is found."""
    from adit_scale.config import StudyConfig
    from adit_scale.data.config import DataConfig
    from adit_scale.models.config import ModelConfig
    from adit_scale.models.ladder import LADDER
    from adit_scale.training.config import DiffusionStageConfig, ParallelConfig

    return StudyConfig(
        data=DataConfig(shards=str(shards), block_sets=256),
        model=ModelConfig(_autoencoder(), LADDER[case.rung]),
        diffusion=DiffusionStageConfig(
            steps=3,
            atom_budget=case.atoms or most_atoms,
            validation_sets=16,
            validate_every_steps=2,
            checkpoint_every_steps=2,
        ),
        parallel=ParallelConfig(
            zero_stage=case.zero_stage,
            precision=case.precision,
            micro_batch="fixed" if case.atoms else "auto",
            micro_batch_atoms=case.atoms,
            activation_checkpointing=case.recompute,
            device=device,
        ),
    )


def _autoencoder() -> Any:
    from adit_scale.models.config import AutoencoderConfig

    return AutoencoderConfig(width=128, encoder_depth=4, decoder_depth=4, heads=4, feedforward=512)


def run_case(case: Case, device: str, folder: Path, most_atoms: int) -> None:
    """In a process of its own: trains, and prints the bytes of its peak and the capacity it ran at."""
    import torch

    from adit_scale.models.autoencoder import Autoencoder
    from adit_scale.training import run, weights
    from adit_scale.training.micro_batch import FILE as MICRO_BATCH_FILE

    weights.save(folder / "autoencoder", _autoencoder(), Autoencoder(_autoencoder()).state_dict())
    before = _resident("VmRSS")
    config = settings(case, device, folder / "shards", most_atoms)
    run.train(folder / "run", config, "diffusion", folder / "autoencoder")
    chosen = folder / "run" / MICRO_BATCH_FILE
    atoms = case.atoms or json.loads(chosen.read_text())["choice"]["atoms"]
    found: dict[str, Any] = {"atoms": atoms}
    if device == "cuda":
        found["bytes"] = torch.cuda.max_memory_allocated()
        found["device_bytes"] = torch.cuda.get_device_properties(0).total_memory
    else:
        found["bytes"] = _resident("VmHWM") - before
    print(MARK + json.dumps(found), flush=True)


def _resident(field: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024
    raise AssertionError(field)


def measure(case: Case, device: str, shards: Path, most_atoms: int, limit_s: float) -> dict[str, Any] | None:
    """None where the run failed: the end of what it said is printed."""
    with tempfile.TemporaryDirectory() as name:
        (Path(name) / "shards").symlink_to(shards)
        words = [json.dumps(asdict(case)), device, name, str(most_atoms)]
        command = [sys.executable, __file__, "--case", *words]
        environment = {**os.environ, **({"DS_ACCELERATOR": "cpu"} if device == "cpu" else {})}
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, check=False, timeout=limit_s
        )
    line = next((line for line in done.stdout.splitlines() if line.startswith(MARK)), None)
    if line is None:
        print(f"{case} failed:\n{done.stdout[-1000:]}{done.stderr[-3000:]}", file=sys.stderr, flush=True)
        return None
    return json.loads(line.removeprefix(MARK))


def main() -> int:
    from memory_planner import make_shards
    from record import RESULTS, record, row, write

    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--device", default="cuda", choices=("cpu", "cuda"))
    parser.add_argument(
        "--most-atoms", type=int, default=524_288, help="of a step whose micro-batch is found"
    )
    parser.add_argument("--case-limit-s", type=float, default=120)
    parser.add_argument("--tiny", action="store_true", help="two small cases")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder for the result")
    args = parser.parse_args()
    rows: list[dict[str, Any]] = []
    failed: list[str] = []
    cases = TINY if args.tiny else CASES
    with tempfile.TemporaryDirectory() as name:
        make_shards(Path(name))
        for i, case in enumerate(cases):
            found = measure(case, args.device, Path(name), args.most_atoms, args.case_limit_s)
            if found is None:
                failed.append(str(case))
            else:
                planned = _planned(case, args.device, Path(name), found["atoms"])
                rows.append(
                    row(
                        f"memory, {case}",
                        planned / GIB,
                        "measured peak",
                        found["bytes"] / GIB,
                        "GiB",
                        **found,
                    )
                )
            more = {"failed": failed, "partial": i + 1 < len(cases)}
            write("gpu-memory", record("gpu_memory", ["torch", "deepspeed"], rows) | more, args.out)
    return int(bool(failed))


def _planned(case: Case, device: str, shards: Path, atoms: int) -> float:
    from dataclasses import replace

    from adit_scale.training.memory import plan_memory

    config = settings(replace(case, atoms=atoms), device, shards, atoms)
    plan = plan_memory(config.model, config.parallel, "diffusion", cuda=device == "cuda")
    return plan.peak_bytes if device == "cuda" else plan.peak_bytes + plan.host_bytes


if __name__ == "__main__":
    if sys.argv[1:2] == ["--case"]:
        run_case(Case(**json.loads(sys.argv[2])), sys.argv[3], Path(sys.argv[4]), int(sys.argv[5]))
    else:
        sys.exit(main())
