"""The page of a report: one file that needs no network, drawn in full inside a sandboxed frame."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path

from adit_scale.scaling.chart_html import rich
from adit_scale.scaling.chart_html import to_html as chart_to_html
from adit_scale.scaling.chart_layout import plain
from adit_scale.scaling.charts import Chart
from adit_scale.scaling.checklist import NOT_STATED, Item
from adit_scale.scaling.table_formats import Table
from adit_scale.scaling.table_formats import to_html as table_to_html

STYLE = """
*{box-sizing:border-box} html{scroll-behavior:smooth}
body{font:16px/1.5 system-ui,sans-serif;color:#222;margin:0;background:#fff}
.page{display:grid;grid-template:"nav head" auto "nav main" 1fr/15rem minmax(0,1fr);gap:0 2rem;
max-width:1720px;margin:0 auto;padding:0 1.5rem}
header{grid-area:head;min-width:0;padding-top:1.2rem} main{grid-area:main}
nav{grid-area:nav;position:sticky;top:0;align-self:start;max-height:100vh;overflow-y:auto;padding:1.6rem 0;
font-size:.84rem}
nav a{display:block;color:#0060a0;text-decoration:none;padding:.13rem 0}
nav a:hover{text-decoration:underline}
nav a.empty{color:#767676} nav b{display:block;margin-top:.8rem}
main{min-width:0;padding:0 0 4rem} h1{font-size:1.7rem;margin:.2rem 0}
h2{font-size:1.3rem;margin:2.6rem 0 .6rem;border-bottom:1px solid #ccc;padding-bottom:.2rem}
h3{font-size:1.05rem;margin:1.8rem 0 .3rem} p{max-width:78rem;margin:.5rem 0}
.headline{font-size:1.15rem;border-left:4px solid #0072b2;padding:.2rem 0 .2rem .9rem}
.figure{margin:1.4rem 0 2rem;max-width:100%;overflow:hidden} .caption,.quiet{color:#555;font-size:.9rem}
table{border-collapse:collapse;font-size:.86rem;font-variant-numeric:tabular-nums}
.wide{overflow-x:auto;max-width:100%} img{max-width:100%}
th,td{padding:.28rem .6rem;border-bottom:1px solid #ddd;text-align:right;white-space:nowrap}
td.text,th.text,td:first-child{text-align:left} tr.quiet td{color:#6b6b6b}
.checklist td{white-space:normal;text-align:left;vertical-align:top}
.checklist td:first-child{font-weight:600}
.missing{color:#b00020;font-weight:600} li{margin:.2rem 0}
.warning{background:#fff4e0;border-left:4px solid #e69f00;padding:.3rem .8rem;margin:.4rem 0;
max-width:78rem}
@media (max-width:1150px){.page{display:block}
nav{position:static;max-height:none;columns:3;padding:.8rem 0 0}}
@media print{nav{display:none} .page{display:block} h2,h3,.figure{break-inside:avoid}}
"""
# MLflow shows artifacts in a sandboxed frame without an address: links to parts of the page need a hand.
SCROLL = """
document.querySelectorAll('nav a').forEach(function(a){a.addEventListener('click',function(e){
var t=document.getElementById(a.getAttribute('href').slice(1));
if(t){e.preventDefault();t.scrollIntoView()}})})
"""


@dataclass(frozen=True)
class Drawn:
    """One of the figures that every report has. chart: None where the study has no data for it; ``given_by``
    then says what would give them."""

    key: str
    title: str
    chart: Chart | None
    given_by: str


@dataclass(frozen=True)
class Page:
    """What the page shows, from top to bottom. subtitle: how many points there are. pictures: further PNG
    files by title."""

    title: str
    subtitle: str
    headline: str
    hypothesis: str
    key_numbers: Table
    figures: Sequence[Drawn]
    tables: Sequence[Table]
    warnings: Sequence[str]
    refusals: Mapping[str, str]
    checklist: Sequence[Item]
    files: Sequence[str]
    pictures: Mapping[str, Path] = field(default_factory=dict)


def render(page: Page) -> str:
    """The whole file."""
    hypothesis = f'<p class="quiet">Hypothesis: {escape(page.hypothesis)}</p>' if page.hypothesis else ""
    return "\n".join(
        [
            '<!DOCTYPE html><html lang="en"><head><meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width,initial-scale=1">',
            f"<title>{escape(page.title)}</title><style>{STYLE}</style></head><body>",
            f'<div class="page"><header><h1>Scaling study: {escape(page.title)}</h1>',
            f'<p class="quiet">{escape(page.subtitle)}</p>',
            f'<p class="headline">{escape(page.headline)}</p>{hypothesis}</header>',
            f"<nav>{_contents(page)}</nav><main>",
            f'<h2 id="numbers">Key numbers</h2>{table_to_html(page.key_numbers)}',
            *_warnings(page),
            '<h2 id="figures">Figures</h2>',
            *_figures(page.figures),
            *_pictures(page.pictures),
            '<h2 id="tables">Tables</h2>',
            *(f'<h3 id="table-{t.key}">{escape(t.title)}</h3>{table_to_html(t)}' for t in page.tables),
            *_not_fitted(page.refusals),
            f'<h2 id="methods">Methods</h2>{_checklist(page.checklist)}',
            '<h2 id="files">Files beside this page</h2>',
            f'<p class="quiet">{escape(", ".join(page.files))}</p>',
            f"</main></div><script>{SCROLL}</script></body></html>\n",
        ]
    )


def _contents(page: Page) -> str:
    links = ["<b>Study</b>", _link("numbers", "Key numbers")]
    if page.warnings:
        links.append(_link("warnings", f"Warnings ({len(page.warnings)})"))
    links.append("<b>Figures</b>")
    links += [_link(f"figure-{f.key}", f.title, "" if f.chart else "empty") for f in page.figures]
    links += ["<b>Tables</b>", *(_link(f"table-{t.key}", t.title) for t in page.tables)]
    return "".join([*links, "<b>About</b>", _link("methods", "Methods"), _link("files", "Files")])


def _link(target: str, title: str, css_class: str = "") -> str:
    kind = f' class="{css_class}"' if css_class else ""
    return f'<a{kind} href="#{escape(target)}">{escape(title)}</a>'


def _figures(figures: Sequence[Drawn]) -> list[str]:
    """Each figure, or the line that says what would give it. The library goes in once, before the first."""
    parts, library = [], True
    for figure in figures:
        heading = f'<h3 id="figure-{escape(figure.key)}">{escape(figure.title)}</h3>'
        if figure.chart is None:
            words = f"Not in this study; given by {figure.given_by}."
            parts.append(f'{heading}<p class="quiet">{escape(words)}</p>')
            continue
        drawn = chart_to_html(figure.chart, include_library=library)
        library = False
        caption = f'<p class="caption">{rich(plain(figure.chart.caption))}</p>'
        parts.append(f'<section class="figure">{heading}{drawn}{caption}</section>')
    return parts


def _pictures(pictures: Mapping[str, Path]) -> list[str]:
    parts = []
    for title, path in pictures.items():
        source = "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode()
        parts.append(f'<h3>{escape(title)}</h3><img alt="{escape(title)}" src="{source}">')
    return parts


def _warnings(page: Page) -> list[str]:
    if not page.warnings:
        return []
    lines = [f'<p class="warning">{escape(warning)}</p>' for warning in page.warnings]
    return ['<h3 id="warnings">Warnings</h3>', *lines]


def _not_fitted(refusals: Mapping[str, str]) -> list[str]:
    if not refusals:
        return []
    lines = [f"<li>{escape(name.replace('_', ' '))}: {escape(why)}</li>" for name, why in refusals.items()]
    return [f"<h3>Not fitted</h3><ul>{''.join(lines)}</ul>"]


def _checklist(items: Sequence[Item]) -> str:
    rows = []
    for item in items:
        answer = escape(item.answer) or f'<span class="missing">{NOT_STATED}</span>'
        rows.append(f"<tr><td>{escape(item.question)}</td><td>{answer}</td></tr>")
    return f'<table class="checklist">{"".join(rows)}</table>'
