"""Settings of sampling. No heavy imports."""

from __future__ import annotations

from dataclasses import dataclass

from adit_scale.diffusion.time_grids import check_time_grid
from adit_scale.errors import ConfigError, check_range
from adit_scale.models.config import DenoiserConfig

SOLVER_NAMES = ("euler", "heun", "midpoint")
PRECISIONS = ("auto", "fp32", "bf16")
CUDA_GRAPHS = ("auto", "on", "off")
DRAWN, NO_LABEL = "drawn", "none"
MAX_SPACEGROUP = 230
MAX_ATOMS = 2**16 - 1  # of one set, as in shards
# What batch_atoms=0 is. On a CPU a batch should stay in the caches. On CUDA it should fill the device: 128
# rows, a tile of a matrix product, for each of the 132 multiprocessors of an H100 or H200.
BATCH_ATOMS = {"cpu": 1024, "cuda": 132 * 128}


@dataclass
class SamplingConfig:
    """How many structures are drawn from a trained model, and how (docs/method.md, "Sampling").

    crystals, molecules: samples of each domain.
    steps: N, the points of the time grid. ``euler`` evaluates the network N times, ``heun`` and ``midpoint``
        2N - 2 times: compare solvers at equal evaluations.
    solver: euler, heun or midpoint.
    time_grid: uniform, power, shifted or cosine. time_grid_parameter: exponent of power (0.2 to 5, null = 2),
        shift of shifted (0.05 to 20, null = 3).
    guidance_scale: s of ``uncond + s (cond - uncond)``; 1 is no guidance, at half the cost.
    guidance_t_low, guidance_t_high: guidance acts at times from one to the other, noise being 0 and data 1;
        elsewhere only the conditional half is evaluated.
    atoms: ``drawn`` from the training sets' histogram of the domain, or a number for every sample.
    spacegroup: of crystals; ``none``, ``drawn`` from the training sets' histogram, or a number 1 to 230. All
        but none need a denoiser trained with ``model.denoiser.spacegroup_conditioning``.
    precision: of the denoiser's matrix products, fp32 or bf16; ``auto`` is bf16 where the device has
        hardware for it. The flow's states, the heads and the decoder are fp32 always.
    batch_atoms, batch_sets: what one batch holds at most; batch_atoms 0 takes what suits the device
        (``BATCH_ATOMS``), batch_sets 0 is no limit but that of atoms. A single sample of more atoms is a
        batch of its own.
    pad_batches: fill every batch up to ``batch_atoms`` (a domain whose samples do not fill half of that: to a
        power of two), so that all matrix products have one shape and sample i is the same to the last bit
        whatever else is drawn. Without, the same up to rounding, at the cost of the samples alone.
    cuda_graphs: on, off, or ``auto``: where they can run, which is on CUDA, in bf16, with ``pad_batches``.
    compile: the denoiser's blocks by torch.compile, before graphs record them; needs CUDA graphs.
    """

    crystals: int = 1000
    molecules: int = 1000
    steps: int = 100
    guidance_scale: float = 2.0
    seed: int = 0
    batch_atoms: int = 0
    batch_sets: int = 0
    pad_batches: bool = True
    solver: str = "euler"
    time_grid: str = "uniform"
    time_grid_parameter: float | None = None
    guidance_t_low: float = 0.0
    guidance_t_high: float = 1.0
    atoms: str = DRAWN
    spacegroup: str = NO_LABEL
    precision: str = "auto"
    cuda_graphs: str = "auto"
    compile: bool = False

    def validate(self) -> None:
        lows = {"steps": 2, "crystals": 0, "molecules": 0, "seed": 0, "batch_atoms": 0, "batch_sets": 0}
        for key, low in lows.items():
            check_range(f"sampling.{key}", getattr(self, key), low)
        _check_choice("solver", self.solver, SOLVER_NAMES)
        _check_choice("precision", self.precision, PRECISIONS)
        if self.cuda_graphs in ("True", "False"):  # what YAML makes of a bare on and off
            raise ConfigError("sampling.cuda_graphs is a bare on or off; in a file write it as 'on' or 'off'")
        _check_choice("cuda_graphs", self.cuda_graphs, CUDA_GRAPHS)
        check_time_grid(self.time_grid, self.time_grid_parameter)
        check_range("sampling.guidance_scale", self.guidance_scale, -100.0, 100.0)
        check_range("sampling.guidance_t_low", self.guidance_t_low, 0.0, 1.0)
        check_range("sampling.guidance_t_high", self.guidance_t_high, 0.0, 1.0)
        if self.guidance_t_low > self.guidance_t_high:
            raise ConfigError(
                f"sampling.guidance_t_low is {self.guidance_t_low}, sampling.guidance_t_high is "
                f"{self.guidance_t_high}; expected low to be at most high; guidance_scale=1 is no guidance"
            )
        _ = self.chosen_atoms, self.chosen_spacegroup
        if self.cuda_graphs == "on" and not self.pad_batches:
            raise ConfigError(
                "sampling.cuda_graphs is 'on' with sampling.pad_batches=false, whose batches all differ in "
                "shape; expected 'auto' or 'off', or pad_batches=true"
            )
        if self.compile and (self.cuda_graphs == "off" or not self.pad_batches):
            raise ConfigError(
                "sampling.compile is true without CUDA graphs; expected false, or sampling.cuda_graphs=auto "
                "and sampling.pad_batches=true"
            )

    @property
    def chosen_atoms(self) -> int | None:
        """The number of atoms of every sample; None where it is drawn. Raises ConfigError."""
        if self.atoms == DRAWN:
            return None
        return _number("atoms", self.atoms, MAX_ATOMS, f"{DRAWN!r} or a number from 1 to {MAX_ATOMS}")

    @property
    def chosen_spacegroup(self) -> int | None:
        """The spacegroup of every crystal, 0 for none; None where it is drawn. Raises ConfigError."""
        if self.spacegroup == DRAWN:
            return None
        if self.spacegroup == NO_LABEL:
            return 0
        expected = f"{NO_LABEL!r}, {DRAWN!r} or a number from 1 to {MAX_SPACEGROUP}"
        return _number("spacegroup", self.spacegroup, MAX_SPACEGROUP, expected)


def check_spacegroups(asked: bool, model: DenoiserConfig) -> None:
    """Raises ConfigError where spacegroups are asked of a denoiser that never saw their labels."""
    if asked and not model.spacegroup_conditioning:
        raise ConfigError(
            f"sampling.spacegroup asks for a label that the denoiser {model.name} was trained without; "
            "set sampling.spacegroup=none, or train with model.denoiser.spacegroup_conditioning=true"
        )


def _check_choice(key: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ConfigError(f"sampling.{key} is {value!r}; expected one of {', '.join(choices)}")


def _number(key: str, value: str, high: int, expected: str) -> int:
    """Text, or an int where the settings were made in Python, as a number from 1 to ``high``."""
    text = str(value)
    if text.isascii() and text.isdigit() and len(text) < 10 and 1 <= int(text) <= high:
        return int(text)
    raise ConfigError(f"sampling.{key} is {text}; expected {expected}")
