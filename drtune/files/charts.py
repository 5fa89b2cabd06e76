"""Line charts as SVG, small enough to read: in a Markdown file, a page or a notebook, on light or dark."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

Points = Sequence[tuple[float, float]]

WIDTH, HEIGHT = 270, 130
"""Of one chart, in pixels."""
TOP, SIDE, BOTTOM = 36, 10, 22
"""Room around the drawing: for the name and the two values above, for the ends of the axis below."""
COLUMNS = 2
FLATTEST = 0.02
"""Share of the largest value that a chart spans at least, so that what hardly moved looks like it."""
STYLE = """
.chart text { font: 12px system-ui, -apple-system, "Segoe UI", "DejaVu Sans", sans-serif; fill: #6d727d; }
.chart .name { font-weight: 600; fill: #1c1d21; } .chart .axis { stroke: #8b8f9955; }
.chart polyline { fill: none; stroke: #2a6fdb; stroke-width: 2; } .chart circle { fill: #2a6fdb; }
.chart .faint { opacity: 0.35; }
@media (prefers-color-scheme: dark) {
  .chart .name { fill: #eceef1; } .chart text { fill: #9aa0ac; }
  .chart polyline { stroke: #7fb0ff; } .chart circle { fill: #7fb0ff; }
}
"""


def charts(curves: Mapping[str, Points], *, dots: Mapping[str, Points] | None = None) -> str:
    """One SVG with a chart for each curve by its name, side by side: they have no unit in common.

    Args:
        curves: points (update, value), in their order; of a name such as `my.py:warm_light` is shown "warm light".
        dots: for some of the curves, points that are shown faintly behind it and not joined.
    """
    count = len(curves)
    columns = min(COLUMNS, count)
    width, height = columns * WIDTH, -(-count // columns) * HEIGHT
    parts = [
        _chart(name, points, (dots or {}).get(name, ()), (index % columns) * WIDTH, (index // columns) * HEIGHT)
        for index, (name, points) in enumerate(curves.items())
    ]
    return (
        f'<svg class="chart" xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" '
        f'height="{height}" style="max-width:100%;height:auto"><style>{STYLE}</style>{"".join(parts)}</svg>\n'
    )


def _chart(name: str, points: Points, dots: Points, left: int, top: int) -> str:
    shown, name = [*points, *dots], name.rpartition(":")[2].replace("_", " ")
    (first_x, last_x), (low, high) = (
        (min(values), max(values)) for values in ([x for x, _ in shown], [y for _, y in shown])
    )

    room = FLATTEST * max(abs(low), abs(high)) - (high - low)
    low, high = (low - room / 2, high + room / 2) if room > 0 else (low, high)

    def place(point: tuple[float, float]) -> str:
        x = SIDE + (point[0] - first_x) / ((last_x - first_x) or 1) * (WIDTH - 2 * SIDE)
        y = HEIGHT - BOTTOM - (point[1] - low) / ((high - low) or 1) * (HEIGHT - TOP - BOTTOM)
        return f"{x:.1f},{y:.1f}"

    def circle(point: tuple[float, float], radius: float) -> str:
        x, y = place(point).split(",")
        return f'<circle cx="{x}" cy="{y}" r="{radius}"/>'

    base, right = HEIGHT - BOTTOM, WIDTH - SIDE
    told = f"{name}: {shown_value(points[0][1])} to {shown_value(points[-1][1])}"
    return (
        f'<g transform="translate({left} {top})" role="img" aria-label="{escape(told)}">'
        f'<text class="name" x="{SIDE}" y="14">{escape(name)}</text>'
        f'<text x="{right}" y="14" text-anchor="end">{shown_value(points[0][1])} → {shown_value(points[-1][1])}</text>'
        f'<line class="axis" x1="{SIDE}" y1="{base + 4}" x2="{right}" y2="{base + 4}"/>'
        f'<text x="{SIDE}" y="{HEIGHT - 4}">{first_x:g}</text>'
        f'<text x="{right}" y="{HEIGHT - 4}" text-anchor="end">update {last_x:g}</text>'
        f'<g class="faint">{"".join(circle(dot, 1.5) for dot in dots)}</g>'
        f'<polyline points="{" ".join(map(place, points))}"/>'
        f"{'' if dots else ''.join(circle(point, 2.5) for point in points)}</g>"
    )


def shown_value(value: float) -> str:
    """Three digits, with a proper minus."""
    return f"{value:.3g}".replace("-", "\N{MINUS SIGN}")
