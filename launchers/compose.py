"""From command-line words to a typed study: Hydra's compose API, and its errors in one line.

The only importer of hydra. Every key of the tree has a type from ``StudyConfig`` before a YAML file is
merged into it, so an unknown key or a wrong type fails here, before anything is started.
"""

from __future__ import annotations

import difflib
import itertools
import json
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import ConfigCompositionException, MissingConfigException, OverrideParseException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from adit_scale.config import StudyConfig, from_tree
from adit_scale.errors import ConfigError
from adit_scale.models.ladder import LADDER
from adit_scale.scaling.points import SIZE_AXIS, StudyPoint, point_label
from launchers.config import LauncherConfig

CONFIGS = Path(__file__).resolve().parents[1] / "configs"


@dataclass(frozen=True)
class Study:
    """What one launch is about. ``config`` is shared by all points; each point has its own full copy."""

    config: StudyConfig
    launcher: LauncherConfig
    points: tuple[StudyPoint, ...]
    overrides: tuple[str, ...]

    @property
    def folder(self) -> Path:
        return Path(self.config.runs).absolute() / self.config.sweep.name


def compose_study(overrides: Sequence[str], configs: Path = CONFIGS) -> Study:
    """The study that the given Hydra overrides describe.

    The points are the product of ``sweep.grid``'s axes. An override of an axis replaces its values, and a
    comma list (``seed=0,1,2``) makes one. Precedence, weakest first: files, ``sweep.overrides_by_size``,
    the command line, the axes. Raises ConfigError.
    """
    parsed = _parse(overrides)
    plain = [o for o in parsed if not o.is_sweep_override()]
    with _hydra(configs):
        tree = _compose([_line(o) for o in plain])
        grid = _grid(tree, parsed)
        tree.sweep.grid = grid
        config = _typed(tree)
        fixed = [_line(o) for o in plain if o.key_or_group not in grid]
        points = [_point(axes, config.sweep.overrides_by_size, fixed, grid) for axes in _product(grid)]
    labels = [point.label for point in points]
    twice = sorted({label for label in labels if labels.count(label) > 1})
    if twice:
        raise ConfigError(f"sweep.grid names a point twice: {', '.join(twice)}; expected different values")
    return Study(config, _launcher(config), tuple(points), tuple(overrides))


def choices(configs: Path = CONFIGS) -> dict[str, list[str]]:
    """Every config group and what it can be set to."""
    groups: dict[str, list[str]] = {}
    for path in sorted(configs.rglob("*.yaml")):
        group = path.parent.relative_to(configs).as_posix()
        if group != ".":
            groups.setdefault(group, []).append(path.stem)
    return {**groups, SIZE_AXIS: list(LADDER)}


@contextmanager
def _hydra(configs: Path) -> Iterator[None]:
    """Hydra with our typed schema; the sizes of the ladder become choices of model/denoiser."""
    store = ConfigStore.instance()
    store.store(name="study_schema", node=StudyConfig)
    store.store(name="launcher_schema", node=LauncherConfig)
    for rung, shape in LADDER.items():
        store.store(group=SIZE_AXIS, name=rung, node=shape)
    with initialize_config_dir(str(configs), version_base="1.3"):
        yield


def _parse(overrides: Sequence[str]) -> list[Override]:
    try:
        parsed = OverridesParser.create().parse_overrides(list(overrides))
    except OverrideParseException as error:
        raise ConfigError(
            f"{error.override}: not an override ({str(error).splitlines()[0]}); expected key=value, "
            f"in quotes where the shell would eat brackets"
        ) from error
    known = choices()
    for override in parsed:
        group = override.key_or_group
        if not group:
            raise ConfigError(f"{_line(override)}: not an override; expected key=value")
        if group in known and isinstance(override.value(), int | float):
            raise ConfigError(f"{_line(override)}: no such choice; expected one of {', '.join(known[group])}")
    return parsed


def _line(override: Override) -> str:
    assert override.input_line is not None
    return override.input_line


def _compose(overrides: list[str]) -> DictConfig:
    try:
        return compose("config", overrides=overrides)
    except MissingConfigException as error:
        raise ConfigError(_no_such_choice(error)) from error
    except ConfigCompositionException as error:
        raise ConfigError(_bad_setting(error, overrides)) from error


def _typed(tree: DictConfig) -> StudyConfig:
    """Checked anew from plain values: a ``+key=`` may have added what no setting is."""
    container = OmegaConf.to_container(tree, resolve=True)
    assert isinstance(container, dict)
    return from_tree(container)


def _grid(tree: DictConfig, overrides: list[Override]) -> dict[str, list[Any]]:
    """The axes of the study: those of the sweep's file, as the command line changes them."""
    grid = OmegaConf.to_container(tree.sweep.grid, resolve=True)
    assert isinstance(grid, dict)
    for override in overrides:
        if override.is_sweep_override():
            if not override.is_choice_sweep():
                raise ConfigError(f"{_line(override)}: not a list of values; expected key=value,value,...")
            grid[str(override.key_or_group)] = list(override.sweep_iterator())
        elif override.key_or_group in grid:
            grid[str(override.key_or_group)] = [override.value()]
    axes = {str(axis): values for axis, values in grid.items()}
    for axis, values in axes.items():
        if not isinstance(values, list) or not values:
            raise ConfigError(f"sweep.grid.{axis} is {values!r}; expected a list of values")
    return axes


def _product(grid: dict[str, list[Any]]) -> Iterator[dict[str, Any]]:
    for values in itertools.product(*grid.values()):
        yield dict(zip(grid, values, strict=True))


def _point(
    axes: dict[str, Any], by_size: dict[str, list[str]], fixed: list[str], grid: dict[str, list[Any]]
) -> StudyPoint:
    for size in by_size:
        if size not in LADDER:
            raise ConfigError(
                f"sweep.overrides_by_size.{size}: no such size; expected one of {', '.join(LADDER)}"
            )
    own = [f"{axis}={_literal(value)}" for axis, value in axes.items()]
    tree = _compose([*by_size.get(str(axes.get(SIZE_AXIS)), []), *fixed, *own])
    tree.sweep.grid = grid
    return StudyPoint(point_label(axes), axes, _typed(tree), tuple(own))


def _literal(value: Any) -> str:
    """``value`` in the grammar of Hydra's overrides."""
    if isinstance(value, str):
        return value if re.fullmatch(r"[\w./:+-]+", value) else json.dumps(value)
    if isinstance(value, list):
        return "[" + ",".join(_literal(v) for v in value) + "]"
    if isinstance(value, dict):
        return "{" + ",".join(f"{k}:{_literal(v)}" for k, v in value.items()) + "}"
    return json.dumps(value)


def _launcher(config: StudyConfig) -> LauncherConfig:
    try:
        launcher = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(LauncherConfig), config.launcher))
    except OmegaConfBaseException as error:
        raise ConfigError(f"launcher: {str(error).splitlines()[0]}") from error
    assert isinstance(launcher, LauncherConfig)
    launcher.validate()
    return launcher


def _no_such_choice(error: MissingConfigException) -> str:
    group, _, name = (error.missing_cfg_file or "").rpartition("/")
    if not error.options:
        return str(error).splitlines()[0]
    known = ", ".join(error.options)
    return f"{group}={name}: no such choice{_suggestion(name, error.options)}; expected one of {known}"


def _bad_setting(error: ConfigCompositionException, overrides: list[str]) -> str:
    """One line from Hydra's message and the OmegaConf error below it."""
    first = str(error).splitlines()[0]
    unknown = re.match(r"Could not override '([^']+)'", first)
    if unknown is None:
        cause = str(error.__cause__ or "").splitlines()
        return f"{first.removeprefix('Error merging override ')}: {cause[0]}" if cause else first
    key = unknown.group(1)
    line = next((o for o in overrides if o.lstrip("+~").split("=")[0] == key), key)
    if "/" in key:
        groups = list(choices())
        return f"{line}: no such group{_suggestion(key, groups)}; expected one of {', '.join(groups)}"
    return f"{line}: no such setting; {_neighbours(key, line)}"


def _neighbours(key: str, line: str) -> str:
    """What stands where an unknown dotted key was looked for."""
    node: Any = {**asdict(StudyConfig()), "launcher": asdict(LauncherConfig())}
    known: list[str] = []
    for part in key.split("."):
        if not isinstance(node, dict) or part not in node:
            break
        known.append(part)
        node = node[part]
    path, rest = ".".join(known), key.split(".")[len(known) :]
    if not isinstance(node, dict):
        return f"{path} is a single value"
    if not node:  # a table that users fill, such as data.repeat
        return f"to add an entry to {path}, write +{line}"
    return f"{path or 'the root'} has {', '.join(node)}{_suggestion(rest[0], list(node)) if rest else ''}"


def _suggestion(name: str, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1)
    return f" (did you mean {close[0]}?)" if close else ""
