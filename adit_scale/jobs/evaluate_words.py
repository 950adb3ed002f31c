"""The words of `adit evaluate`, as settings: paths, and ``key=value``."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from adit_scale.atoms import DOMAIN_NAMES
from adit_scale.errors import ConfigError
from adit_scale.evaluation.config import EvaluationConfig
from adit_scale.jobs.sample_words import whole_number

_DEFAULTS = EvaluationConfig()
# Of scoring: said of a study in its configuration, and here by the other words.
_NOT_HERE = ("reference_sets",)


def setting_names() -> list[str]:
    """Every setting of scoring, those of energies as ``energies.NAME``."""
    names = []
    for name, value in asdict(_DEFAULTS).items():
        names += [f"{name}.{inner}" for inner in value] if isinstance(value, dict) else [name]
    return [name for name in names if name not in _NOT_HERE]


@dataclass(frozen=True)
class Words:
    """paths: words that are no setting. said: the others by key. config: what they make of evaluation."""

    paths: tuple[str, ...]
    said: dict[str, str]
    config: EvaluationConfig

    @staticmethod
    def parse(
        words: Sequence[str], command: str, own: Sequence[str], settings: bool = True, n_paths: str = "PATH"
    ) -> Words:
        """own: keys of the command. settings: whether it also takes those of evaluation.

        Raises ConfigError for an unknown key, one said twice, a value out of range, and without any path
        where ``n_paths`` names them.
        """
        known = [*own, *(setting_names() if settings else ())]
        paths: list[str] = []
        said: dict[str, str] = {}
        for word in words:
            key, equals, value = word.partition("=")
            if not equals or (key not in known and Path(word).exists()):
                paths.append(word)
            elif key not in known:
                near = difflib.get_close_matches(key, known, n=3, cutoff=0.5)
                hint = f"did you mean {' or '.join(near)}?" if near else f"expected one of {', '.join(known)}"
                raise ConfigError(f"{word}: no such word of {command}; {hint}")
            elif key in said:
                raise ConfigError(f"{key} is said twice, {said[key]} and {value}; expected it once")
            else:
                said[key] = value
        if n_paths and not paths:
            raise ConfigError(f"{command}: no {n_paths}; see {command} --help")
        if not n_paths and paths:
            raise ConfigError(f"{paths[0]}: not key=value; see {command} --help")
        return Words(tuple(paths), said, _config({k: v for k, v in said.items() if k not in own}))

    def folder(self, key: str) -> Path | None:
        """Raises ConfigError where it is a file."""
        if not self.said.get(key):
            return None
        path = Path(self.said[key])
        if path.is_file():
            raise ConfigError(f"{key}={path} is a file; expected a folder")
        return path

    def required(self, key: str, what: str) -> str:
        if not self.said.get(key):
            raise ConfigError(f"{key} is missing; expected {key}={what}")
        return self.said[key]

    def number(self, key: str, default: int = 0) -> int:
        return whole_number(key, self.said.get(key, str(default)), 0)

    def domains(self) -> tuple[int, ...]:
        """Those said, else both. Raises ConfigError."""
        by_name = {name: number for number, name in DOMAIN_NAMES.items()}
        names = [n.strip() for n in self.said.get("domain", ",".join(by_name)).split(",")]
        for name in names:
            if name not in by_name:
                raise ConfigError(
                    f"domain is {name!r}; expected {' or '.join(by_name)}, or both with a comma"
                )
        return tuple(by_name[name] for name in names)


def _config(said: dict[str, str]) -> EvaluationConfig:
    """Typed and validated. Raises ConfigError in the words of the command line."""
    tree: dict[str, Any] = {}
    for key, text in said.items():
        group, _, name = key.rpartition(".")
        listed = isinstance(getattr(_DEFAULTS, key, None), list)
        value = [part.strip() for part in text.split(",") if part.strip()] if listed else text
        (tree.setdefault(group, {}) if group else tree)[name] = value
    try:
        config = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(EvaluationConfig), tree))
        assert isinstance(config, EvaluationConfig)
        config.validate()
    except OmegaConfBaseException as error:
        line = str(error).strip().splitlines()[0]
        raise ConfigError(f"{getattr(error, 'full_key', None) or ''}: {line}") from error
    except ConfigError as error:
        raise ConfigError(str(error).replace("evaluation.", "")) from error
    return config
