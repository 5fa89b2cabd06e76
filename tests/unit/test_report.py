"""The page: what it shows, that it loads nothing, and that no prompt can break out of it."""

from __future__ import annotations

from html.parser import HTMLParser

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from drtune.config import Config
from drtune.images import contact_sheet, data_uri, resized
from drtune.report import Pair, extremes, number, render, scales, signed
from tests.reports import report_of, score

HOSTILE = """"><script>alert('x')</script><img src=x onerror=alert(1)> {{ 7 * 7 }} & </style>"""
VOID = {"meta", "img", "rect"}


def pair(prompt: str, gain: float, size: int = 8) -> Pair:
    return Pair(prompt, Image.new("RGB", (size, size), "red"), Image.new("RGB", (size, size), "blue"), 0.5, 0.5 + gain)


class Page(HTMLParser):
    """The tags of a page with their attributes, its text, and whether tags close in the order in which they opened."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.open: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def page_of(*prompts: str, num_truncated: int = 0, size: int = 8) -> str:
    report = report_of(
        score(gain=0.27),
        score(gain=0.3, category=HOSTILE),
        score(gain=0.2, category="photo"),
        score("preference", gain=-0.01),
        score("preference", gain=-0.01, category=HOSTILE),
        score("preference", gain=0.0, category="photo"),
    )
    pairs = [pair(prompt, gain=0.1 * index, size=size) for index, prompt in enumerate(prompts)]
    spreads = {"symmetry": 0.1, "preference": 0.05}
    return render(report, pairs, Config(), spreads=spreads, num_truncated=num_truncated)


def test_page_is_well_formed_and_shows_numbers_pictures_and_provenance() -> None:
    page = Page(page_of("a red circle", "a blue ring", num_truncated=3))
    assert page.open == []
    words = " ".join(page.text.split())
    for wanted in (
        "+0.270",
        "+0.240 to +0.300",
        "trained",
        "held out",
        "a red circle",
        "4a1b2c",
        "d751.dir",
        "904f0b1",
    ):
        assert wanted in words
    assert "3 of 100 prompts are longer than the text encoder reads" in words
    assert sum(tag == "img" for tag, _ in page.tags) == 4


def test_page_loads_nothing_and_runs_nothing() -> None:
    for tag, attributes in Page(page_of("a red circle")).tags:
        assert tag not in {"script", "link", "iframe", "object"}
        assert not any(name.startswith("on") for name in attributes)
        assert all((attributes.get(name) or "data:").startswith("data:") for name in ("src", "href"))


def test_hostile_prompts_and_categories_stay_text() -> None:
    page = Page(page_of(HOSTILE, "a blue ring"))
    assert page.open == []
    assert not [tag for tag, _ in page.tags if tag == "script"]
    assert sum(tag == "img" for tag, _ in page.tags) == 4
    assert page.text.count(HOSTILE) == 2  # as a category and under its pair
    assert f"base: {HOSTILE}" in [attributes["alt"] for tag, attributes in page.tags if tag == "img"]


@settings(deadline=None, max_examples=50)  # a busy machine is not a bug
@given(st.text())
def test_any_prompt_gives_a_well_formed_page(prompt: str) -> None:
    page = Page(page_of(prompt, "a blue ring"))
    assert page.open == []
    assert sum(tag == "figure" for tag, _ in page.tags) == 2


def test_page_of_large_photographs_stays_below_two_megabytes() -> None:
    noise = Image.effect_noise((1024, 1024), 80).convert("RGB")  # nothing compresses worse
    pairs = [Pair(f"prompt {index}", noise, noise, 0.5, 0.6) for index in range(40)]
    page = render(report_of(score()), pairs, Config(), spreads={"symmetry": 0.1}, num_truncated=0)
    assert page.count("<img") == 32
    assert len(page) < 2_000_000


@pytest.mark.parametrize(("available", "best", "worst"), [(1, [0], []), (3, [2, 1], [0]), (9, [8, 7], [0, 1])])
def test_extremes_are_the_largest_and_smallest_gains_and_none_twice(
    available: int, best: list[int], worst: list[int]
) -> None:
    pairs = [pair(str(index), gain=0.1 * index) for index in range(available)]
    shown = extremes(pairs, 4)
    assert [[int(shown_pair.prompt) for shown_pair in side] for side in shown] == [best, worst]


def test_bars_of_rewards_in_different_units_compare_by_spread() -> None:
    ends = scales([score("a", gain=0.2, margin=0.1), score("b", gain=1.0, margin=0.0)], {"a": 0.1, "b": 10.0})
    assert ends == pytest.approx({"a": 0.3, "b": 30.0})


def test_bars_can_be_drawn_when_nothing_varies_and_nothing_was_gained() -> None:
    assert min(scales([score(gain=0.0, margin=0.0)], {"symmetry": 0.0}).values()) > 0


def test_numbers_are_written_with_their_digits_and_true_minus_signs() -> None:
    assert [number(value) for value in (0.0561, 5.632, -12.4321, 1234.5)] == ["0.056", "5.63", "−12.4", "1234"]  # noqa: RUF001 - the sign is meant
    assert [signed(value) for value in (0.25, 0.0, -0.0004, -0.25)] == ["+0.250", "0.000", "0.000", "−0.250"]  # noqa: RUF001


def test_small_pictures_keep_their_pixels_and_large_ones_are_reduced() -> None:
    small = Image.new("RGB", (2, 1))
    small.putpixel((1, 0), (255, 0, 0))
    enlarged = resized(small, 9)
    assert enlarged.size == (8, 4)
    assert sorted(enlarged.getcolors() or []) == [(16, (0, 0, 0)), (16, (255, 0, 0))]
    assert resized(Image.new("RGB", (400, 100)), 64).size == (64, 16)
    assert data_uri(small, 9).startswith("data:image/png;base64,")
    assert data_uri(Image.new("RGB", (400, 100)), 64).startswith("data:image/jpeg;base64,")


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
