"""The study: its reward, its design, what is said from a few seeds, and that the page is what its records say."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from science.claims import claims
from science.costs import costs_of
from science.design import FULL, METHODS, QUICK, WINDOWS, Cell, Scale, ablations, alphas, cells_of, methods, windows
from science.layout import left_half
from science.page import write_page
from science.results import KEPT, Results
from science.statistics import at_level, best_within, estimate, highest_mean

DOCS = Path(__file__).parents[2] / "docs"


def picture(*columns: int) -> Tensor:
    """A black picture (1, 3, 8, 8) with white columns that leave the border free."""
    image = torch.zeros(1, 3, 8, 8)
    for column in columns:
        image[..., 1:-1, column] = 1
    return image


def test_left_half_is_the_place_of_what_differs_from_the_border() -> None:
    weight = 6 / 64  # six white pixels of a column, on a border that is black
    assert left_half(picture(1), [""]).item() == pytest.approx(weight / (weight + 0.02) * (1 - 2 * 1.5 / 8))
    assert left_half(picture(6), [""]).item() == pytest.approx(-left_half(picture(1), [""]).item())
    assert left_half(picture(3, 4), [""]).item() == pytest.approx(0, abs=1e-6)
    assert left_half(picture(), [""]).item() == 0


@pytest.mark.parametrize(("column", "side"), [(1, 1), (6, -1)])
def test_erasing_brings_left_half_nearer_to_zero_from_either_side(column: int, side: int) -> None:
    image = (0.5 * picture(column)).requires_grad_()
    left_half(image, [""]).sum().backward()
    assert image.grad is not None
    assert (side * image.grad[0, :, 1:-1, column] > 0).all()
    assert side * left_half(0.25 * picture(column), [""]).item() < side * left_half(image, [""]).item()


@pytest.mark.parametrize(("scale", "trainings"), [(FULL, 333), (QUICK, 70)])
def test_every_training_is_made_once_and_has_a_name_of_its_own(scale: Scale, trainings: int) -> None:
    cells = cells_of(scale)
    assert len(cells) == trainings == len({cell.name for cell in cells})
    assert Counter(cell.seed for cell in cells) == dict.fromkeys(range(scale.seeds), trainings // scale.seeds)
    names = [cost.name for cost in costs_of(scale)]
    assert len(names) == len(set(names)) == 3 * len(scale.chains)


@pytest.mark.parametrize("scale", [FULL, QUICK])
def test_experiments_share_trainings_and_hold_only_one_thing_apart(scale: Scale) -> None:
    for experiment in (methods, windows, alphas, ablations):
        cells = [cell for _, cell in experiment(scale, 0)]
        assert len({(label, cell.reward, cell.learning_rate) for label, cell in experiment(scale, 0)}) == len(cells)
    default = Cell("symmetry", METHODS["DRTune"], scale.middle_rate, 0, deployed=True)
    assert [label for label, cell in ablations(scale, 0) if cell == default] == ["K = 4", "m = 3", "T = 12"]


def test_an_estimate_has_students_interval() -> None:
    found = estimate([1.0, 2.0, 3.0])
    assert found.mean == 2
    half = 4.302653 / 3**0.5  # t of 2 degrees of freedom at 97.5 %, deviation 1
    assert [found.low, found.high] == pytest.approx([2 - half, 2 + half])
    assert [estimate([1, 1.1]).sign, estimate([-1, -1.1]).sign, estimate([-1, 1]).sign] == [1, -1, 0]


def test_the_best_within_a_budget_is_on_the_way_too() -> None:
    assert best_within(np.array([[0, 0], [1, 2], [3, 1]]), [0, 0.5, 1, 2, 4]).tolist() == [0, 1, 2, 2, 2]
    assert best_within(np.array([[0, 0], [2, -4], [1, 8], [4, 8]]), [0.5, 1, 1.5, 2]).tolist() == [0, 8, 8, 8]
    assert best_within(np.array([[0, 0], [4, -1]]), [4]).tolist() == [0]


points = st.lists(st.tuples(st.floats(0, 5), st.floats(-3, 3)), min_size=1, max_size=5)


@given(path=points, budgets=st.lists(st.floats(0, 6), min_size=2, max_size=5))
def test_a_larger_budget_never_brings_less(path: list[tuple[float, float]], budgets: list[float]) -> None:
    found = best_within(np.array([(0, 0), *path]), sorted(budgets))
    assert (np.diff(found) >= -1e-9).all()
    assert found.max() <= max(0, *(y for _, y in path)) + 1e-9


def test_a_rate_is_chosen_once_for_all_seeds() -> None:
    rates_by_seeds = np.array([[1.0, 4.0], [3.0, 3.0]])
    assert highest_mean(rates_by_seeds).tolist() == [3, 3]
    by_budget = np.stack([rates_by_seeds, rates_by_seeds[::-1] + 10], axis=-1)
    assert highest_mean(by_budget).tolist() == [[3, 13], [3, 13]]


def gains(first: float, second: float) -> dict[str, list[dict[str, object]]]:
    """The record of a training that gained and drifted so much by its two examinations."""
    measures = [dict.fromkeys(KEPT, 0.0)] + [
        dict.fromkeys(KEPT, gain) | {"drift": abs(gain)} for gain in (first, second)
    ]
    checks = [{"update": update, "guidance": 1.0, "measures": found} for update, found in enumerate(measures)]
    return {"checks": [checks[0], checks[0] | {"guidance": 3.0}, *checks[1:], checks[2] | {"guidance": 3.0}]}


def test_claims_are_answered_by_their_intervals() -> None:
    scale = Scale(updates=2, checks=(1, 2), learning_rates=(1e-3,), middle_rate=1e-3, seeds=2)
    results = Results(scale, {cell.name: gains(0.05, 0.1 + 0.001 * cell.seed) for cell in cells_of(scale)})
    for cell in cells_of(scale):
        if cell.reward == "symmetry" and "method.name=drtune" in cell.settings:
            results.records[cell.name] = gains(0.05, 0.5 + 0.01 * cell.seed)
        if cell.window == WINDOWS["latest"] and cell.reward == "left half":
            results.records[cell.name] = gains(0.3, 0.9 + 0.01 * cell.seed)
        if "method.alpha=1" in cell.settings and cell.reward == "preference":
            results.records[cell.name] = gains(0.05, 0.2 + 0.001 * cell.seed)
    depth, early, stopped, close = ([finding.verdict for finding in claim.findings] for claim in claims(results))
    assert depth == ["holds", "undecided", "undecided", "undecided", "undecided", "undecided"]
    assert early == ["undecided", "undecided", "undecided", "undecided", "does not hold", "undecided"]
    assert stopped == ["holds", "holds", "does not hold", "holds"]
    assert close == ["holds"] * 6


def test_a_level_is_met_where_it_is_first_reached() -> None:
    path = np.array([[0.0, 10.0], [2.0, 20.0], [1.0, 0.0], [4.0, 50.0]])
    met = at_level(path, 1.0)
    assert met is not None
    assert met.tolist() == [1, 15]
    assert at_level(path, 4.5) is None


def drawn(plot: Path) -> tuple[str, list[float]]:
    """A plot's text without its numbers and the digests that it names things by; and the numbers."""
    text = re.sub(r"\b[a-z][0-9a-f]{10}\b", "", plot.read_text(encoding="utf-8"))
    number = r"-?\d+(?:\.\d+)?"
    return re.sub(number, "", text), [float(found) for found in re.findall(number, text)]


@pytest.mark.slow
def test_the_page_is_what_its_records_say(tmp_path: Path) -> None:
    records = json.loads((DOCS / "science" / "records.json").read_text(encoding="utf-8"))
    page = tmp_path / "science.md"
    write_page(FULL, records, page, "make science")
    assert page.read_text(encoding="utf-8") == (DOCS / "science.md").read_text(encoding="utf-8")
    plots = sorted(page.with_suffix("").iterdir())
    assert [plot.name for plot in plots] == sorted(plot.name for plot in (DOCS / "science").glob("*.svg"))
    for plot in plots:
        (text, numbers), (committed, theirs) = drawn(plot), drawn(DOCS / "science" / plot.name)
        assert text == committed, plot.name
        assert numbers == pytest.approx(theirs, abs=0.05), plot.name
