"""Charts to draw: one of every kind of item, and any chart at all for property tests."""

from __future__ import annotations

from hypothesis import Phase
from hypothesis import strategies as st

from adit_scale.scaling.charts import (
    BLUE,
    DASHES,
    GREEN,
    ORANGE,
    SHAPES,
    SKY,
    Axis,
    Band,
    Bars,
    Chart,
    Line,
    Marks,
    Panel,
    Rule,
)

HOSTILE = '</script><script>alert("x")</script><b>&amp; $\\frac{1}{0}$ %{x} \\'
N = [57_500.0, 410_000.0, 9.8e6]
# Drawing is slow, making a failing chart smaller takes minutes: a failure shows the chart as found.
QUICK = (Phase.explicit, Phase.reuse, Phase.generate)


def every_kind() -> Chart:
    """Two panels: law with band, runs and a rule on log axes; bars of two series over named places."""
    law = [0.9, 0.7, 0.55]
    left = Panel(
        Axis("denoiser parameters N", log=True),
        Axis("final validation loss", log=True),
        [
            Band(N, [0.85, 0.68, 0.5], [0.95, 0.72, 0.6], "95% band", BLUE),
            Line(N, law, "L = 0.3 + 8·N^{-0.25}", BLUE, "dash"),
            Marks(
                N, [0.91, 0.69, 0.56], "runs", [0.9, 0.68, 0.55], [0.92, 0.7, 0.57], ["a", "b", "c"], ORANGE
            ),
            Rule(0.5, name="E of the law", colour=GREEN),
            Rule(1e6, "x", "optimum"),
        ],
        "law",
    )
    right = Panel(
        Axis("", categories=["dit_32", "dit_64", HOSTILE]),
        Axis("GPU-hours"),
        [
            Bars([0, 1, 2], [1, 2, 4], "planned", colour=SKY),
            Bars([0, 1, 2], [1.5, 2, 3], "used", [1, 1.9, 2], [2, 2.1, 5], colour=BLUE),
        ],
    )
    return Chart("every_kind", "Every kind of item", [left, right], "A caption.", notes=["A note."])


# What a broken run, an overflow or a failed fit can hand to a figure.
floats = st.one_of(
    st.floats(),
    st.sampled_from([0.0, -1.0, 1e-300, 1e300, 1.7e308, 5e-324, 1.0, 1.0 + 1e-15, 0.5]),
    st.floats(0.01, 1e20),
)
texts = st.one_of(st.text(max_size=12), st.sampled_from(["", HOSTILE, "N^{2}", "x" * 300, "\ud800", "$a$"]))


@st.composite
def items(draw: st.DrawFn) -> Marks | Line | Band | Bars | Rule:
    n = draw(st.sampled_from([0, 1, 2, 5]))
    columns = [draw(st.lists(floats, min_size=n, max_size=n)) for _ in range(4)]
    x, y, low, high = columns
    name = draw(texts)
    kind = draw(st.sampled_from([Marks, Line, Band, Bars, Rule]))
    if kind is Rule:
        return Rule(draw(floats), draw(st.sampled_from("xy")), name)
    if kind is Line:
        return Line(x, y, name, dash=draw(st.sampled_from(DASHES)))
    if kind is Band:
        return Band(x, low, high, name)
    below, above = (low, high) if draw(st.booleans()) else ([], [])
    words = draw(st.lists(texts, max_size=n))
    if kind is Bars:
        return Bars(x, y, name, below, above, words)
    shape, filled = draw(st.sampled_from(SHAPES)), draw(st.booleans())
    return Marks(x, y, name, below, above, words, shape=shape, filled=filled)


@st.composite
def axes(draw: st.DrawFn) -> Axis:
    low, high = draw(st.one_of(st.none(), floats)), draw(st.one_of(st.none(), floats))
    categories = draw(st.sampled_from([(), (), ("a", HOSTILE)]))
    return Axis(
        draw(texts), draw(st.booleans()) and not categories, draw(st.booleans()), low, high, categories
    )


panels = st.builds(Panel, axes(), axes(), st.lists(items(), max_size=4), texts)
charts = st.builds(
    Chart,
    texts,
    texts,
    st.lists(panels, max_size=3),
    texts,
    st.integers(0, 3),
    st.lists(texts, max_size=2),
)
