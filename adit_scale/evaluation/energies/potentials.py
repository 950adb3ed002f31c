"""Energy models behind one interface: a name gives an ASE calculator, made once a process.

``chgnet``, ``chgnet-r2scan`` (extra ``potentials``; weights come with the package and are read as tensors,
nothing is unpickled), ``emt`` and ``lj`` of ASE (toys: metals of the effective medium theory; argon for every
element), ``xtb`` (GFN2-xTB by tblite, extra ``chemistry``; molecules), or ``module:function``: a callable
without arguments that returns an ASE calculator, imported and run as it is. Name only code you trust.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import io
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, packages_distributions, version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from adit_scale.errors import ConfigError

if TYPE_CHECKING:
    from ase.calculators.calculator import Calculator

# Weights inside the installed package, and the hull their energies stand on. CHGNet's authors trained 0.3.0
# on MP2020-corrected energies (README of the package, note 2), so they must not be corrected once more.
_CHGNET = {
    "chgnet": ("0.3.0", "chgnet_0.3.0_e29f68s314m37.pth.tar", "GGA/GGA+U with MP2020 corrections"),
    "chgnet-r2scan": (
        "r2scan",
        "chgnet_r2scan_transfer_learning_e15f36s161m23.pth.tar",
        "r2SCAN, uncorrected",
    ),
}
_TOYS = {"emt": "EMT of ASE", "lj": "Lennard-Jones of ASE, argon for every element"}
_EXTRA = {"chgnet": "potentials", "tblite": "chemistry", "ase": "potentials"}
NAMES = (*_CHGNET, *_TOYS, "xtb")


@dataclass(frozen=True)
class Potential:
    """An energy model by name. scale: what its energies compare with, "" where only with its own."""

    name: str
    device: str = "cpu"

    def __post_init__(self) -> None:
        """Raises ConfigError for a name that means nothing here, or a package that is not installed."""
        if self.name in NAMES:
            needed = ["ase"] + ["chgnet"] * (self.name in _CHGNET) + ["tblite"] * (self.name == "xtb")
            for package in needed:
                require(package, f"the energy model {self.name!r}")
        elif ":" not in self.name:
            raise ConfigError(
                f"no energy model is named {self.name!r}; expected one of {', '.join(NAMES)} "
                "or module:function, a callable that gives an ASE calculator"
            )
        else:
            require("ase", f"the energy model {self.name!r}")

    @property
    def scale(self) -> str:
        return _CHGNET[self.name][2] if self.name in _CHGNET else ""

    def describe(self) -> str:
        """Model, version and digest of its weights. Imports nothing heavy."""
        if self.name in _CHGNET:
            weights, path = _CHGNET[self.name][0], _chgnet_weights(self.name)
            return f"CHGNet {weights} (chgnet {version('chgnet')}, weights sha256 {_digest(path)})"
        if self.name in _TOYS:
            return f"{_TOYS[self.name]} {version('ase')}"
        if self.name == "xtb":
            return f"GFN2-xTB (tblite {version('tblite')})"
        top = self.name.partition(":")[0].partition(".")[0]
        packages = packages_distributions().get(top, [])
        with contextlib.suppress(PackageNotFoundError):
            if packages:
                return f"{self.name} ({packages[0]} {version(packages[0])})"
        return f"{self.name} (version unknown)"

    def preload(self) -> None:
        """Import the model's package, so that processes forked from this one need not."""
        if self.name in _CHGNET:
            importlib.import_module("chgnet.model")
        elif self.name == "xtb":
            importlib.import_module("tblite.ase")
        elif self.name not in _TOYS:
            _callable(self.name)

    def calculator(self) -> Calculator:
        """The calculator of this process; the same one for every call."""
        return _calculator(self)


def require(package: str, purpose: str) -> None:
    """Raises ConfigError, naming the extra to install, where an optional package is missing."""
    if find_spec(package) is None:
        raise ConfigError(
            f"{purpose} needs the package {package}: pip install 'adit-scale[{_EXTRA[package]}]'"
        )


@cache
def _calculator(potential: Potential) -> Calculator:
    name = potential.name
    if name in _CHGNET:
        return _chgnet(name, potential.device)
    if name == "emt":
        from ase.calculators.emt import EMT

        return EMT()
    if name == "lj":
        from ase.calculators.lj import LennardJones

        return LennardJones(sigma=3.4, epsilon=0.0104, rc=8.5, smooth=True)
    if name == "xtb":
        from tblite.ase import TBLite

        return TBLite(method="GFN2-xTB", verbosity=0)
    return _from_callable(name)


def _chgnet(name: str, device: str) -> Calculator:
    import torch
    from chgnet.model import CHGNet, CHGNetCalculator

    if device.startswith("cuda") and not torch.cuda.is_available():
        raise ConfigError(
            f"evaluation.energies.device is {device!r}, but there is no CUDA device; expected cpu"
        )
    state = torch.load(_chgnet_weights(name), map_location="cpu", weights_only=True)
    with contextlib.redirect_stdout(io.StringIO()):  # it names itself and its device on every start
        # As CHGNet.load does; with the bias, energies of lone atoms would jump (its issue 79).
        model = CHGNet.from_dict(state["model"], mlp_out_bias=False, version=_CHGNET[name][0])
        return CHGNetCalculator(model, use_device=device, on_isolated_atoms="error")


def _chgnet_weights(name: str) -> Path:
    spec = find_spec("chgnet")
    assert spec is not None
    assert spec.origin is not None
    folder, file, _ = _CHGNET[name]
    path = Path(spec.origin).parent / "pretrained" / folder / file
    if not path.is_file():
        raise ConfigError(
            f"the installed chgnet {version('chgnet')} has no {path.name}; expected chgnet 0.4.2 or newer, "
            f"or another energy model than {name!r}"
        )
    return path


@cache
def _digest(path: Path) -> str:
    """First 12 hex digits of the SHA-256 of a file of megabytes."""
    return hashlib.sha256(path.read_bytes()).hexdigest()[:12]


def _callable(name: str) -> Callable[[], Calculator]:
    module, _, function = name.partition(":")
    try:
        found = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(
            f"energy model {name!r} cannot be imported ({error}); expected module:function on Python's path"
        ) from error
    if not callable(found):
        raise ConfigError(f"energy model {name!r} is no callable; expected one that gives an ASE calculator")
    return found


def _from_callable(name: str) -> Calculator:
    calculator = _callable(name)()
    if not callable(getattr(calculator, "get_property", None)):
        raise ConfigError(
            f"energy model {name!r} gave a {type(calculator).__name__}; expected an ASE calculator"
        )
    return calculator
