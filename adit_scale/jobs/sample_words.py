"""The words of `adit sample`, as settings."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from adit_scale.atoms import DOMAIN_NAMES
from adit_scale.diffusion.config import DRAWN, SamplingConfig
from adit_scale.errors import ConfigError

FORMATS = ("extxyz", "cif", "cifs", "sdf", "shards")
# The words that are a setting of sampling under a shorter name, or under its own.
_SETTINGS = {
    "steps": "steps",
    "solver": "solver",
    "grid": "time_grid",
    "grid_parameter": "time_grid_parameter",
    "guidance": "guidance_scale",
    "seed": "seed",
    "atoms": "atoms",
    "spacegroup": "spacegroup",
    "precision": "precision",
    "batch_atoms": "batch_atoms",
    "batch_sets": "batch_sets",
    "pad_batches": "pad_batches",
    "cuda_graphs": "cuda_graphs",
    "compile": "compile",
}
_OWN = (
    "run", "n", "domain", "out", "guidance_interval", "processes", "formats", "device", "data", "autoencoder",
)  # fmt: skip
KEYS = (*_OWN[:4], *_SETTINGS, *_OWN[4:])


@dataclass(frozen=True)
class SampleWords:
    """run, out: folders. n: samples a domain. domains: None asks for all there are training data of.

    changes: fields of SamplingConfig that are said. processes: 0 where not said. data, autoencoder: folders,
    "" where not said.
    """

    run: Path
    out: Path
    n: int
    domains: tuple[int, ...] | None
    changes: Mapping[str, object]
    processes: int = 0
    formats: tuple[str, ...] = ("extxyz",)
    device: str = "auto"
    data: str = ""
    autoencoder: str = ""

    @staticmethod
    def parse(words: Sequence[str]) -> SampleWords:
        """From ``key=value`` words. Raises ConfigError in one line."""
        said = key_values(words, KEYS, "adit sample")
        for key, what in (("run", "the folder of a trained model"), ("out", "a folder for the samples")):
            if not said.get(key):
                raise ConfigError(f"{key} is missing; expected {key}=FOLDER, {what}")
        changes = {
            setting: _value(key, setting, said[key]) for key, setting in _SETTINGS.items() if key in said
        }
        if "guidance_interval" in said:
            changes |= _interval(said["guidance_interval"])
        return SampleWords(
            run=Path(said["run"]),
            out=Path(said["out"]),
            n=whole_number("n", said.get("n", "1000"), 1),
            domains=_domains(said["domain"]) if "domain" in said else None,
            changes=changes,
            processes=whole_number("processes", said["processes"], 1) if "processes" in said else 0,
            formats=_formats(said.get("formats", "extxyz")),
            device=said.get("device", "auto"),
            data=said.get("data", ""),
            autoencoder=said.get("autoencoder", ""),
        )

    def settings(self, configured: SamplingConfig) -> SamplingConfig:
        """What is said, laid over what the model's run was configured with. Raises ConfigError."""
        found = replace(configured, **self.changes)  # type: ignore[arg-type]
        try:
            found.validate()
        except ConfigError as error:
            raise ConfigError(in_these_words(str(error))) from error
        return found


def key_values(words: Sequence[str], known: Sequence[str], command: str) -> dict[str, str]:
    """``key=value`` words by key. Raises ConfigError for another word, an unknown key, or one said twice."""
    said: dict[str, str] = {}
    for word in words:
        key, equals, value = word.partition("=")
        if not equals:
            raise ConfigError(f"{word}: not key=value; see {command} --help")
        if key not in known:
            near = difflib.get_close_matches(key, known, n=3, cutoff=0.5)
            hint = f"did you mean {' or '.join(near)}?" if near else f"expected one of {', '.join(known)}"
            raise ConfigError(f"{key}={value}: no such word of {command}; {hint}")
        if key in said:
            raise ConfigError(f"{key} is said twice, {said[key]} and {value}; expected it once")
        said[key] = value
    return said


def study_folders(said: Mapping[str, str]) -> list[str]:
    """The folders of ``study=FOLDER,FOLDER``. Raises ConfigError where there is none."""
    folders = [word for word in said.get("study", "").split(",") if word]
    if not folders:
        raise ConfigError("study is missing; expected study=FOLDER, the folder RUNS/STUDY of a study")
    return folders


def whole_number(key: str, text: str, low: int) -> int:
    """Raises ConfigError for anything else than digits (with or without _), and below ``low``."""
    digits = text.replace("_", "")
    if not (digits.isascii() and digits.isdigit() and len(digits) < 10) or int(digits) < low:
        raise ConfigError(f"{key} is {text!r}; expected a whole number of at least {low}")
    return int(digits)


def _value(key: str, setting: str, text: str) -> object:
    """The text as the type that the setting has."""
    default = getattr(SamplingConfig(), setting)
    if setting in ("atoms", "spacegroup"):
        return DRAWN if text == "data" else text
    if isinstance(default, bool):
        if text.lower() not in ("true", "false"):
            raise ConfigError(f"{key} is {text!r}; expected true or false")
        return text.lower() == "true"
    if isinstance(default, int):
        return whole_number(key, text, 0)
    if isinstance(default, float) or setting == "time_grid_parameter":
        return _number(key, text)
    return text


def _number(key: str, text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ConfigError(f"{key} is {text!r}; expected a number") from None


def _interval(text: str) -> dict[str, object]:
    low, comma, high = text.partition(",")
    if not comma:
        raise ConfigError(f"guidance_interval is {text!r}; expected two times from 0 to 1, such as 0.1,0.9")
    return {
        "guidance_t_low": _number("guidance_interval", low),
        "guidance_t_high": _number("guidance_interval", high),
    }


def _domains(text: str) -> tuple[int, ...]:
    by_name = {name: number for number, name in DOMAIN_NAMES.items()}
    names = [name.strip() for name in text.split(",")]
    for name in names:
        if name not in by_name:
            near = difflib.get_close_matches(name, by_name, n=1, cutoff=0.5)
            hint = f"did you mean {near[0]}?" if near else f"expected {' or '.join(by_name)}, or both"
            raise ConfigError(f"domain is {name!r}; {hint}")
    return tuple(sorted({by_name[name] for name in names}))


def _formats(text: str) -> tuple[str, ...]:
    names = tuple(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
    for name in names:
        if name not in FORMATS:
            near = difflib.get_close_matches(name, FORMATS, n=1, cutoff=0.5)
            hint = f"did you mean {near[0]}?" if near else f"expected some of {', '.join(FORMATS)}"
            raise ConfigError(f"formats has {name!r}; {hint}")
    return names


def in_these_words(line: str) -> str:
    """An error of the settings, in the words of the command line."""
    for word, setting in _SETTINGS.items():
        line = line.replace(f"sampling.{setting} ", f"{word} ").replace(f"sampling.{setting}=", f"{word}=")
    return line.replace("'drawn'", "'data'").replace("sampling.", "")
