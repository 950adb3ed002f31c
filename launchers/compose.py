"""From command-line words to a typed study: Hydra's compose API, and its errors in one line.

The only importer of hydra. Every key of the tree has a type from ``StudyConfig`` before a YAML file is
merged into it, so an unknown key or a wrong type fails here, before anything is started.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, Quote, QuotedString
from hydra.errors import ConfigCompositionException, MissingConfigException, OverrideParseException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import MarkedYAMLError

from adit_scale.config import StudyConfig, from_tree
from adit_scale.errors import ConfigError
from adit_scale.models.ladder import LADDER
from adit_scale.scaling.config import BUDGET_AXIS, DECAY_AXIS, SIZE_AXIS, SweepConfig
from adit_scale.scaling.designs import designed_points
from adit_scale.scaling.points import StudyPoint, point_label, sweep_points
from launchers.config import LauncherConfig
from launchers.placing import Placer, fields_of

CONFIGS = Path(__file__).resolve().parents[1] / "configs"
NO_TEXT = ("true", "false", "null", "nan", "inf")  # what Hydra's grammar reads as something else
# An interpolation that may read another setting of a point; these resolvers and `scale` do not.
REFERENCE = re.compile(r"\$\{(?!scale\.|(?:oc\.env|oc\.decode|now):)")


@dataclass(frozen=True)
class Study:
    """What one launch is about. ``config`` is shared by all points; each point has its own full copy.

    notes: a line on each point that the design left out.
    """

    config: StudyConfig
    launcher: LauncherConfig
    points: tuple[StudyPoint, ...]
    overrides: tuple[str, ...]
    notes: tuple[str, ...] = ()

    @property
    def folder(self) -> Path:
        return Path(self.config.runs).absolute() / self.config.sweep.name


def compose_study(overrides: Sequence[str], configs: Path = CONFIGS) -> Study:
    """The study that the given Hydra overrides describe.

    The points are the product of the axes of ``sweep.grid`` and ``sweep.zip``, and of budgets or decays, less
    ``sweep.exclude``. An override of an axis replaces its values; a comma list (``seed=0,1,2``) makes one.
    Precedence, weakest first: files, ``sweep.overrides_by_size``, the command line, the axes. Raises
    ConfigError.
    """
    parsed = _parse(overrides)
    plain = [o for o in parsed if not o.is_sweep_override()]
    with _hydra(configs):
        tree = _compose([_line(o) for o in plain])
        _change_axes(tree, parsed)
        config = _typed(tree)
        axes = config.sweep.axes()
        _check_sweep(config.sweep)
        fixed = [_line(o) for o in plain if o.key_or_group not in axes]
        composer = _PointComposer(tree.sweep, config.sweep, fixed, choices(configs))
        points, notes = designed_points(list(map(composer.point, sweep_points(config.sweep))), config.sweep)
    launcher = _launcher(config)
    sizes = dict.fromkeys([*LADDER, *(point.config.model.denoiser.name for point in points)])
    _check_sizes("launcher.by_size", launcher.by_size, sizes)
    return Study(config, launcher, points, tuple(overrides), notes)


def compose_run(overrides: Sequence[str], configs: Path = CONFIGS) -> StudyConfig:
    """The settings of a single run, whatever axes its sweep's file has.

    Raises ConfigError for a comma list.
    """
    for override in (parsed := _parse(overrides)):
        if override.is_sweep_override():
            raise ConfigError(
                f"{override.key_or_group} has {len(_values(override))} values; expected one: studies are "
                "launch.py's"
            )
    with _hydra(configs):
        config = _typed(_compose([_line(o) for o in parsed]))
    _launcher(config)
    return config


def study_folder(overrides: Sequence[str], configs: Path = CONFIGS) -> Path:
    """Where the study of these overrides is, without composing its points. Raises ConfigError."""
    plain = [_line(o) for o in _parse(overrides) if not o.is_sweep_override()]
    with _hydra(configs):
        tree = _compose(plain)
        runs, name = str(tree.runs), str(tree.sweep.name)
    return Path(runs).absolute() / name


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
        try:
            yield
        except MarkedYAMLError as error:
            mark = error.problem_mark
            where = f"{mark.name}, line {mark.line + 1}" if mark else str(configs)
            raise ConfigError(f"{where}: not YAML ({error.problem})") from error
        except UnicodeDecodeError as error:
            raise ConfigError(f"{_no_text(configs)}: not UTF-8 text; expected YAML") from error
        except OmegaConfBaseException as error:  # such as an interpolation of what there is not
            key = getattr(error, "full_key", None)
            raise ConfigError(f"{key or 'settings'}: {str(error).splitlines()[0]}") from error


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


def _change_axes(tree: DictConfig, overrides: list[Override]) -> None:
    """The axes of the sweep's file, as the command line changes them."""
    grid, zips = (OmegaConf.to_container(tree.sweep[part], resolve=True) for part in ("grid", "zip"))
    assert isinstance(grid, dict)
    assert isinstance(zips, dict)
    for override in overrides:
        axis = str(override.key_or_group)
        if override.is_sweep_override() and axis in (BUDGET_AXIS, DECAY_AXIS):
            OmegaConf.update(tree, axis, _values(override))
            continue
        part = next((part for part in zips.values() if axis in part), grid)
        if override.is_sweep_override():
            part[axis] = _values(override)
        elif axis in part or (axis == SIZE_AXIS and (grid or zips)):
            part[axis] = [override.value()]
    tree.sweep.grid, tree.sweep.zip = grid, zips


def _values(override: Override) -> list[Any]:
    if not override.is_choice_sweep():
        raise ConfigError(f"{_line(override)}: not a list of values; expected key=value,value,...")
    return [_unquoted(value) for value in override.sweep_iterator()]


def _check_sweep(sweep: SweepConfig) -> None:
    _check_sizes("sweep.overrides_by_size", sweep.overrides_by_size, LADDER)
    for axis in sweep.axes():
        if axis.split(".")[0] == "launcher":
            raise ConfigError(f"{axis} is an axis; expected one value: a study has one launcher")
    for size, words in sweep.overrides_by_size.items():
        for word in words:
            group, _, key = word.lstrip("+~").partition("=")[0].partition(".")
            if group == "launcher":
                raise ConfigError(
                    f"sweep.overrides_by_size.{size} has {word!r}: a study has one launcher; what the jobs "
                    f"of a size take is launcher.by_size.{size}.{key or 'KEY'}"
                )


def _check_sizes(where: str, sizes: Iterable[str], known: Collection[str]) -> None:
    for size in sizes:
        if size not in known:
            names = list(known)
            raise ConfigError(
                f"{where}.{size}: no such size{_suggestion(size, names)}; expected one of {', '.join(names)}"
            )


class _PointComposer:
    """Composes once for each choice of groups and size; other axes' values are placed by their types."""

    def __init__(
        self, tree: DictConfig, sweep: SweepConfig, fixed: list[str], groups: Collection[str]
    ) -> None:
        self.tree, self.sweep, self.fixed = tree, sweep, fixed
        self.where = fields_of(sweep.axes(), groups)
        self.bases: dict[tuple[str, ...], tuple[StudyConfig, bool]] = {}
        self.values: dict[str, Any] = {}
        self.placer = Placer()
        self.parser = OverridesParser.create()

    def point(self, axes: dict[str, Any]) -> StudyPoint:
        made = self.sweep.made_axes()
        words = {axis: f"{axis}={_literal(value)}" for axis, value in axes.items() if axis not in made}
        by_size = self.sweep.overrides_by_size.get(str(axes.get(SIZE_AXIS)), [])
        config = self._placed(by_size, words)
        if config is None:
            config, _ = self._base((*by_size, *self.fixed, *words.values()))
        return StudyPoint(point_label(axes), axes, config, tuple(words.values()))

    def _placed(self, by_size: list[str], words: dict[str, str]) -> StudyConfig | None:
        """None where only composing can tell: a value that reads other settings, or a mistake to explain."""
        placed = [axis for axis in words if axis in self.where]
        if not placed or any(REFERENCE.search(words[axis]) for axis in placed):
            return None
        key = (*by_size, *self.fixed, *(word for axis, word in words.items() if axis not in self.where))
        base, refers = self._base(key)
        if refers:
            return None
        try:
            values = {axis: (words[axis], self._value(words[axis])) for axis in placed}
            return self.placer.place(base, key, values, self.where)
        except (OmegaConfBaseException, ConfigError):
            return None

    def _value(self, word: str) -> Any:
        if word not in self.values:
            self.values[word] = self.parser.parse_override(word).value()
        return self.values[word]

    def _base(self, words: tuple[str, ...]) -> tuple[StudyConfig, bool]:
        """Settings by Hydra, once for the same words, and whether any of them reads another one."""
        if words not in self.bases:
            self.bases[words] = self._composed(words)
        return self.bases[words]

    def _composed(self, words: tuple[str, ...]) -> tuple[StudyConfig, bool]:
        tree = _compose(list(words))
        for key in ("grid", "zip", "budgets_flops", "decays"):
            tree.sweep[key] = self.tree[key]
        return _typed(tree), bool(REFERENCE.search(repr(OmegaConf.to_container(tree, resolve=False))))


def _unquoted(value: Any) -> Any:
    """The plain value of an element of a comma list."""
    if isinstance(value, QuotedString):
        return value.text
    if isinstance(value, list):
        return [_unquoted(v) for v in value]
    return {k: _unquoted(v) for k, v in value.items()} if isinstance(value, dict) else value


def _literal(value: Any) -> str:
    """``value`` in the grammar of Hydra's overrides."""
    if isinstance(value, str):
        plain = re.fullmatch(r"[A-Za-z_/][\w./:+-]*", value, re.ASCII) and value.lower() not in NO_TEXT
        return value if plain else QuotedString(value, Quote.double).with_quotes()
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
    if not config.launcher:  # an empty profile must not mean this machine
        raise ConfigError(f"launcher has no settings; expected one of {', '.join(choices()['launcher'])}")
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
    first, *rest = str(error).splitlines()
    unknown = re.match(r"Could not override '([^']+)'", first)
    if unknown is None:
        if (file := re.match(r"In '([^']+)': \w+ raised while composing config:", first)) and rest:
            return _bad_file(f"configs/{file[1]}.yaml", rest)
        word = first.removeprefix("Error merging override ")
        key, _, value = word.partition("=")
        if "." in key and (group := key.lstrip("+~").replace(".", "/")) in choices():
            return f"{word}: {key} is a group of settings; to choose one write {group}={value}"
        cause = str(error.__cause__ or "").splitlines()
        return f"{word}: {cause[0]}" if cause else first
    key = unknown.group(1)
    line = next((o for o in overrides if o.lstrip("+~").split("=")[0] == key), key)
    if "/" in key:
        groups = list(choices())
        return f"{line}: no such group{_suggestion(key, groups)}; expected one of {', '.join(groups)}"
    return f"{line}: no such setting; {_neighbours(key, line)}"


def _bad_file(file: str, said: list[str]) -> str:
    """Of a file in configs/: OmegaConf's message, whose later lines name the key."""
    key = next((line.partition(": ")[2] for line in said if line.strip().startswith("full_key: ")), "")
    if key == "sweep.sweep":
        return f"{file}: expected '# @package _global_' as its first line: it sets more than the sweep"
    if key and said[0].startswith("Key "):
        return f"{file}: {key}: no such setting; {_neighbours(key, key)}"
    return f"{file}: {key + ': ' if key else ''}{said[0]}"


def _no_text(configs: Path) -> Path:
    """The first file of ``configs`` that is no text."""
    for path in sorted(configs.rglob("*.yaml")):
        try:
            path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            return path
    return configs


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
