"""The cells of a sweep and its table, and the line in which a step tells its gains."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from components.decide.gains import Gain, gains_in, gains_line, gains_of
from drtune.errors import UserError
from pipelines.sweeps import Cell, Row, cells_of, page_of, table_of
from tests.reports import report_of, score

RATES = "optimizer.learning_rate=1e-4,3e-4"


def test_every_combination_is_a_cell_the_first_key_slowest() -> None:
    cells = cells_of([RATES, "evaluation.rewards=[symmetry, preference],[symmetry]"])
    assert [cell.overrides for cell in cells] == [
        [f"optimizer.learning_rate={rate}", f"evaluation.rewards={rewards}"]
        for rate in ("1e-4", "3e-4")
        for rewards in ("[symmetry, preference]", "[symmetry]")
    ]
    assert len({cell.folder for cell in cells}) == len({cell.model for cell in cells}) == 4
    assert cells[1].folder == "optimizer.learning_rate=1e-4,evaluation.rewards=_symmetry_"


@pytest.mark.parametrize(
    ("varied", "message"),
    [
        (["steps"], "vary 'steps': wanted KEY=A,B"),
        (["steps=1,"], "vary 'steps=1,': wanted KEY=A,B"),
        ([RATES, RATES], "is given twice"),
        (["steps=1,1"], "is given twice"),
        (["steps=" + ",".join(map(str, range(11))), "seed=" + ",".join(map(str, range(11)))], "makes 121 runs"),
    ],
)
def test_what_is_no_sweep_is_refused(varied: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        cells_of(varied)


def test_a_report_tells_its_gains_over_the_base_those_tuned_on_first() -> None:
    few = score("preference", gain=-0.01).model_copy(update={"gain_low": None, "gain_high": None})
    report = report_of(few, score("symmetry", gain=0.27, margin=0.02), score("symmetry", gain=0.1, category="anime"))
    line = gains_line(report)
    assert line == "gains over the base: symmetry +0.2700 (+0.2500 to +0.2900); preference -0.0100"
    assert gains_in(f"refused: x\n{line}\nlast line") == {
        "symmetry": pytest.approx(gains_of(report)["symmetry"]),
        "preference": Gain(-0.01),
    }
    assert gains_in("refused: x") == {}


@given(
    st.dictionaries(
        st.sampled_from(["symmetry", "my file.py:fn", "hps"]),
        st.tuples(*[st.floats(-9, 9).map(lambda value: round(value, 4))] * 3),
        min_size=1,
    )
)
def test_gains_are_read_back_as_they_were_told(gains: dict[str, tuple[float, float, float]]) -> None:
    told = "; ".join(f"{name} {Gain(*three)}" for name, three in gains.items())
    assert gains_in(f"gains over the base: {told}") == {name: Gain(*three) for name, three in gains.items()}


def test_the_table_has_a_row_for_each_cell_and_its_numbers() -> None:
    one, other = cells_of([RATES])
    rows = [Row(one.settings, "deserves it", {"symmetry": Gain(0.27, 0.25, 0.29)}), Row(other.settings, "failed: a|b")]
    tokens = MarkdownIt("commonmark").enable("table").parse(page_of(rows))
    cells = [token.content for token in tokens if token.type == "inline"][1:-1]
    assert cells[3:] == ["1e-4", "+0.2700 (+0.2500 to +0.2900)", "deserves it", "3e-4", "", r"failed: a|b"]
    table = table_of(rows)
    assert list(table.columns)[2:] == ["symmetry_gain", "symmetry_low", "symmetry_high"]
    assert table["symmetry_low"].tolist()[0] == 0.25
    assert Cell(one.settings) == one
