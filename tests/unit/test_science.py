"""The study: its reward, what is said from its records, and that its pages are what those say."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor

from science.__main__ import main
from science.arms import DRTUNE, QUICK, SHALLOW, Arm, Scale, choosing_cells, further_cells
from science.cell import identity
from science.costs_page import write_costs_page
from science.exam import MEASURES
from science.flops import Flops
from science.hypotheses import ANY, NEAR, SYMMETRY, Inequality, asked
from science.layout import left_half
from science.page import write_page
from science.records import Record, Study
from science.results import Choice, Finding, Results, highest_within, verdict_of
from science.statistics import Estimate, estimate, of_cosines, of_positive

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


def test_an_estimate_has_students_interval_and_stays_where_its_values_can_be() -> None:
    half = 4.302653 / 3**0.5  # t of 2 degrees of freedom at 97.5 %, deviation 1
    assert estimate([1.0, 2.0, 3.0]) == Estimate(2, pytest.approx(2 - half), pytest.approx(2 + half))
    assert of_positive([0.1, 1, 10]) == Estimate(
        pytest.approx(1), pytest.approx(0.1**2.484, rel=1e-3), pytest.approx(10**2.484, rel=1e-3)
    )
    found = of_cosines([0.9, -0.5, 0.99])
    assert -1 < found.low < found.mean < found.high < 1


paths = st.lists(st.tuples(st.floats(-3, 3), st.floats(0, 1)), min_size=1, max_size=6)


@given(path=paths, budget=st.floats(0.01, 1))
def test_no_point_within_the_budget_is_higher_than_those_that_are_found(
    path: list[tuple[float, float]], budget: float
) -> None:
    path_C2 = np.array([(0.0, 0.0), *path])
    found = highest_within(path_C2, budget)
    for gain, before, share in found:
        there = Choice(1e-3, before, share).at(path_C2)
        assert there[0] == pytest.approx(gain, abs=1e-9)
        assert there[1] <= budget + 1e-9
    best = max(gain for gain, _, _ in found)
    for place, share in np.ndindex(len(path), 21):
        gain, drift = Choice(1e-3, place, share / 20).at(path_C2)
        assert drift > budget or gain <= best + 1e-9


def test_a_training_that_diverged_stays_where_it_was_examined_last() -> None:
    path_C2 = np.array([(0.0, 0.0), (0.4, 0.1)])
    for before, share in [(1, 0.0), (1, 0.5), (3, 0.25)]:
        assert Choice(1e-3, before, share).at(path_C2).tolist() == [0.4, 0.1]
    assert Choice(1e-3, 0, 0.5).at(path_C2).tolist() == [0.2, 0.05]


ARMS = tuple(Arm(SYMMETRY, way) for way in (DRTUNE, *SHALLOW))
SCALE = Scale(updates=2, checks=(1, 2), rates=(8e-4, 1.6e-3), seeds=4, prompts=6)


def study(gains: dict[str, float]) -> Study:
    """One in which an arm gains so much by its end at a drift of 0.08, and twice as much of both at the higher rate."""
    draws = np.random.default_rng(0)
    records = {}
    for cell in choosing_cells(ARMS, SCALE) + further_cells([(arm, 1.6e-3) for arm in ARMS], SCALE):
        end = np.zeros((3, len(MEASURES)))
        end[:, MEASURES.index("symmetry")] = gains.get(cell.arm.way, 0.1)
        end[:, MEASURES.index("drift")] = 0.08
        readings = np.array([0, 0.5, 1])[:, None, None] * end * (cell.learning_rate / 8e-4)
        readings[1:, :, 0] += draws.normal(0, 0.002, (2, 3))
        records[cell] = Record(np.array([0, 1, 2]), readings.mean(axis=1), readings, seconds=1.0)
    return Study(SCALE, records, dict.fromkeys(ARMS, 1e10))


def test_a_gain_is_where_the_other_prompts_chose_within_the_budget() -> None:
    results = Results(study({}))
    arm = ARMS[0]
    assert results.choice(arm, NEAR) == Choice(1.6e-3, 1, pytest.approx(0.25))  # of drifts 0, 0.08 and 0.16
    assert results.updates(arm, NEAR) == pytest.approx(1.25)
    assert results.values(arm, NEAR).shape == (4, 3)
    assert results.values(arm, NEAR).mean() == pytest.approx(0.125, abs=0.003)
    assert results.values(arm, NEAR, "drift").mean() == pytest.approx(NEAR)
    assert results.choice(arm, ANY) == Choice(1.6e-3, 2, 0)
    assert results.at_edge(arm, ANY)


def test_claims_are_answered_by_their_intervals() -> None:
    depth = asked(["depth", "failing"])
    clear = Results(study({DRTUNE: 0.5}))
    verdicts = {name: [one.verdict for one in found] for name, found in clear.findings(depth).items()}
    assert verdicts == {"depth": ["holds"] * 3, "failing": ["holds"] * 3}
    equal = Results(study({DRTUNE: 0.1, "ReFL": 0.14}))
    verdicts = {name: [one.verdict for one in found] for name, found in equal.findings(depth).items()}
    assert verdicts == {"depth": ["does not hold"] * 3, "failing": ["does not hold"] * 3}
    assert [one.name for one in asked([]) if clear.is_complete(one)] == ["depth", "failing"]
    cell = next(iter(clear.further(depth)))
    assert (cell.seed, cell.learning_rate) == (2, 1.6e-3)
    del clear.study.records[cell]
    assert not clear.is_complete(depth[0])


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [
        (0.1, 0.2, "holds"),
        (-0.1, 0.2, "undecided"),
        (0.1, 0.5, "undecided"),
        (0.3, 0.5, "does not hold"),
        (-1, 0, "does not hold"),
    ],
)
def test_a_verdict_needs_the_whole_interval(low: float, high: float, verdict: str) -> None:
    inequality = Inequality(((1, ARMS[0]),), above=0, below=0.3)
    assert Finding(inequality, Estimate((low + high) / 2, low, high)).verdict == verdict


def test_a_claim_holds_where_all_of_it_does() -> None:
    inequality = Inequality(((1, ARMS[0]),), above=0)
    holds, open_, fails = (Finding(inequality, Estimate(0, *ends)) for ends in ((1, 2), (-1, 1), (-2, -1)))
    assert verdict_of([holds, holds]) == "holds"
    assert verdict_of([holds, open_]) == "undecided"
    assert verdict_of([holds, open_, fails]) == "does not hold"


def test_a_study_is_read_as_it_was_saved(tmp_path: Path) -> None:
    made = study({})
    made.save(tmp_path)
    read = Study.load(tmp_path)
    assert (read.scale, read.flops, read.digest()) == (SCALE, made.flops, made.digest())
    assert list(read.records) == list(made.records)
    for cell, record in made.records.items():
        assert read.records[cell].reporting_CPM == pytest.approx(record.reporting_CPM, abs=1.01e-4)
        assert read.records[cell].choosing_CM == pytest.approx(record.choosing_CM, abs=1e-6)


def test_a_page_of_a_part_says_what_it_lacks(tmp_path: Path) -> None:
    part = study({DRTUNE: 0.5})
    write_page(part, tmp_path / "part.md", "make science CLAIMS=depth")
    text = (tmp_path / "part.md").read_text(encoding="utf-8")
    assert "- 4 of 8 seeds\n" in text
    assert "| 3 | So it is on compressibility and on layout. | not run |" in text
    assert re.search(r"DRTune less ReFL is above \+0.05 \| (0\.\d{3}, 0\.\d{3}) \| \+0\.\d{3} \[\+0", text)
    # Gain and drift are straight lines: half of the gain within half of the drift, nearly twice within nearly twice.
    assert re.search(r"\| 0\.04 \| \+0\.2\d \(0\.04\) \| \+0\.05 \(0\.04\)", text)
    assert re.search(r"\| 0\.15 \| \+0\.9\d \(0\.15\) \| \+0\.19 \(0\.15\)", text)
    one = replace(part, scale=replace(SCALE, seeds=1))
    write_page(one, tmp_path / "one.md", "make science CLAIMS=depth SEEDS=1")
    assert "With one seed there are none, and nothing is decided." in (tmp_path / "one.md").read_text(encoding="utf-8")


def test_what_has_a_record_is_not_run_again_and_the_first_seeds_choose_for_the_others(tmp_path: Path) -> None:
    folder = tmp_path / "quick"
    for name in ("prompts", "cells", "costs"):
        (folder / name).mkdir(parents=True)
    for arm in ARMS:
        flops = Flops.of(arm)
        record = {"what": vars(flops), "found": {"flops": 1e10}}
        (folder / "costs" / f"{flops.name}.json").write_text(json.dumps(record))
    best = [(arm, max(QUICK.rates) if arm.way == DRTUNE else min(QUICK.rates)) for arm in ARMS]
    for cell in choosing_cells(ARMS, QUICK) + further_cells(best, QUICK):
        readings = np.zeros((1 + len(QUICK.checks), QUICK.prompts, len(MEASURES)))
        readings[-1, :, 0] = 0.2 if (cell.arm, cell.learning_rate) in best else 0.1
        np.savez(folder / "cells" / f"{cell.name}.npz", readings=readings)
        done = {"identity": identity(cell, QUICK), "checks": [0, *QUICK.checks], "training_seconds": 9.0}
        (folder / "cells" / f"{cell.name}.json").write_text(json.dumps(done))
        Image.new("RGB", (320, 32 * len(readings))).save(folder / "cells" / f"{cell.name}.png")

    result = CliRunner().invoke(main, ["--quick", "--out", str(tmp_path)])
    assert (result.exit_code, result.exception) == (0, None)
    text = (folder / "science.md").read_text(encoding="utf-8")
    assert "Written by `make science QUICK=1` from the records of 16 trainings" in text
    assert f"| {DRTUNE} | {max(QUICK.rates):g}* | {QUICK.updates}* |" in text
    assert f"| ReFL | {min(QUICK.rates):g}* | {QUICK.updates}* |" in text
    for picture_file in re.findall(r"science/pictures-[\w.-]+\.png", text):
        assert (folder / picture_file).is_file()

    ours, old = folder / "science" / f"pictures-{DRTUNE}-{max(QUICK.rates):g}.png", "pictures-ReFL-0.5.png"
    shutil.copyfile(ours, folder / "science" / old)  # as if another rate had been chosen before
    shutil.rmtree(folder / "cells")  # as on another machine, which has what is committed alone
    earlier = ["--earlier", str(folder / "science"), "--page", str(folder / "science.md")]
    again = CliRunner().invoke(main, ["--quick", "--out", str(tmp_path / "other"), *earlier])
    assert (again.exit_code, again.exception) == (0, None)
    assert (folder / "science.md").read_text(encoding="utf-8") == text
    assert ours.is_file()
    assert not (folder / "science" / old).exists()
    ours.unlink()
    again = CliRunner().invoke(main, ["--quick", "--out", str(tmp_path / "other"), *earlier])
    assert isinstance(again.exception, FileNotFoundError)
    refused = CliRunner().invoke(main, ["--out", str(tmp_path / "other"), *earlier])
    assert (refused.exit_code, "holds a study of another design" in refused.output) == (2, True)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--claims", "depth,dept"], "no claim 'dept'; there are depth, failing,"),
        (["--rates", "0.1"], "0.1 is not in the design, which has 0.0004, 0.0008, 0.0016, 0.0032, 0.0064"),
        (["--rates", "fast"], "'fast' are no numbers joined by commas"),
        (["--seeds", "9"], "9 is not in the range 1<=x<=8"),
    ],
)
def test_what_the_design_does_not_have_is_refused(arguments: list[str], message: str) -> None:
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 2
    assert message in " ".join(result.output.replace("│", "").split())


def drawn(plot: Path) -> tuple[str, list[float]]:
    """A plot's text without its numbers and the digests that it names things by; and the numbers."""
    text = re.sub(r"\b[a-z][0-9a-f]{10}\b", "", plot.read_text(encoding="utf-8"))
    number = r"-?\d+(?:\.\d+)?"
    return re.sub(number, "", text), [float(found) for found in re.findall(number, text)]


def same(page: Path, committed: Path) -> None:
    """That a page and its plots are those that are committed."""
    assert page.read_text(encoding="utf-8") == committed.read_text(encoding="utf-8")
    plots = sorted(page.with_suffix("").glob("*.svg"))
    assert [plot.name for plot in plots] == sorted(plot.name for plot in committed.with_suffix("").glob("*.svg"))
    for plot in plots:
        (text, numbers), (theirs, their_numbers) = drawn(plot), drawn(committed.with_suffix("") / plot.name)
        assert text == theirs, plot.name
        assert numbers == pytest.approx(their_numbers, abs=0.05), plot.name


@pytest.mark.slow
def test_the_pages_are_what_their_records_say(tmp_path: Path) -> None:
    command = re.search(r"Written by `([^`]+)`", (DOCS / "science.md").read_text(encoding="utf-8"))
    assert command
    write_page(Study.load(DOCS / "science"), tmp_path / "science.md", command[1])
    same(tmp_path / "science.md", DOCS / "science.md")

    costs = json.loads((DOCS / "science-costs" / "records.json").read_text(encoding="utf-8"))
    write_costs_page(costs, tmp_path / "science-costs.md", "make science CLAIMS=costs")
    same(tmp_path / "science-costs.md", DOCS / "science-costs.md")
