"""The design of the study: that its trainings can be run, its power is what is found, and its page says it all."""

from __future__ import annotations

from itertools import chain
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import t as student

from drtune.config import load_config
from science.arms import FULL, OBJECTIVES, QUICK, WAYS, Arm, Cell, Scale, choosing_cells, further_cells
from science.hypotheses import HYPOTHESES, Inequality, arms_of, asked
from science.plan import PAGE, page
from science.power import Spread, first_spreads, power, smallest

EVERY_ARM = arms_of(HYPOTHESES)


@pytest.mark.parametrize("arm", EVERY_ARM, ids=str)
def test_every_training_has_a_configuration_that_is_possible(arm: Arm) -> None:
    config = load_config(None, Cell(arm, 1e-3, 3).overrides)
    assert (config.seed, config.sampler.steps, config.optimizer.learning_rate) == (3, arm.steps, 1e-3)
    assert set(config.rewards) == set(OBJECTIVES[arm.objective].weights)
    assert all(step < arm.steps for step in WAYS[arm.way].window)


def test_every_way_and_objective_is_asked_about() -> None:
    assert {arm.objective for arm in EVERY_ARM} == set(OBJECTIVES)
    assert {arm.way for arm in EVERY_ARM} == set(WAYS)


@pytest.mark.parametrize("scale", [FULL, QUICK])
def test_every_training_is_made_once_and_has_a_name_of_its_own(scale: Scale) -> None:
    first, later = choosing_cells(EVERY_ARM, scale), further_cells([(arm, scale.rates[0]) for arm in EVERY_ARM], scale)
    assert len(first) == len(EVERY_ARM) * len(scale.rates) * scale.choosing_seeds
    assert len(later) == len(EVERY_ARM) * (scale.seeds - scale.choosing_seeds)
    assert len({cell.name for cell in first + later}) == len(first + later)
    assert [cell.seed for cell in first + later] == sorted(cell.seed for cell in first + later)
    assert scale.checks[-1] == scale.updates
    assert further_cells([(EVERY_ARM[0], 1e-3)] * 2, scale) == further_cells([(EVERY_ARM[0], 1e-3)], scale)


def test_terms_of_an_inequality_are_pairs_but_for_what_is_kept() -> None:
    for inequality in chain.from_iterable(hypothesis.inequalities for hypothesis in HYPOTHESES):
        assert (inequality.above, inequality.below) != (-np.inf, np.inf)
        assert len({(arm.objective) for _, arm in inequality.terms}) == 1
    wider = asked(["chain"])[0].inequalities[-1]
    assert sum(weight for weight, _ in wider.terms) == 0


def test_an_inequality_is_said_in_words() -> None:
    ours, long = Arm("symmetry", "DRTune"), Arm("symmetry", "ReFL", 50)
    assert str(Inequality(((1, ours), (-0.5, long)), above=0.1)) == "DRTune less half of ReFL at T = 50 is above +0.1"
    assert str(Inequality(((1, ours),), below=0)) == "DRTune is below 0"
    assert str(Inequality(((1, ours),), -0.1, 0.1)) == "DRTune is between -0.1 and +0.1"


def test_power_is_how_often_a_difference_is_found() -> None:
    spread, draws = Spread(0.03**2, 0.1**2), np.random.default_rng(1)
    truth = 0.04
    means_NS = truth + draws.normal(0, np.sqrt(spread.seeds + spread.prompts / 64), (20_000, 8))
    t_N = means_NS.mean(axis=1) / (means_NS.std(axis=1, ddof=1) / np.sqrt(8))
    found = (t_N > student.ppf(1 - 0.025 / 6, 7)).mean()
    assert power(truth, spread, 8, 64, inequalities=6) == pytest.approx(found, abs=0.01)
    assert power(smallest(spread, 8, 64, 6), spread, 8, 64, 6) == pytest.approx(0.9, abs=1e-6)


def test_the_first_study_bounds_the_spread() -> None:
    between, within = first_spreads("symmetry")
    assert between.prompts == within.seeds == 0
    assert within.prompts == pytest.approx(16 * between.seeds)


def test_the_design_page_is_what_the_code_says() -> None:
    assert Path(PAGE).read_text(encoding="utf-8") == page()
