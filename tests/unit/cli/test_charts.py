"""Charts of a run's report: every point where its value says, nothing lost, nothing that a browser would load."""

import math
import re
from xml.etree import ElementTree

import pytest

from trimtab.cli import plotting

SVG = "{http://www.w3.org/2000/svg}"


def drawn(*lines: plotting.Series, title: str = "Loss") -> ElementTree.Element:
    return ElementTree.fromstring(plotting.line_chart(title, lines, "nats"))


def places(polyline: ElementTree.Element) -> list[tuple[float, float]]:
    return [tuple(map(float, pair.split(","))) for pair in polyline.attrib["points"].split()]  # type: ignore[misc]


def ticks(chart: ElementTree.Element, side: str) -> list[tuple[float, float]]:
    """(place, value) of the ticks up the left side or along the bottom."""
    anchor, coordinate = {"left": ("end", "y"), "bottom": ("middle", "x")}[side]
    return [
        (float(text.attrib[coordinate]), float(text.text or ""))
        for text in chart.iter(f"{SVG}text")
        if text.attrib["text-anchor"] == anchor and re.fullmatch(r"-?[\d.e+-]+", text.text or "")
    ]


def value_at(place: float, scale: list[tuple[float, float]]) -> float:
    """What a place means by the ticks of its axis."""
    (first, low), (last, high) = scale[0], scale[-1]
    return low + (place - first) / (last - first) * (high - low)


@pytest.mark.parametrize(
    "values",
    [
        [0.1, 0.5, 0.25],
        [-3.0, 4.0, 0.0, 12.5],
        [1e-7, 3e-7],
        [2e6, 5e6, 1e6],
        [6.9, 0.2, 0.3, 0.1],
    ],
)
def test_points_stand_where_the_ticks_say(values: list[float]) -> None:
    chart = drawn(plotting.Series("training", list(enumerate(values, 1))))
    [polyline] = chart.iter(f"{SVG}polyline")
    up, across = ticks(chart, "left"), ticks(chart, "bottom")
    room = max(values) - min(values)
    for (x, y), (step, value) in zip(places(polyline), enumerate(values, 1), strict=True):
        assert value_at(x, across) == pytest.approx(step, abs=0.05)
        assert value_at(y, up) == pytest.approx(value, abs=room / 50)
    assert up[0][1] <= min(values)
    assert max(values) <= up[-1][1]
    assert 3 <= len(up) <= 9


def test_ticks_are_told_apart() -> None:
    for values in ([0.0001, 0.0002], [0.7, 0.71], [1000.0, 1001.0], [5.0, 5.0], [0.0, 0.0], [-2.0, -2.0]):
        told = [value for _, value in ticks(drawn(plotting.Series("", list(enumerate(values)))), "left")]
        assert len(set(told)) == len(told) >= 2


def test_few_points_say_their_value_and_many_are_smoothed() -> None:
    few = drawn(plotting.Series("policy", [(1, 0.25), (2, 0.5)]))
    assert [circle[0].text for circle in few.iter(f"{SVG}circle")] == ["policy 1: 0.25", "policy 2: 0.5"]
    many = drawn(plotting.Series("policy", [(step, (-1.0) ** step) for step in range(1, 201)]))
    raw, smooth = (places(polyline) for polyline in many.iter(f"{SVG}polyline"))
    assert len(raw) == len(smooth) == 200
    assert not list(many.iter(f"{SVG}circle"))
    middle = [y for _, y in smooth[20:-20]]
    assert max(middle) - min(middle) < (max(y for _, y in raw) - min(y for _, y in raw)) / 5


def test_thinning_keeps_every_extreme() -> None:
    points = [(float(step), math.sin(step)) for step in range(50_000)]
    points[31_234] = (31_234.0, 99.0)
    kept = plotting.Series("", points).drawn
    assert len(kept) <= 800
    assert (31_234.0, 99.0) in kept
    assert kept == sorted(kept)


def test_values_that_are_no_numbers_are_left_out() -> None:
    chart = drawn(plotting.Series("", [(1, math.nan), (2, 1.0), (3, math.inf), (4, 2.0)]))
    [polyline] = chart.iter(f"{SVG}polyline")
    assert len(places(polyline)) == 2
    assert plotting.line_chart("Loss", [plotting.Series("", [(1, math.nan)])]) == ""
    assert plotting.line_chart("Loss", []) == ""


def test_one_point_is_a_chart_and_names_are_escaped() -> None:
    chart = drawn(plotting.Series("<b>&", [(1, 3.0)]), title="a < b")
    assert chart.attrib["aria-label"] == "a < b, nats"
    [circle] = chart.iter(f"{SVG}circle")
    assert circle[0].text == "<b>& 1: 3"


def test_each_line_has_its_colour() -> None:
    chart = drawn(plotting.Series("a", [(1, 1.0), (2, 2.0)]), plotting.Series("b", [(1, 2.0), (2, 1.0)]))
    assert len({polyline.attrib["stroke"] for polyline in chart.iter(f"{SVG}polyline")}) == 2


def test_a_chart_alone_has_its_colours_and_the_names_of_its_lines() -> None:
    lines = [plotting.Series("one & two", [(0.0, 1.0), (1.0, 2.0)]), plotting.Series("three", [(0.0, 3.0), (1.0, 1.0)])]
    chart = plotting.alone(plotting.line_chart("both", lines), [line.name for line in lines])
    picture = ElementTree.fromstring(chart)
    assert {"one & two", "three"} <= {part.text for part in picture.iter()}
    style = next(part.text for part in picture.iter() if part.tag.endswith("style"))
    used = set(re.findall(r"var\((--[a-z0-9-]+)\)", chart))
    assert {"--grid", "--line-1", "--line-2"} <= used
    assert all(f"{name}:" in style for name in used)
