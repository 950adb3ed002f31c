"""Figures of the samples: rates against size and compute, through the loss, by sampling, by autoencoder."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from adit_scale.evaluation.statistics import Rate
from adit_scale.scaling.charts import (
    BLACK,
    BLUE,
    DASHES,
    GREEN,
    GREY,
    ORANGE,
    PURPLE,
    SHAPES,
    SKY,
    VERMILION,
    Axis,
    Chart,
    Item,
    Line,
    Marks,
    Panel,
    Rule,
)
from adit_scale.scaling.figures_style import (
    COMPUTE,
    DOMAIN_NAMES,
    SIZE,
    band,
    commonest_data,
    comparable,
    describe,
    fitted_labels,
    key_lines,
    line,
    near,
    positive,
    shade,
    shape,
    size_of,
    spread,
)
from adit_scale.scaling.results import LossLink
from adit_scale.scaling.study_data import Point
from adit_scale.scaling.table import RECONSTRUCTION_ROW, REFERENCE_ROW, Ceilings, parameters, trend_text

if TYPE_CHECKING:
    from adit_scale.scaling.study_fit import StudyFit

# By domain: what is valid or stable, then what is new. All other rates stand in the tables.
VALID = {
    "molecule": ("edm_validity", "edm_atom_stability", "edm_molecule_stability", "posebusters_validity"),
    "crystal": ("validity", "structural_validity", "compositional_validity"),
}
NEW = {
    "molecule": ("edm_uniqueness", "edm_novelty", "edm_valid_unique_novel"),
    "crystal": ("uniqueness", "novelty", "valid_unique_novel"),
}
MAIN = tuple(f"{domain}/{name}" for domain, names in VALID.items() for name in names[:2])
# Colour, shape and filling of each rate: alike in all figures, no two the same.
_LOOKS = (
    ("molecule", ((BLUE, "circle"), (SKY, "square"), (GREEN, "triangle"), (BLACK, "diamond"))),
    ("crystal", ((VERMILION, "square"), (ORANGE, "triangle"), (PURPLE, "diamond"))),
)
LOOKS = {
    f"{domain}/{name}": (*look, filled)
    for domain, looks in _LOOKS
    for names, filled in ((VALID[domain], True), (NEW[domain], False))
    for name, look in zip(names, looks, strict=False)
}
SHARE = "share of samples"
CEILING_KEYS = (("real data after the autoencoder", "dash"), ("real data", "dot"))
MOST_LINKS = 6


def rates(fit: StudyFit, ceilings: Ceilings) -> Chart | None:
    """Validity, uniqueness and novelty against N and against C, with the data's own rates."""
    runs = scored(fit)
    if not runs:
        return None
    amount = commonest_data(runs)
    at_one = [p for p in runs if near(p.atoms_seen, amount)]
    panels: list[Panel] = []
    drawn: list[str] = []
    flat: list[str] = []
    new = [f"{domain}/{name}" for domain, names in NEW.items() for name in names]
    groups = {f"{DOMAIN_NAMES[d]}: validity": [f"{d}/{name}" for name in VALID[d]] for d in VALID}
    for title, names in (*groups.items(), ("uniqueness and novelty", new)):
        metrics, constant = _worth_drawing(runs, names)
        flat += constant
        if metrics:
            drawn += metrics
            low = None if names is new else -0.02
            at_d = f"{title}, D = {parameters(amount)} atoms"
            panels.append(_rates_panel(at_one, metrics, ceilings, size_of, SIZE, at_d, low))
            panels.append(
                _rates_panel(runs, metrics, ceilings, _flops_of, COMPUTE, f"{title}, all runs", low)
            )
    if not panels:
        return None
    notes = [trend_text(fit.trends[name]) for name in drawn if name in fit.trends]
    notes += [f"not drawn: {text} in every run" for text in flat]
    caption = (
        "Share of samples by run, with 95% Wilson intervals: left against N at one amount of data, lines "
        "through the means of sizes; right against C, all runs of the fit. Dashed: the real data after the "
        "autoencoder; dotted: the real data. The notes say where a change with size is within noise."
    )
    return Chart("rates", "Validity, uniqueness and novelty", panels, caption, notes=notes)


def _flops_of(p: Point) -> float:
    return p.flops


def scored(fit: StudyFit) -> list[Point]:
    """Fitted runs with rates, by size. A run sampled in several ways counts with the study's commonest."""
    fitted = fitted_labels(fit)
    done = [p for p in comparable(fit) if p.status == "done"]
    runs = {p.run or p.label for p in done if p.label in fitted or not fitted}
    having = [p for p in done if (p.run or p.label) in runs and any(r.trials for r in p.rates.values())]
    common = Counter(_sampling_of(p) for p in having)
    by_run: dict[str, Point] = {}
    for p in sorted(having, key=lambda p: -common[_sampling_of(p)]):
        by_run.setdefault(p.run or p.label, p)
    return sorted(by_run.values(), key=lambda p: (p.n_parameters, p.atoms_seen, p.seed))


def _sampling_of(p: Point) -> tuple[int, str, str]:
    return p.sampling_steps, p.solver, f"{p.guidance:g}"  # text: nan does not equal itself


def _worth_drawing(runs: Sequence[Point], names: Iterable[str]) -> tuple[list[str], list[str]]:
    """Rates that vary, and by name those that are 0% or 100% in every run."""
    drawn, flat = [], []
    for name in names:
        values = {r.value for p in runs if (r := p.rates.get(name)) is not None and r.trials}
        if values in ({0.0}, {1.0}):
            flat.append(f"{name} is {100 * values.pop():.0f}%")
        elif values:
            drawn.append(name)
    return drawn, flat


def _rates_panel(
    runs: Sequence[Point],
    metrics: Sequence[str],
    ceilings: Ceilings,
    x_of: Callable[[Point], float],
    axis: Axis,
    title: str,
    low: float | None,
) -> Panel:
    items: list[Item] = []
    for i, metric in enumerate(metrics):
        colour, mark, filled = LOOKS[metric]
        having = [p for p in runs if metric in p.rates and p.rates[metric].trials]
        apart = spread(i, len(metrics))
        items += ceiling_rules(metric, ceilings, colour)
        if axis is SIZE:
            items.append(_mean_line(having, metric, apart, colour))
        x = [apart * x_of(p) for p in having]
        items.append(rate_marks(having, metric, x, full_name(metric), colour, mark, filled))
    items += key_lines(GREY, *_keys(items))
    return Panel(axis, share_axis(low=low), items, title)


def _keys(items: Sequence[Item]) -> list[tuple[str, str]]:
    """Names of the kinds of ceilings that are drawn."""
    dashes = {item.dash for item in items if isinstance(item, Rule)}
    return [(name, dash) for name, dash in CEILING_KEYS if dash in dashes]


def share_axis(label: str = SHARE, low: float | None = -0.02) -> Axis:
    return Axis(label, percent=True, low=low, high=1.02)


def full_name(metric: str) -> str:
    """molecule/edm_atom_stability -> molecules: EDM atom stability."""
    domain = metric.partition("/")[0]
    return f"{DOMAIN_NAMES.get(domain, domain)}: {metric_text(metric)}"


def metric_text(metric: str) -> str:
    """molecule/edm_atom_stability -> EDM atom stability."""
    return metric.partition("/")[2].replace("edm_", "EDM ").replace("_", " ")


def rate_marks(
    having: Sequence[Point],
    metric: str,
    x: Sequence[float],
    name: str,
    colour: str,
    mark: str,
    filled: bool = True,
) -> Marks:
    found = [p.rates[metric] for p in having]
    bounds = [r.interval for r in found]
    text = [
        f"{metric} {100 * r.value:.1f}% [{100 * low:.1f}, {100 * high:.1f}] of {r.trials}, {describe(p)}"
        for p, r, (low, high) in zip(having, found, bounds, strict=True)
    ]
    low, high = [b[0] for b in bounds], [b[1] for b in bounds]
    return Marks(x, [r.value for r in found], name, low, high, text, colour, mark, filled)


def ceiling_rules(metric: str, ceilings: Ceilings, colour: str) -> list[Item]:
    """What the real data score, and what they score after the autoencoder; named where they stand alone."""
    rules: list[Item] = []
    for row, dash in ((RECONSTRUCTION_ROW, "dash"), (REFERENCE_ROW, "dot")):
        rate = ceilings.get(row, {}).get(metric)
        if rate is not None and rate.trials:
            rules.append(Rule(rate.value, "y", "", colour, dash))
    return rules


def _mean_line(having: Sequence[Point], metric: str, apart: float, colour: str) -> Line:
    """Through the mean rates of the runs of each size."""
    sizes = sorted({p.n_parameters for p in having})
    groups = [[p.rates[metric].value for p in having if p.n_parameters == n] for n in sizes]
    return Line([apart * n for n in sizes], [sum(g) / len(g) for g in groups], "", colour, width=0.8)


def links(fit: StudyFit, ceilings: Ceilings) -> Chart | None:
    """Rates against the loss, with the sigmoid fitted to them."""
    usual = [f"{domain}/{name}" for domain, names in VALID.items() for name in names]
    order = [m for m in usual if m in fit.links] + sorted(set(fit.links) - set(usual))
    runs = scored(fit)
    panels = [_link_panel(fit.links[m], runs, ceilings) for m in order[:MOST_LINKS]]
    if not panels:
        return None
    notes = [f"{full_name(m)}: {_link_note(fit.links[m])}" for m in order[:MOST_LINKS]]
    if len(order) > MOST_LINKS:
        notes.append(f"not drawn: {', '.join(order[MOST_LINKS:])}")
    caption = (
        "Rates of runs with 95% Wilson intervals, colour and shape by parameters N; curve: ceiling times a "
        "sigmoid of the loss, with the 95% interval of the curve, widened where runs scatter by more than "
        "their samples. Dashed: the ceiling, what real data score after the autoencoder."
    )
    return Chart("loss_and_rates", "Loss against validity", panels, caption, notes=notes)


def _link_note(link: LossLink) -> str:
    """Where the rate is half of its ceiling, unless it does not rise as the loss falls."""
    half = f"half of its ceiling at L = {link.midpoint.value:.3g}" if link.midpoint.identified else ""
    return "; ".join(part for part in (half, link.note) if part)


def _link_panel(link: LossLink, runs: Sequence[Point], ceilings: Ceilings) -> Panel:
    having = [p for p in runs if link.metric in p.rates and p.rates[link.metric].trials]
    sizes = sorted({p.n_parameters for p in having})
    loss, rate, low, high = link.curve
    items: list[Item] = [*band(loss, low, high, GREY), line(loss, rate)]
    items.append(Rule(link.ceiling, "y", "ceiling"))
    for n in sizes:
        chosen = [p for p in having if p.n_parameters == n]
        x = [p.final_loss for p in chosen]
        items.append(rate_marks(chosen, link.metric, x, parameters(n), shade(n, sizes), shape(n, sizes)))
    return Panel(Axis("final validation loss L, both domains"), share_axis(), items, full_name(link.metric))


def sampling(fit: StudyFit, ceilings: Ceilings) -> Chart | None:
    """Rates against the number of sampling steps, of runs sampled with several."""
    series = _sampled_series(fit.points)
    if not series:
        return None
    sizes = sorted({key[0] for key in series})
    styles = sorted({key[1:3] for key in series})
    guided = len({key[2] for key in series}) > 1
    panels = []
    for domain, names in VALID.items():
        points = [p for group in series.values() for p in group]
        metrics, _ = _worth_drawing(points, [f"{domain}/{name}" for name in names[:2]])
        for metric in metrics:
            items = ceiling_rules(metric, ceilings, GREY)
            for (n, solver, guidance, _), group in sorted(series.items()):
                having = [p for p in group if metric in p.rates and p.rates[metric].trials]
                style = styles.index((solver, guidance))
                name = f"{parameters(n)}, {solver}" + (f", guidance {guidance}" if guided else "")
                x = [float(p.sampling_steps) for p in having]
                items.append(_step_line(having, metric, shade(n, sizes), DASHES[style % len(DASHES)]))
                mark = SHAPES[style % len(SHAPES)]
                items.append(rate_marks(having, metric, x, name, shade(n, sizes), mark))
            items += key_lines(GREY, *_keys(items))
            panels.append(Panel(STEPS, share_axis(), items, full_name(metric)))
    if not panels:
        return None
    caption = (
        "One trained run a colour, sampled with different numbers of steps; 95% Wilson intervals of the "
        "samples. Differences smaller than the intervals are noise. Dashed: the real data after "
        "the autoencoder; dotted: the real data. Heun's method evaluates the denoiser twice a step."
    )
    return Chart("sampling", "Sampling steps against quality", panels, caption)


STEPS = Axis("sampling steps", log=True)


def _step_line(having: Sequence[Point], metric: str, colour: str, dash: str) -> Line:
    steps = sorted({p.sampling_steps for p in having})
    groups = [[p.rates[metric].value for p in having if p.sampling_steps == s] for s in steps]
    return Line([float(s) for s in steps], [sum(g) / len(g) for g in groups], "", colour, dash, 1.2)


def _sampled_series(points: Sequence[Point]) -> dict[tuple[int, str, str, str], list[Point]]:
    """By size, solver, guidance and run, points of two or more numbers of steps, in their order."""
    series: dict[tuple[int, str, str, str], list[Point]] = {}
    for p in points:
        if p.run and p.sampling_steps > 0 and p.rates:
            key = p.n_parameters, p.solver or "?", f"{p.guidance:g}", p.run
            series.setdefault(key, []).append(p)
    several = {key: group for key, group in series.items() if len({p.sampling_steps for p in group}) > 1}
    return {key: sorted(group, key=lambda p: p.sampling_steps) for key, group in several.items()}


def autoencoders(fit: StudyFit, ceilings: Ceilings) -> Chart | None:
    """What each autoencoder lets through: ceilings of reconstruction, rates of samples, losses."""
    groups = _same_but_autoencoder(fit.points)
    if not groups:
        return None
    names = sorted(groups, key=lambda name: [groups[name][0].autoencoder.get(k, 0) for k in SHAPE_KEYS])
    axis = Axis("autoencoder (width x latent size)", categories=names)
    panels = []
    for domain, of_domain in VALID.items():
        points = [p for group in groups.values() for p in group]
        metrics, _ = _worth_drawing(points, [f"{domain}/{name}" for name in of_domain])
        if metrics:
            items: list[Item] = []
            for i, metric in enumerate(metrics):
                items += _by_autoencoder(groups, names, metric, i, len(metrics), ceilings)
            panels.append(Panel(axis, share_axis(), items, DOMAIN_NAMES[domain]))
    losses = [(float(i), p) for i, name in enumerate(names) for p in groups[name]]
    losses = [(i, p) for i, p in losses if positive(p.final_loss) and positive(p.constant_loss)]
    if losses:
        x, y = [i for i, _ in losses], [p.final_loss / p.constant_loss for _, p in losses]
        marks = Marks(x, y, "", text=[describe(p) for _, p in losses], colour=BLACK)
        panels.append(Panel(axis, RELATIVE_LOSS, [marks], "loss"))
    size = parameters(next(iter(groups.values()))[0].n_parameters)
    caption = (
        f"The same denoiser ({size}) and data over different autoencoders. Filled: samples; open: real data "
        "after the autoencoder, which samples cannot be expected to beat; 95% Wilson intervals. Losses are "
        "measured in each autoencoder's own latent space and do not compare between them; as shares of what "
        "the best constant prediction scores there they do roughly, rates do in full."
    )
    return Chart("autoencoders", "The autoencoder's part", panels, caption)


SHAPE_KEYS = ("parameters", "width", "latent")
RELATIVE_LOSS = Axis("final loss / loss of a constant prediction", percent=True)


def _by_autoencoder(
    groups: Mapping[str, Sequence[Point]],
    names: Sequence[str],
    metric: str,
    i: int,
    n: int,
    ceilings: Ceilings,
) -> list[Item]:
    (colour, mark, _), apart = LOOKS[metric], 0.12 * (i - (n - 1) / 2)
    found = [(k + apart, p) for k, name in enumerate(names) for p in groups[name] if metric in p.rates]
    x, points = [k for k, _ in found], [p for _, p in found]
    items: list[Item] = [rate_marks(points, metric, x, full_name(metric), colour, mark)]
    real = [
        (k + apart + 0.05, rate)
        for k, name in enumerate(names)
        if (rate := _reconstruction(groups[name][0], metric, ceilings)) is not None
    ]
    if real:
        bounds = [rate.interval for _, rate in real]
        y, low, high = [r.value for _, r in real], [b[0] for b in bounds], [b[1] for b in bounds]
        place = [k for k, _ in real]
        items.append(Marks(place, y, "", low, high, colour=colour, shape=mark, filled=False))
    return items


def _reconstruction(p: Point, metric: str, ceilings: Ceilings) -> Rate | None:
    """Of the real data after this point's autoencoder, where the study scored each of them."""
    return ceilings.get(f"{RECONSTRUCTION_ROW} {p.autoencoder_id}", {}).get(metric)


def _same_but_autoencoder(points: Sequence[Point]) -> dict[str, list[Point]]:
    """Scored joint runs of the one size and amount of data that most autoencoders share, by autoencoder."""
    done = [p for p in points if p.status == "done" and p.rates and p.autoencoder and not p.domain]
    designs: dict[tuple[int, str, tuple], dict[str, list[Point]]] = {}
    for p in done:
        key = p.n_parameters, f"{p.atoms_seen:.1e}", _sampling_of(p)
        name = f"{p.autoencoder.get('width', '?')} x {p.autoencoder.get('latent', '?')}"
        designs.setdefault(key, {}).setdefault(name, []).append(p)
    most = max(designs.values(), key=len, default={})
    return most if len(most) > 1 else {}
