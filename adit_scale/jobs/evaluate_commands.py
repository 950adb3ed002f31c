"""The commands of ``adit evaluate``: words to settings, then on to the modules that do the work."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from adit_scale.atoms import CRYSTAL, AtomSet
from adit_scale.data.tools.progress import ProgressBar
from adit_scale.errors import ConfigError, DataError
from adit_scale.evaluation.judging import SCORES, Sample
from adit_scale.evaluation.kept import replace_text
from adit_scale.evaluation.reading import is_shards, read_structures, training_chunks
from adit_scale.evaluation.score import score as count
from adit_scale.jobs.evaluate_score import OWN, Counter, run_compare, run_score, short_names, show
from adit_scale.jobs.evaluate_words import Words


def score(words: Sequence[str], prog: str) -> int:
    return run_score(Words.parse(words, prog, OWN))


def compare(words: Sequence[str], prog: str) -> int:
    return run_compare(Words.parse(words, prog, ("out",), settings=False, n_paths="FOLDER"))


def figures(words: Sequence[str], prog: str) -> int:
    """Figures of scored folders, one series each; real data in grey."""
    from adit_scale.evaluation.pictures.figures import read_verdicts, write_figures

    own = ("out", "against", "title")
    said = Words.parse(words, prog, own, settings=False, n_paths="FOLDER of `adit evaluate score`")
    series = {name: read_verdicts(Path(path)) for name, path in short_names(said.paths).items()}
    reference = read_verdicts(Path(said.said["against"])) if said.said.get("against") else None
    out = said.folder("out") or Path(said.paths[0]) / "figures"
    for path in write_figures(series, reference, out, said.said.get("title", "")):
        print(path)
    return 0


def gallery(words: Sequence[str], prog: str) -> int:
    """Pictures of the first samples, with what was found of them."""
    from adit_scale.evaluation.pictures.figures import read_verdicts
    from adit_scale.evaluation.pictures.gallery import DEFAULT_COUNT, write_gallery

    own = ("out", "scores", "count", "title", "split")
    said = Words.parse(words, prog, own, settings=False)
    out, path = Path(said.required("out", "FOLDER")), _one(said)
    samples = read_structures(path, split=said.said.get("split", "test"))
    verdicts = read_verdicts(Path(said.required("scores", "FOLDER of adit evaluate score")))
    for domain, of in verdicts.items():
        # Scored with a limit: the first ones, as the gallery shows them.
        ids = [sample.id for sample in samples.get(domain, [])[: len(of)]]
        if of.ids != ids:
            raise DataError(f"scores={said.said['scores']}: of other samples than {path}; expected the same")
    chosen = {domain: samples[domain] for domain in verdicts}
    n = said.number("count", DEFAULT_COUNT)
    for file in write_gallery(out, chosen, verdicts, said.said.get("title") or Path(path).name, n):
        print(file)
    return 0


def dft_inputs(words: Sequence[str], prog: str) -> int:
    """VASP inputs of chosen samples."""
    from adit_scale.evaluation.energies.dft_inputs import MANIFEST, choose_samples, write_dft_inputs
    from adit_scale.evaluation.pictures.figures import read_verdicts

    own = ("out", "scores", "choose", "ids", "limit", "split")
    said = Words.parse(words, prog, own, settings=False)
    out, path = Path(said.required("out", "FOLDER")), _one(said)
    samples = _crystals(path, said.said.get("split", "test"))
    scored = said.said.get("scores", "")
    verdicts = read_verdicts(Path(scored)).get(CRYSTAL) if scored else None
    choice = said.said.get("choose", "valid")
    ids = [name for name in said.said.get("ids", "").split(",") if name]
    places = choose_samples(samples, choice, said.number("limit"), ids, verdicts)
    n_samples = len(samples if verdicts is None else verdicts)  # relaxed crystals are a part of them
    manifest = write_dft_inputs(samples, places, out, "ids" if ids else choice, {"samples": path}, n_samples)
    left_out = sum(1 for calculation in manifest.calculations if calculation.reason)
    print(f"{out}: {len(places) - left_out} calculations of {n_samples:,} samples, {MANIFEST}")
    for calculation in manifest.calculations:
        if calculation.reason:
            print(f"{calculation.id}: left out, {calculation.reason}")
    return 0


def dft_results(words: Sequence[str], prog: str) -> int:
    """Finished calculations as verdicts and rates."""
    from adit_scale.evaluation.energies.dft_results import read_dft_results

    said = Words.parse(words, prog, ("out", "corrections", "train", "hull"), n_paths="FOLDER")
    known = None
    if said.said.get("train"):
        known = [crystal for chunk in training_chunks(said.said["train"])(CRYSTAL) for crystal in chunk]
    path = Path(_one(said))
    hull = Path(said.said["hull"]) if said.said.get("hull") else None
    with ProgressBar("calculations") as bar:
        told = Counter(bar, "calculations")
        found = read_dft_results(path, said.config, hull, said.said.get("corrections", "mp2020"), known, told)
    scores = count(None, found.verdicts, said.config)
    show([scores], None)
    out = said.folder("out") or path
    out.mkdir(parents=True, exist_ok=True)
    files = [*found.write(out), out / SCORES]
    replace_text(files[-1], scores.to_json() + "\n")
    print(", ".join(str(file) for file in files))
    return 0


def hull_entries(words: Sequence[str], prog: str) -> int:
    """Reference entries of a model's own energies, from real crystals, or of published formation energies."""
    from adit_scale.evaluation.energies.potentials import Potential
    from adit_scale.evaluation.energies.references import reference_entries_from_structures

    said = Words.parse(words, prog, ("out", "limit", "split", "formation_energies", "fit", "check"))
    out = Path(said.required("out", "FILE.json"))
    if not said.config.relax:
        raise ConfigError("relax is missing; expected relax=chgnet, or another energy model")
    if out.suffix != ".json":
        raise ConfigError(f"out={out}: expected a file that ends in .json")
    if said.said.get("formation_energies"):
        return _published_entries(said, out)
    for word in ("fit", "check"):
        if word in said.said:
            raise ConfigError(f"{word} is of published energies; expected formation_energies=COLUMN with it")
    samples = _crystals(_one(said), said.said.get("split", "train"), said.number("limit"))
    crystals = [sample for sample in samples if isinstance(sample, AtomSet)]
    potential = Potential(said.config.relax, said.config.energies.device)
    with ProgressBar("crystals") as bar:
        report = reference_entries_from_structures(
            crystals,
            potential,
            out,
            said.config.energies,
            said.config.worker_processes(),
            Counter(bar, "relaxed", len(crystals)),
        )
    print(f"{out}: {report.n_entries:,} entries by {potential.describe()}")
    for reason, n in report.failed.items():
        print(f"{n:,} left out: {reason}")
    if report.uncovered:
        print(f"no elemental entry of {', '.join(report.uncovered)}: crystals with these have no hull")
    return 0


def leakage(words: Sequence[str], prog: str) -> int:
    """Held-out structures of shards that stand in their training split; status 1 where there are any."""
    from adit_scale.data.config import SPLITS, DataConfig
    from adit_scale.evaluation.leakage import LIMIT_S, find_leaks

    said = Words.parse(words, prog, ("split", "limit_s"), n_paths="SHARDS")
    place, split = _one(said), said.said.get("split", "val")
    if not is_shards(place):
        raise ConfigError(f"{place}: no shards (no manifest.json); expected what `adit data build` made")
    if split not in SPLITS[1:]:
        raise ConfigError(f"split is {split!r}; expected {' or '.join(SPLITS[1:])}")
    limit_s = said.number("limit_s", int(LIMIT_S))
    with ProgressBar("structures") as bar:
        found = find_leaks(DataConfig(shards=place), split, processes=said.config.worker_processes(),
                           limit_s=limit_s, progress=bar)  # fmt: skip
    for domain, leak in found.items():
        print(leak.describe(domain, split))
    return int(any(leak.n_leaked for leak in found.values()))


def _published_entries(said: Words, out: Path) -> int:
    from adit_scale.evaluation.energies import fitted
    from adit_scale.evaluation.energies.potentials import Potential
    from adit_scale.evaluation.energies.published import read_published

    potential = Potential(said.config.relax, said.config.energies.device)
    n_fit, n_check = said.number("fit", fitted.DEFAULT_FIT), said.number("check", fitted.DEFAULT_CHECK)
    published = read_published(said.paths, said.said["formation_energies"], said.number("limit"))
    n_asked = min(n_fit + n_check, len(published.crystals))
    with ProgressBar("crystals") as bar:
        told, processes = Counter(bar, "energies", n_asked), said.config.worker_processes()
        report = fitted.fitted_entries(
            published, potential, out, said.config.energies, n_fit, n_check, processes, told
        )
    print("\n".join(report.lines()))
    return 0


def _crystals(path: str, split: str, limit: int = 0) -> list[Sample]:
    return read_structures(path, limit, split, (CRYSTAL,))[CRYSTAL]


def _one(said: Words) -> str:
    if len(said.paths) > 1:
        raise ConfigError(f"{said.paths[1]}: a second path; expected one")
    return said.paths[0]
