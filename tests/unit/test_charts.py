"""Charts and sheets: what they show lies where it should."""

from __future__ import annotations

import re
from xml.etree import ElementTree

import pytest
from PIL import Image

from drtune.files.charts import charts
from drtune.files.sheets import contact_sheet, fitted

SVG = "{http://www.w3.org/2000/svg}"


def lines_of(svg: str) -> list[list[list[float]]]:
    drawn = ElementTree.fromstring(svg).iter(f"{SVG}polyline")
    return [
        [[float(value) for value in point.split(",")] for point in line.get("points", "").split()] for line in drawn
    ]


def test_a_chart_spans_its_values_and_names_first_and_last() -> None:
    svg = charts({"my.py:warm_light": [(0, -0.5), (20, 0.25), (40, 0.0)], "<b>": [(0, 1.0), (40, 1.0)]})
    rising, flat = lines_of(svg)
    assert rising == [[10, 108], [135, 36], [260, pytest.approx(60)]]
    assert [y for _, y in flat] == [72, 72]
    texts = [text.text for text in ElementTree.fromstring(svg).iter(f"{SVG}text")]
    assert texts == ["warm light", "−0.5 → 0", "0", "update 40", "<b>", "1 → 1", "0", "update 40"]  # noqa: RUF001


def test_what_hardly_moves_looks_like_it() -> None:
    [line] = lines_of(charts({"a": [(0, 100.0), (1, 100.1)]}))
    assert abs(line[0][1] - line[1][1]) < 5


@pytest.mark.parametrize("text", ["", "a cat", "a cat in the rain " * 9, "x" * 10_000, "two\nlines", "猫" * 300])
def test_a_line_of_text_fits_and_is_cut_only_where_it_must_be(text: str) -> None:
    told = fitted(text, 200)
    start = told.removesuffix("…").rstrip()
    assert re.sub(r"\s+", " ", text).startswith(start)
    assert told.endswith("…") == (len(" ".join(text.split())) > len(told.removesuffix("…")))


def test_captions_stand_below_their_pictures_and_the_title_above_all() -> None:
    pictures = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue", "lime")]
    sheet = contact_sheet(pictures, 2, captions=["a", "", "a long caption of many words"], title="after", side=64)
    assert sheet.size == (64 + 4 + 64, 32 + 2 * (64 + 32) + 4)
    assert [sheet.getpixel(place) for place in ((0, 32), (68, 95), (0, 132))] == [(255, 0, 0), (0, 0, 255), (0, 255, 0)]

    def is_blank(left: int, top: int, right: int, bottom: int) -> bool:
        return sheet.crop((left, top, right, bottom)).getcolors() == [
            ((right - left) * (bottom - top), (255, 255, 255))
        ]

    assert [is_blank(0, 0, 132, 32), is_blank(0, 96, 64, 128), is_blank(68, 96, 132, 128)] == [False, False, True]
    assert is_blank(64, 196, 132, 228)  # the caption of the last picture stays below it


def test_contact_sheet_places_pictures_in_rows() -> None:
    sheet = contact_sheet([Image.new("RGB", (4, 4), colour) for colour in ("red", "green", "blue")], 2, side=8, gap=2)
    assert sheet.size == (18, 18)
    assert [sheet.getpixel(place) for place in ((0, 0), (10, 7), (7, 10), (8, 0), (17, 17))] == [
        (255, 0, 0),
        (0, 128, 0),
        (0, 0, 255),
        (255, 255, 255),
        (255, 255, 255),
    ]
