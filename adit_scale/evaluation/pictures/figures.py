"""The figures of a set of scored samples: PNG and CSV each, and one page that holds them all."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from adit_scale.atoms import CRYSTAL, DOMAIN_NAMES, MOLECULE
from adit_scale.errors import DataError
from adit_scale.evaluation.pictures.by_size import validity_by_size
from adit_scale.evaluation.pictures.categories import counts_figure, elements_figure, spacegroups_figure
from adit_scale.evaluation.pictures.frames import Drawn, Series, save, style, unique, write_page
from adit_scale.evaluation.pictures.histograms import ENERGIES, RELAXATION, STRUCTURE, Value, value_figure
from adit_scale.evaluation.verdicts import Verdicts

REAL_DATA = "real data"
PAGE = "figures.html"
ATOMS = (Value("n_atoms", "atoms in the molecule", whole=True),)
FIGURES: tuple[Callable[[Sequence[Series]], Drawn | None], ...] = (
    validity_by_size,
    lambda series: value_figure(series, CRYSTAL, ENERGIES, "energies", "Energies of crystals"),
    spacegroups_figure,
    counts_figure,
    lambda series: elements_figure(series, CRYSTAL),
    lambda series: value_figure(
        series, CRYSTAL, STRUCTURE, "crystal_structure", "Density and size of crystals"
    ),
    lambda series: value_figure(series, MOLECULE, ATOMS, "molecule_size", "Size of molecules"),
    lambda series: elements_figure(series, MOLECULE),
    lambda series: value_figure(series, MOLECULE, RELAXATION, "molecule_relaxation", "Molecules, relaxed"),
    lambda series: value_figure(series, CRYSTAL, RELAXATION, "crystal_relaxation", "Crystals, relaxed"),
)


def write_figures(
    series: Mapping[str, Mapping[int, Verdicts]],
    reference: Mapping[int, Verdicts] | None,
    out: Path,
    title: str = "",
    reference_name: str = REAL_DATA,
) -> list[Path]:
    """Draw every figure that the verdicts have values for into ``out``; returns the files.

    series: name -> domain -> verdicts, such as one a model. reference: the same of real held-out data, drawn
    in grey in the same axes. A figure without a value to show is left out. Raises DataError without any.
    """
    drawn_of = [Series(name, verdicts) for name, verdicts in series.items()]
    if reference:
        name = unique(reference_name, list(series))
        drawn_of.insert(0, Series(name, reference, reference=True))
    with style():
        drawn = [figure for draw in FIGURES if (figure := draw(drawn_of)) is not None]
        if not drawn:
            raise DataError(
                f"{', '.join(series) or 'no series'}: no verdicts to draw; expected scored samples"
            )
        return write_drawn(drawn, title or f"Figures of {', '.join(series)}", out)


def write_drawn(drawn: list[Drawn], title: str, out: Path) -> list[Path]:
    """Write finished figures and the page that collects them."""
    out.mkdir(parents=True, exist_ok=True)
    with style():
        paths = [path for figure in drawn for path in save(figure, out)]
    page = out / PAGE
    write_page(drawn, title, page)
    return [page, *paths]


def read_verdicts(folder: Path) -> dict[int, Verdicts]:
    """Verdicts of each domain that a scored folder has. Raises DataError where it has none."""
    found = {}
    for domain, name in DOMAIN_NAMES.items():
        path = verdicts_path(folder, name)
        if path is not None:
            found[domain] = Verdicts.read_csv(path)
    if not found:
        raise DataError(
            f"{folder}: no verdicts of molecules or crystals; expected a folder of `adit evaluate score`"
        )
    return found


def verdicts_path(folder: Path, domain: str) -> Path | None:
    """The table of a domain in a scored folder; None where it has none."""
    names = (f"verdicts-{domain}.csv", f"verdicts-{domain}s.csv")
    return next((folder / name for name in names if (folder / name).is_file()), None)
