"""Line charts as SVG, written by hand: a page that holds them needs nothing else. Used by `cli.models.reporting` and
`cli.operators.showing`.

Colours are variables of the page's style sheet (grid, line-1, line-2 and so on), so that a chart is light or dark with
its page.
"""

import dataclasses
import html
import math
from collections.abc import Sequence

WIDTH, HEIGHT = 440, 240
_LEFT, _RIGHT, _TOP, _BOTTOM = 56, 12, 12, 34
_TICKS = 5
# More points than this are drawn as the least and the greatest of each of half as many stretches.
_MOST_POINTS = 800
# So few points are marked, and say their value when pointed at; of more, the running mean stands out.
_MARKED = 60
COLOURS = 4
_STYLE = (
    "svg { --grid: #dfe3e8; --line-1: #2563b8; --line-2: #c2571a; --line-3: #2e8b57; --line-4: #8a4fb0;"
    " font: 11px system-ui, sans-serif; fill: #5c6675; }"
    " @media (prefers-color-scheme: dark) { svg { --grid: #333b46; --line-1: #6aa5f0; --line-2: #f0955c;"
    " --line-3: #6cc797; --line-4: #c594e6; fill: #9aa4b2; } }"
)


@dataclasses.dataclass(frozen=True, slots=True)
class Series:
    """points: (step, value), steps rising. Values that are not finite are not drawn."""

    name: str
    points: Sequence[tuple[float, float]]

    @property
    def drawn(self) -> list[tuple[float, float]]:
        """The finite points, thinned so that a browser can hold them and no extreme is lost."""
        finite = [(x, y) for x, y in self.points if math.isfinite(y)]
        if len(finite) <= _MOST_POINTS:
            return finite
        size = math.ceil(2 * len(finite) / _MOST_POINTS)
        kept = []
        for start in range(0, len(finite), size):
            stretch = finite[start : start + size]
            kept += sorted({min(stretch, key=lambda point: point[1]), max(stretch, key=lambda point: point[1])})
        return kept


def line_chart(title: str, lines: Sequence[Series], unit: str = "", across: str = "step") -> str:
    """An SVG element. title, unit: of the values; across: what the horizontal axis counts. Empty without points."""
    kept = [line for line in lines if line.drawn]
    if not kept:
        return ""
    points = [point for line in kept for point in line.drawn]
    frame = _Frame(
        _nice([x for x, _ in points], whole=True),
        _nice([y for _, y in points]),
    )
    label = html.escape(f"{title}, {unit}" if unit else title)
    parts = [
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{label}" xmlns="http://www.w3.org/2000/svg">',
        f"<title>{label}</title>",
        *frame.axes(across),
        *(part for number, line in enumerate(kept) for part in _drawn(line, number, frame)),
        "</svg>",
    ]
    return "\n".join(parts)


def alone(chart: str, names: Sequence[str] = ()) -> str:
    """The chart as a file of its own: with colours, light or dark as its reader likes it, and its lines' names."""
    legend = "".join(
        f'<text x="{_LEFT + 10}" y="{_TOP + 14 + 15 * number}" style="fill: var(--line-{number % COLOURS + 1})">'
        f"{html.escape(name)}</text>"
        for number, name in enumerate(names)
    )
    opening, rest = chart.split(">", 1)
    return f"{opening}>\n<style>{_STYLE}</style>{rest.removesuffix('</svg>')}{legend}\n</svg>"


class _Frame:
    """Where values stand on the canvas. across, up: the ticks of each axis, rising."""

    def __init__(self, across: Sequence[float], up: Sequence[float]) -> None:
        self._across, self._up = across, up

    def x(self, value: float) -> float:
        return _LEFT + (WIDTH - _LEFT - _RIGHT) * _share(value, self._across)

    def y(self, value: float) -> float:
        return HEIGHT - _BOTTOM - (HEIGHT - _TOP - _BOTTOM) * _share(value, self._up)

    def axes(self, across: str) -> list[str]:
        parts = []
        for tick in self._up:
            y = f"{self.y(tick):.1f}"
            parts.append(
                f'<line x1="{_LEFT}" x2="{WIDTH - _RIGHT}" y1="{y}" y2="{y}" stroke="var(--grid)" stroke-width="1"/>'
            )
            parts.append(f'<text x="{_LEFT - 6}" y="{y}" dy="0.32em" text-anchor="end">{_told(tick, self._up)}</text>')
        for tick in self._across:
            at = f'x="{self.x(tick):.1f}" y="{HEIGHT - _BOTTOM + 15}"'
            parts.append(f'<text {at} text-anchor="middle">{_told(tick, self._across)}</text>')
        middle = (WIDTH + _LEFT - _RIGHT) / 2
        parts.append(f'<text x="{middle}" y="{HEIGHT - 4}" text-anchor="middle">{html.escape(across)}</text>')
        return parts


def _drawn(line: Series, number: int, frame: _Frame) -> list[str]:
    colour = f"var(--line-{number % COLOURS + 1})"
    places = [(frame.x(x), frame.y(y)) for x, y in line.drawn]
    if len(places) > _MARKED:
        return [_polyline(places, colour, 0.3), _polyline(_smoothed(places), colour)]
    name = html.escape(line.name)
    return [
        _polyline(places, colour),
        *(
            f'<circle cx="{at_x:.1f}" cy="{at_y:.1f}" r="2.6" fill="{colour}">'
            f"<title>{name} {x:g}: {y:.5g}</title></circle>"
            for (at_x, at_y), (x, y) in zip(places, line.drawn, strict=True)
        ),
    ]


def _polyline(places: Sequence[tuple[float, float]], colour: str, opacity: float = 1.0) -> str:
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
    return f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="1.6" opacity="{opacity:g}"/>'


def _smoothed(places: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """The mean of each place and its neighbours, a twentieth of all; fewer at the ends, as many on either side."""
    reach = len(places) // 40
    smooth = []
    for number, (x, _) in enumerate(places):
        near = min(reach, number, len(places) - 1 - number)
        smooth.append((x, math.fsum(y for _, y in places[number - near : number + near + 1]) / (2 * near + 1)))
    return smooth


def _share(value: float, ticks: Sequence[float]) -> float:
    return (value - ticks[0]) / (ticks[-1] - ticks[0])


def _nice(values: Sequence[float], whole: bool = False) -> list[float]:
    """About five ticks at 1, 2 or 5 times a power of ten that enclose the values."""
    low, high = min(values), max(values)
    if low == high:
        # a flat line stands in the middle of something
        room = abs(low) / 2 or 1.0
        low, high = low - room, high + room
    rough = (high - low) / _TICKS
    power = 10 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * (1 - 1e-9))
    if whole:
        step = max(1.0, float(round(step)))
    first = math.floor(low / step + 1e-9)
    last = math.ceil(high / step - 1e-9)
    return [number * step for number in range(first, max(last, first + 1) + 1)]


def _told(tick: float, ticks: Sequence[float]) -> str:
    """A tick with as many digits as tell it from its neighbours."""
    step = ticks[1] - ticks[0]
    if tick and (abs(tick) >= 1e5 or step < 1e-4):
        return f"{tick:.2g}"
    return f"{tick:.{max(0, -math.floor(math.log10(step) + 1e-9))}f}"
