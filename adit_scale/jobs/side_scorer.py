"""The process beside a training run.

    python -m adit_scale.jobs.side_scorer AUTOENCODER_WEIGHTS SCORING_FOLDER PARENT idle|usual

Takes the oldest snapshot without a result, draws samples from it, scores them, writes the result; and waits
for the next. ``idle``: it runs on what the training leaves of the processors and the disk. It ends with the
training. A mistake that it can name becomes the step's result; anything else ends it, and the run says so.
"""

from __future__ import annotations

import ctypes
import os
import platform
import signal
import sys
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from adit_scale import config as settings
from adit_scale.diffusion.config import DRAWN, NO_LABEL
from adit_scale.errors import AditError, one_line

if TYPE_CHECKING:
    import numpy as np

    from adit_scale.models.autoencoder import Autoencoder

BATCH_ATOMS = 1024  # small batches leave the caches to the training
POLL_S = 0.5
SIGN_S = 1.0  # between two signs of life
PR_SET_PDEATHSIG = 1
IOPRIO_SET = {"x86_64": 251, "aarch64": 30}  # numbers of the system call
IOPRIO_IDLE = 3 << 13  # class idle


def main(autoencoder_weights: Path, folder: Path, parent: int, priority: str) -> None:
    os.setpgid(0, 0)  # a Ctrl-C is for the run: it decides
    if priority == "idle":
        run_idle()
    die_with(parent)
    # Heavy: after the priority is set.
    import torch

    from adit_scale.jobs.sampling import sample_sizes
    from adit_scale.training import snapshots
    from adit_scale.training.weights import load_autoencoder

    config = settings.load(folder / snapshots.SETTINGS)
    torch.set_num_threads(config.diffusion.scoring.threads)
    config = cheap(config)
    scorer = Scorer(
        folder,
        config,
        load_autoencoder(autoencoder_weights),
        sample_sizes(config.data, config.sampling),
        parent,
    )
    while True:
        scorer.sign_of_life()
        waiting = snapshots.waiting(folder)
        if not waiting:
            time.sleep(POLL_S)
            continue
        try:
            result = scorer.score(waiting[0])
        except AditError as error:
            result = {"event": snapshots.FAILED, "reason": one_line(error)}
        snapshots.write_result(folder, waiting[0], result)


def cheap(config: settings.StudyConfig) -> settings.StudyConfig:
    """The settings of a few samples: quick draws, and of the checks those that take microseconds."""
    n = config.diffusion.samples_per_domain
    sampling = replace(
        config.sampling,
        crystals=min(n, config.sampling.crystals),
        molecules=min(n, config.sampling.molecules),
        steps=config.diffusion.sample_steps,
        batch_atoms=min(BATCH_ATOMS, config.sampling.batch_atoms or BATCH_ATOMS),
        pad_batches=False,
        cuda_graphs="off",
        compile=False,
        atoms=DRAWN,
        spacegroup=NO_LABEL,
    )
    evaluation = replace(
        config.evaluation,
        protocols=["edm"],
        crystal_uniqueness=False,
        crystalnn=False,
        novelty=False,
        processes=1,
        relax="",
        hull="",
        relax_molecules=[],
    )
    return replace(config, sampling=sampling, evaluation=evaluation)


class Scorer:
    def __init__(
        self,
        folder: Path,
        config: settings.StudyConfig,
        autoencoder: Autoencoder,
        sizes: dict[int, np.ndarray],
        parent: int,
    ) -> None:
        self.folder, self.config, self.parent = folder, config, parent
        self.device = config.diffusion.scoring.device
        self.autoencoder, self.sizes = autoencoder.to(self.device), sizes
        self._sign_s = 0.0

    def score(self, step: int) -> dict:
        """values under the names of the final scores, from ``samples/`` on, and clock. Raises AditError."""
        from adit_scale.atoms import CRYSTAL, MOLECULE
        from adit_scale.evaluation.crystals import judge_crystals
        from adit_scale.evaluation.draw import draw_samples
        from adit_scale.evaluation.molecules import judge_molecules
        from adit_scale.evaluation.score import score
        from adit_scale.training import snapshots
        from adit_scale.training.weights import load_denoiser

        begin = time.monotonic()
        denoiser = load_denoiser(snapshots.step_folder(self.folder, step)).to(self.device)
        samples = draw_samples(
            denoiser, self.autoencoder, self.sizes, self.config.sampling, self.sign_of_life
        )
        drawn = time.monotonic()
        # So few are judged in this process: limits of their own would cost seconds of imports.
        checks = self.config.evaluation
        molecules, crystals = samples.get(MOLECULE), samples.get(CRYSTAL)
        scores = score(
            judge_molecules(molecules, checks, progress=self.sign_of_life) if molecules else None,
            judge_crystals(crystals, checks, progress=self.sign_of_life, processes=0) if crystals else None,
            checks,
        )
        values = scores.flat_values() | snapshots.read_values(self.folder, step)
        return {
            "values": {f"samples/{name}": value for name, value in values.items()},
            "clock": {"draw_s": drawn - begin, "score_s": time.monotonic() - drawn, "time_s": time.time()},
        }

    def sign_of_life(self, _: object = None) -> None:
        """Tell the run that this goes on, at most once a second; end where the run has ended."""
        from adit_scale.training import snapshots

        if os.getppid() != self.parent:
            sys.exit()
        now = time.monotonic()
        if now - self._sign_s > SIGN_S:
            self._sign_s = now
            (self.folder / snapshots.PROGRESS).touch()


def run_idle() -> None:
    """Only on processor time and disk time that nobody else wants, where the system can do that."""
    os.setpriority(os.PRIO_PROCESS, 0, 19)
    if sys.platform == "linux":
        with suppress(PermissionError):  # of a container that forbids even this
            os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
        if (number := IOPRIO_SET.get(platform.machine())) is not None:
            ctypes.CDLL(None).syscall(number, 1, 0, IOPRIO_IDLE)


def die_with(parent: int) -> None:
    """End when the run is killed, whatever it is killed by."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it ended meanwhile
        sys.exit()


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), sys.argv[4])
