"""The commands of ``adit data``: their words here, their work in the modules they call.

Only settings and the catalogue are imported before a command is known: ``--help`` must not wait for torch.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adit_scale.cli import Parser
from adit_scale.data.config import SPACEGROUPS, SPLIT_BY, SPLITS, DataConfig
from adit_scale.data.tools import catalogue
from adit_scale.data.tools.progress import ProgressBar
from adit_scale.errors import ConfigError, DataError

if TYPE_CHECKING:
    from adit_scale.data.manifest import Manifest

# Options of `build` that are a DataConfig setting with a value: option, setting, type or choices, help.
_VALUES: tuple[tuple[str, str, Any, str], ...] = (
    (
        "--validation-fraction",
        "validation_fraction",
        float,
        "of the structures whose publisher gave no split",
    ),
    ("--test-fraction", "test_fraction", float, "the same for the test split"),
    ("--split-salt", "split_salt", str, "another one gives another split"),
    ("--split-by", "split_by", SPLIT_BY, "keep conformers together, or all of one composition"),
    ("--max-atoms", "max_atoms", int, "leave larger structures out; 0 keeps all"),
    ("--conformers", "conformers", int, "of a molecule, the lowest in energy, this many"),
    ("--spacegroups", "spacegroups", SPACEGROUPS, "the source's, spglib's, or spglib's where none is stated"),
    ("--symprec", "symprec_angstrom", float, "tolerance of spglib in angstrom"),
    ("--block-sets", "block_sets", int, "structures a block"),
    ("--blocks-per-shard", "blocks_per_shard", int, "blocks a tar file"),
    ("--workers", "build_workers", int, "processes; 0 is one a core; the shards do not depend on it"),
)
_FLAGS = (
    ("--remove-hydrogens", "remove_hydrogens", "from molecules"),
    ("--deduplicate", "deduplicate", "leave out what repeats an earlier structure of its data set"),
    ("--qm9-uncharacterized", "qm9_uncharacterized", "keep QM9's 3,054 molecules of doubtful geometry"),
)


def main(words: Sequence[str], prog: str = "adit data") -> int:
    """Run one command. Returns 0, or 1 where `verify` finds damage. Raises AditError, OSError."""
    options = _parser(prog).parse_args(words)
    return int(options.run(options))


def _parser(prog: str) -> argparse.ArgumentParser:
    parser = Parser(prog=prog, description="Data sets: from published files to shards, and back.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    show = commands.add_parser("list", help="the data sets that `fetch` and `build` know by name")
    show.add_argument("--markdown", action="store_true", help="as a Markdown table")
    show.set_defaults(run=_list)
    fetch = commands.add_parser("fetch", help="download a published data set")
    fetch.add_argument("name", metavar="NAME", help=f"one of {', '.join(catalogue.CATALOGUE)}")
    fetch.add_argument("--out", type=Path, help="folder of the files (default: raw/NAME)")
    fetch.add_argument("--mirror", default="", metavar="URL", help="take URL/<file name> instead")
    fetch.set_defaults(run=_fetch)
    _build_words(commands.add_parser("build", help="convert files into shards"))
    info = commands.add_parser("info", help="what a data set holds; with --out, pictures of it")
    info.add_argument("place", metavar="DIR", help="folder or address of the shards")
    info.add_argument("--out", type=Path, help="folder for one PNG a data set")
    info.set_defaults(run=_info)
    check = commands.add_parser(
        "verify", help="read everything and check every digest; 1 where something is wrong"
    )
    check.add_argument("place", metavar="DIR", help="folder or address of the shards")
    check.set_defaults(run=_verify)
    _export_words(commands.add_parser("export", help="write structures back out"))
    return parser


def _build_words(make: argparse.ArgumentParser) -> None:
    defaults = DataConfig()
    make.add_argument(
        "sources",
        nargs="+",
        metavar="SOURCE",
        help="file or folder: PATH, NAME=PATH or NAME:SPLIT=PATH; or the name of a fetched data set",
    )
    make.add_argument("--out", required=True, type=Path, help="folder of the shards; must be new or empty")
    make.add_argument("--overwrite", action="store_true", help="replace a data set that stands there")
    make.add_argument(
        "--raw", type=Path, default=catalogue.RAW, help="where `fetch` put files (default: raw)"
    )
    make.add_argument(
        "--split-list", action="append", default=[], metavar="SPLIT=FILE", help="ids of a split, one a line"
    )
    # None where the user says nothing, so that a data set of the catalogue may have its own default.
    for option, setting, kind, words in _VALUES:
        words += f" (default: {getattr(defaults, setting) or repr(getattr(defaults, setting))})"
        if isinstance(kind, tuple):
            make.add_argument(option, dest=setting, choices=kind, help=words)
        else:
            make.add_argument(option, dest=setting, type=kind, metavar=kind.__name__.upper(), help=words)
    for option, setting, words in _FLAGS:
        make.add_argument(option, dest=setting, action="store_true", default=None, help=words)
    make.set_defaults(run=_build)


def _export_words(take: argparse.ArgumentParser) -> None:
    take.add_argument("place", metavar="DIR", help="folder or address of the shards")
    take.add_argument("--split", required=True, choices=SPLITS)
    take.add_argument(
        "--to", type=Path, metavar="FILE", help="ends in .extxyz, .xyz, .cif or .sdf; .gz may follow"
    )
    take.add_argument(
        "--list", type=Path, metavar="FILE", help="write only the ids, as data.split_lists reads them"
    )
    take.add_argument("--dataset", default="", help="of this data set only")
    take.add_argument("--range", default="", metavar="A:B", help="places A up to B of the split, from 0")
    take.add_argument("--ids", default="", metavar="ID,ID", help="these only")
    take.add_argument(
        "--ids-from", type=Path, metavar="FILE", help="those listed there, as --list writes them"
    )
    take.set_defaults(run=_export)


def _list(options: argparse.Namespace) -> int:
    if options.markdown:
        print(catalogue.markdown(), end="")
        return 0
    for entry in catalogue.CATALOGUE.values():
        print(f"{entry.name:12} {entry.structures_words:>15}  {entry.what}")
        print(f"{'':12} {'':>15}  {entry.licence}; {entry.citation}; {entry.homepage}")
        if entry.unconfirmed:
            print(f"{'':12} {'':>15}  not confirmed with the publisher: {entry.unconfirmed}")
    return 0


def _fetch(options: argparse.Namespace) -> int:
    from adit_scale.data.tools.fetch import DIGESTS_FILE, fetch

    entry = catalogue.find(options.name)
    out = options.out or catalogue.RAW / entry.name
    print(f"{entry.name}: {entry.what}; licence {entry.licence}; please cite {entry.citation}")
    if entry.unconfirmed:
        print(f"{entry.name}: not confirmed with the publisher: {entry.unconfirmed}")
    with ProgressBar("B") as bar:
        fetch(entry, out, options.mirror, bar, bar.say)
    print(f"{out}: complete; digests in {out / DIGESTS_FILE}")
    if out.name == entry.name:
        raw = "" if out.parent == catalogue.RAW else f" --raw {out.parent}"
        print(f"next: adit data build {entry.name} --out shards/{entry.name}{raw}")
    return 0


def _build(options: argparse.Namespace) -> int:
    from adit_scale.data.build import REJECTED_FILE, build

    sources, entries = catalogue.sources_of(options.sources, options.raw)
    config = _config(options, entries)
    with ProgressBar("structures", units={"checking sources": "sources"}) as bar:
        manifest = build(sources, options.out, config, bar, options.overwrite, catalogue.stated(entries))
    _print_table(manifest)
    with (options.out / REJECTED_FILE).open(encoding="utf-8") as lines:
        first = next(lines, None)
    if first is not None:
        rejected = json.loads(first)
        n_rejected = sum(d.get("n_rejected", 0) for d in manifest.descriptions.values())
        print(f"{n_rejected:,} left out, listed in {options.out / REJECTED_FILE}; the first, "
              f"{rejected['source']} {rejected['id']}: {rejected['reason']}")  # fmt: skip
    return 0


def _config(options: argparse.Namespace, entries: list[catalogue.DataSet]) -> DataConfig:
    """The settings of a build: what the user says, else what is usual for the data sets, else the default."""
    said = {
        name: getattr(options, name)
        for _, name, *_ in (*_VALUES, *_FLAGS)
        if getattr(options, name) is not None
    }
    usual: dict[str, Any] = {}
    for entry in entries:
        for name, value in entry.settings.items():
            if name in said or value == getattr(DataConfig(), name):
                continue
            if usual.get(name, value) != value:
                raise ConfigError(
                    f"{entry.name} is usually built with {name} {value}, others otherwise; say which"
                )
            usual[name] = value
            option = next(o for o, n, *_ in _VALUES if n == name)
            print(f"{option} {value}, as is usual for {entry.name}; this holds for all sources")
    lists: dict[str, str] = {}
    for word in options.split_list:
        split, _, path = word.partition("=")
        if split not in SPLITS or not path or split in lists:
            raise ConfigError(
                f"--split-list is {word!r}; expected train=FILE, val=FILE or test=FILE, each once"
            )
        lists[split] = path
    name = options.out.resolve().name or "data"
    config = DataConfig(name=name, shards=str(options.out), split_lists=lists, **{**usual, **said})
    config.validate()
    return config


def _info(options: argparse.Namespace) -> int:
    from adit_scale.data.tools.info import describe

    manifest = _open(options.place)
    print(describe(manifest), end="")
    if options.out:
        from adit_scale.data.tools.pictures import draw

        for path in draw(manifest, options.out):
            print(path)
    return 0


def _verify(options: argparse.Namespace) -> int:
    from adit_scale.data.manifest import MANIFEST_FILE
    from adit_scale.data.shards import find_damage

    place = options.place
    if "://" not in place and not (Path(place) / MANIFEST_FILE).is_file():
        raise DataError(f"{place}: holds no {MANIFEST_FILE}; expected the folder of a data set")
    try:
        manifest = _open(place)
        with ProgressBar("B") as bar:
            damage = find_damage(manifest, lambda done, total: bar("verifying", done, total))
    except DataError as error:
        damage = [str(error)]
    for line in damage:
        print(f"error: {line}", file=sys.stderr)
    if damage:
        return 1
    print(f"{manifest.storage}: every block is as it was written")
    _print_table(manifest)
    return 0


def _export(options: argparse.Namespace) -> int:
    from adit_scale.data.tools.export import Selection, export, export_list

    if options.to is None and options.list is None:
        raise ConfigError("nothing to write; expected --to FILE or --list FILE")
    manifest = _open(options.place)
    chosen = Selection.from_words(
        options.split, options.range, options.ids, options.ids_from, options.dataset
    )
    with ProgressBar("structures") as bar:
        if options.list is not None:
            n_ids = export_list(manifest, chosen, options.list, bar)
            bar.say(f"{options.list}: {n_ids:,} ids")
        if options.to is not None:
            report = export(manifest, chosen, options.to, bar)
            bar.say(f"{options.to}: {report}")
    return 0


def _open(place: str) -> Manifest:
    from adit_scale.data.manifest import Manifest
    from adit_scale.data.storage import open_storage

    return Manifest.load(open_storage(place))


def _print_table(manifest: Manifest) -> None:
    from adit_scale.data.tools.info import table

    print(table(manifest), end="")
    print(f"fingerprint {manifest.fingerprint}")
