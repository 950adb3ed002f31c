"""The data sets of the field: where they are published, under which licence, how shards are built of them.

Only the command line reads this; addresses and digests are facts about other people's servers and may age.
``unconfirmed`` names what could not be checked against the publisher.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adit_scale.errors import DataError

if TYPE_CHECKING:
    from adit_scale.data.sources.source import Source

FIGSHARE = "https://ndownloader.figshare.com/files"
CDVAE = "https://raw.githubusercontent.com/txie-93/cdvae/main/data"
DIFFCSP = "https://raw.githubusercontent.com/jiaor17/DiffCSP/main/data"
ALEXANDRIA = "https://alexandria.icams.rub.de/data/pbe/2024.12.15"
RAW = Path("raw")
MANY_FILES = 10  # of more, a table names the first


@dataclass(frozen=True)
class RemoteFile:
    """One file of a data set.

    name: its name here; never taken from a server. n_bytes: its length where known, else 0.
    published: "md5:…" or "sha256:…" stated by the publisher; a file that differs is refused.
    reported: the same as seen by others; a file that differs is kept, and that is said.
    unpack: a member of this archive that is wanted beside it, and that file's name here.
    """

    name: str
    url: str
    n_bytes: int = 0
    published: str = ""
    reported: str = ""
    unpack: tuple[str, str] | None = None


@dataclass(frozen=True)
class DataSet:
    """structures: in the files, before any is left out; rough where that is an estimate.

    sources: words as in ``data.sources``, relative to the folder of the files. settings: of DataConfig, where
    the user says nothing else.
    """

    name: str
    what: str
    structures: int
    download_mb: int
    licence: str
    homepage: str
    citation: str
    files: tuple[RemoteFile, ...]
    sources: tuple[str, ...]
    settings: dict[str, Any] = field(default_factory=dict)
    unconfirmed: str = ""
    rough: bool = False

    @property
    def structures_words(self) -> str:
        return f"{'about ' if self.rough else ''}{self.structures:,}"


def _splits(name: str, base: str, sha256: dict[str, str]) -> tuple[tuple[RemoteFile, ...], tuple[str, ...]]:
    """Files and sources of a data set in CDVAE's form: one CSV a split."""
    files = tuple(
        RemoteFile(f"{split}.csv", f"{base}/{split}.csv", reported=sha256.get(split, ""))
        for split in ("train", "val", "test")
    )
    return files, tuple(f"{name}:{file.name[:-4]}={file.name}" for file in files)


_MP20 = _splits(
    "mp20",
    f"{CDVAE}/mp_20",
    {
        "train": "sha256:133bab58dba02d316f9f91174839f17802dce648be4e8659d1a42b32b97fa01d",
        "val": "sha256:7b5f4085464b3eac9fd2123acee97ec372214004ce7e983b535b33395abc3e29",
        "test": "sha256:dd605c7543cf95a13e150aed630d0915e74edc8dea17e85301ee6fbfeb7f500a",
    },
)
_MPTS52 = _splits(
    "mpts52",
    f"{DIFFCSP}/mpts_52",
    {
        "train": "sha256:db33cfc86530bbd4b020405989c5cd12130f447ad7b9258d29b3ff9c8a26d764",
        "val": "sha256:b5d9f7a8ff72f3a1f24d6bb97e11ad201be40d10be7b27924234da06af04baba",
        "test": "sha256:4d6e76c4726fb12fb2a7e5bb23594f9b82dbd9bf67b7bfd4866e9c74a8f49038",
    },
)
_PEROV5 = _splits("perov5", f"{CDVAE}/perov_5", {})
_CARBON24 = _splits("carbon24", f"{CDVAE}/carbon_24", {})
_ALEXANDRIA = tuple(
    RemoteFile(f"alexandria_{i:03d}.json.bz2", f"{ALEXANDRIA}/alexandria_{i:03d}.json.bz2") for i in range(50)
)

CATALOGUE = {
    entry.name: entry
    for entry in (
        DataSet(
            name="qm9",
            what="small organic molecules (H, C, N, O, F; up to 9 heavy atoms), B3LYP geometries",
            structures=133_885,
            download_mb=87,
            licence="CC0",
            homepage="https://doi.org/10.6084/m9.figshare.c.978904",
            citation="Ramakrishnan et al., Scientific Data 1, 140022 (2014)",
            files=(
                RemoteFile(
                    "dsgdb9nsd.xyz.tar.bz2",
                    f"{FIGSHARE}/3195389",
                    n_bytes=86_144_227,
                    published="md5:ad1ebd51ee7f5b3a6e32e974e5d54012",
                    reported="sha256:3a63848ac80691bdb8d41834b575afad345b9300d7a2db0c38adb7f6eaa8360c",
                ),
                RemoteFile(
                    "uncharacterized.txt",
                    f"{FIGSHARE}/3195404",
                    n_bytes=486_752,
                    published="md5:a361887bacb427b8a0ce7903d92a53b4",
                    reported="sha256:3aa5115d540b356de94791d4a74c3bf1ed91c469ecf52a4f5d7cc0506fe02e24",
                ),
            ),
            sources=("qm9=dsgdb9nsd.xyz.tar.bz2",),
        ),
        DataSet(
            name="geom_drugs",
            what="drug-like molecules in many conformers each, xTB geometries",
            structures=292_035,
            download_mb=42_700,
            licence="CC0",
            homepage="https://doi.org/10.7910/DVN/JNGTDF",
            citation="Axelrod and Gómez-Bombarelli, Scientific Data 9, 185 (2022)",
            files=(
                RemoteFile(
                    "drugs_crude.msgpack.tar.gz",
                    "https://dataverse.harvard.edu/api/access/datafile/4360331",
                    published="md5:7778e84c50b7cde755cca670d1f75091",
                ),
            ),
            sources=("geom_drugs=drugs_crude.msgpack.tar.gz",),
            settings={"conformers": 5},
            unconfirmed="number of molecules and size of the download are as others report them",
        ),
        DataSet(
            name="mp20",
            what="Materials Project crystals of up to 20 atoms, experimentally known",
            structures=45_229,
            download_mb=0,
            licence="CC BY 4.0 (Materials Project)",
            homepage="https://github.com/txie-93/cdvae",
            citation="Xie et al., ICLR 2022; Jain et al., APL Materials 1, 011002 (2013)",
            files=_MP20[0],
            sources=_MP20[1],
            unconfirmed="digests are as others report them",
        ),
        DataSet(
            name="mpts52",
            what="Materials Project crystals of up to 52 atoms, split by year of first report",
            structures=40_476,
            download_mb=0,
            licence="CC BY 4.0 (Materials Project)",
            homepage="https://github.com/jiaor17/DiffCSP",
            citation="Baird and Sparks, doi:10.6084/m9.figshare.19991516; Jain et al. 2013",
            files=_MPTS52[0],
            sources=_MPTS52[1],
            unconfirmed="digests are as others report them",
        ),
        DataSet(
            name="perov5",
            what="perovskites of 5 atoms, 56 elements",
            structures=18_928,
            download_mb=0,
            licence="not stated by the publisher (files under MIT in CDVAE's repository)",
            homepage="https://github.com/txie-93/cdvae",
            citation="Xie et al., ICLR 2022; Castelli et al., Energy Environ. Sci. 5, 5814 and 9034 (2012)",
            files=_PEROV5[0],
            sources=_PEROV5[1],
            unconfirmed="licence",
        ),
        DataSet(
            name="carbon24",
            what="carbon crystals of 6 to 24 atoms from random structure search at 10 GPa",
            structures=10_153,
            download_mb=0,
            licence="open access (files under MIT in CDVAE's repository)",
            homepage="https://github.com/txie-93/cdvae",
            citation="Xie et al., ICLR 2022; Pickard, doi:10.24435/materialscloud:2020.0026/v1",
            files=_CARBON24[0],
            sources=_CARBON24[1],
            unconfirmed="licence",
        ),
        DataSet(
            name="qmof",
            what="metal-organic frameworks, PBE-D3 geometries; those of up to 150 atoms are kept",
            structures=20_372,
            download_mb=392,
            licence="CC BY 4.0",
            homepage="https://doi.org/10.6084/m9.figshare.13147324.v18",
            citation="Rosen et al., Matter 4, 1578 (2021); Rosen et al., npj Comput. Mater. 8, 112 (2022)",
            files=(
                RemoteFile(
                    "qmof_database.zip",
                    f"{FIGSHARE}/59573735",
                    n_bytes=392_088_304,
                    reported="md5:0d89aaf66f2c306e86e47fd91cb1346e",
                    unpack=("qmof_database/relaxed_structures.zip", "relaxed_structures.zip"),
                ),
            ),
            sources=("qmof=relaxed_structures.zip",),
            settings={"max_atoms": 150},
            unconfirmed="size and digest of version 18 are as others report them",
        ),
        DataSet(
            name="alexandria",
            what="computed crystals, PBE, release 2024.12.15, in 50 files",
            structures=4_500_000,
            download_mb=3_000,
            licence="CC BY 4.0",
            homepage="https://alexandria.icams.rub.de",
            citation="Schmidt et al., Advanced Materials 35, 2210788 (2023)",
            files=_ALEXANDRIA,
            sources=tuple(f"alexandria={file.name}" for file in _ALEXANDRIA),
            rough=True,
            unconfirmed="number of structures and size of the download are estimates",
        ),
    )
}


def find(name: str) -> DataSet:
    """The entry of that name. Raises DataError with the names there are."""
    if name not in CATALOGUE:
        raise DataError(f"no data set {name!r} in the catalogue; expected one of {', '.join(CATALOGUE)}")
    return CATALOGUE[name]


def sources_of(words: Sequence[str], raw: Path = RAW) -> tuple[list[Source], list[DataSet]]:
    """Sources of data.sources' words, where a word may also be a catalogue name, found below ``raw``.

    A file or folder that is called like a data set is written ``./qm9``.
    Returns the sources and the catalogue entries among them.
    Raises DataError where a data set's files have not been fetched.
    """
    from adit_scale.data.sources.source import Source  # brings torch: not for a list of names

    sources: list[Source] = []
    entries: list[DataSet] = []
    for word in words:
        if word not in CATALOGUE:
            sources.append(Source.from_word(word))
            continue
        entry = CATALOGUE[word]
        folder = raw / entry.name
        for inner in entry.sources:
            source = Source.from_word(inner)
            path = folder / source.path
            if not path.is_file():
                raise DataError(f"{path}: no such file; run `adit data fetch {entry.name}` first")
            sources.append(Source(path, source.dataset, source.split))
        entries.append(entry)
    return sources, entries


def stated(entries: Sequence[DataSet]) -> dict[str, dict[str, Any]]:
    """What a manifest is to say of the data sets, by name."""
    return {
        entry.name: {"licence": entry.licence, "citation": entry.citation, "homepage": entry.homepage}
        for entry in entries
    }


def markdown() -> str:
    """The catalogue as two Markdown tables: the data sets, and their files with what vouches for them."""
    lines = [
        "| name | what | structures | download | licence | source | fetch and build |",
        "|---|---|---:|---:|---|---|---|",
    ]
    for entry in CATALOGUE.values():
        commands = f"`adit data fetch {entry.name}`, `adit data build {entry.name} --out shards/{entry.name}`"
        lines.append(
            f"| `{entry.name}` | {entry.what} | {entry.structures_words} | {_size(entry.download_mb)} "
            f"| {entry.licence} | [{entry.citation}]({entry.homepage}) | {commands} |"
        )
    lines += ["", "| data set | file | bytes | digest |", "|---|---|---:|---|"]
    for entry in CATALOGUE.values():
        for file in entry.files[:1] if len(entry.files) > MANY_FILES else entry.files:
            more = f" and {len(entry.files) - 1} more" if len(entry.files) > MANY_FILES else ""
            n_bytes = f"{file.n_bytes:,}" if file.n_bytes else "not known"
            digest = file.published or file.reported
            by = (
                "published"
                if file.published
                else "as others report it"
                if digest
                else "recorded at first use"
            )
            kind, _, value = digest.partition(":")
            words = f"{kind} `{value}`, {by}" if digest else by
            lines.append(f"| `{entry.name}` | [`{file.name}`]({file.url}){more} | {n_bytes} | {words} |")
    return "\n".join(lines) + "\n"


def _size(download_mb: int) -> str:
    if not download_mb:
        return "under 100 MB"
    return f"{download_mb / 1000:.1f} GB" if download_mb >= 1000 else f"{download_mb} MB"
