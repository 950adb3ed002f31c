"""Values put into settings that are already composed: what spares a study one Hydra run a point.

A value goes through the declared type of the one field it belongs to, by the same call of OmegaConf that
Hydra makes, so that the result is what composing it would have given.
"""

from __future__ import annotations

from collections.abc import Collection, Hashable, Mapping, Sequence
from dataclasses import field, fields, is_dataclass, make_dataclass, replace
from typing import Any, get_type_hints

from omegaconf import OmegaConf

from adit_scale.config import StudyConfig, check

Field = tuple[str, ...]


def fields_of(axes: Collection[str], groups: Collection[str]) -> dict[str, Field]:
    """The field of the typed settings that each axis sets a value in; axes that need composing are left out.

    Those are groups, whole tables of settings and what lies in one, and what does not exist.
    """
    found = {axis: path for axis in axes if axis not in groups and (path := _field(axis))}
    tables = [axis + "." for axis in axes if axis not in found]
    return {axis: path for axis, path in found.items() if not axis.startswith(tuple(tables))}


def _field(axis: str) -> Field | None:
    owner: Any = StudyConfig
    parts = axis.split(".")
    for i, part in enumerate(parts):
        if part not in {f.name for f in fields(owner)}:
            return None
        owner = get_type_hints(owner)[part]
        if not is_dataclass(owner):
            return tuple(parts[: i + 1])
    return None


class Placer:
    """Puts values into settings; remembers the typed pieces, since a study's points share most of them."""

    def __init__(self) -> None:
        self._pieces: dict[Hashable, Any] = {}

    def place(
        self,
        base: StudyConfig,
        key: Hashable,
        values: Mapping[str, tuple[str, Any]],
        where: Mapping[str, Field],
    ) -> StudyConfig:
        """``base`` with the values of ``values``: axis -> (its override's text, its value).

        key: names ``base`` among those this object has seen. where: see ``fields_of``. Groups without a value
        are shared with ``base``. Raises OmegaConfBaseException for a value of the wrong type, ConfigError for
        one out of range.
        """
        by_field: dict[Field, list[str]] = {}
        for axis in values:
            by_field.setdefault(where[axis], []).append(axis)
        config = base
        for path, axes in by_field.items():
            piece_key = (key, path, tuple(values[axis][0] for axis in axes))
            if piece_key not in self._pieces:
                updates = [(axis.split(".", len(path) - 1)[-1], values[axis][1]) for axis in axes]
                self._pieces[piece_key] = _typed_piece(base, path, updates)
            config = _with(config, path, self._pieces[piece_key])
        check(config)
        return config


def _typed_piece(base: StudyConfig, path: Field, updates: Sequence[tuple[str, Any]]) -> Any:
    """The field at ``path`` after the updates; their keys begin with its own name."""
    owner: Any = base
    for part in path[:-1]:
        owner = getattr(owner, part)
    name = path[-1]
    now = getattr(owner, name)
    holder = make_dataclass(
        "Holder", [(name, get_type_hints(type(owner))[name], field(default_factory=lambda: now))]
    )
    tree = OmegaConf.structured(holder)
    OmegaConf.set_struct(tree, True)
    for key, value in updates:
        OmegaConf.update(tree, key, value, merge=True)
    container = OmegaConf.to_container(tree, resolve=True)
    assert isinstance(container, dict)
    return container[name]


def _with(owner: Any, path: Field, value: Any) -> Any:
    """A copy of a dataclass with the field at ``path`` replaced."""
    name, *rest = path
    if rest:
        value = _with(getattr(owner, name), tuple(rest), value)
    return replace(owner, **{name: value})
