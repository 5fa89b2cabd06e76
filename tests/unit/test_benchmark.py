"""The benchmark's protocol, on cosines whose groups can be told by hand."""

from __future__ import annotations

import numpy as np
import pytest

from drtune.evaluation.benchmark import benchmark
from drtune.evaluation.report.published import STYLES


def test_a_style_is_the_mean_of_ten_group_means_with_their_population_deviation() -> None:
    cosines = {style: [0.20 + 0.01 * (place // 80) for place in range(800)] for style in STYLES}
    cosines["photo"] = [0.30] * 800
    row = benchmark("base", cosines)
    assert row is not None
    assert row.styles["anime"] == pytest.approx((24.5, 100 * np.arange(10).std() * 0.01))
    assert row.styles["photo"] == pytest.approx((30.0, 0.0), abs=1e-9)
    assert row.average == pytest.approx((3 * 24.5 + 30.0) / 4)


@pytest.mark.parametrize("change", [{"photo": [0.3] * 799}, {"photo": [0.3] * 880}, {"other": [0.3] * 800}])
def test_other_prompts_give_no_such_number(change: dict[str, list[float]]) -> None:
    assert benchmark("base", {style: [0.3] * 800 for style in STYLES} | change) is None
