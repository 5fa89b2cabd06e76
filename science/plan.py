"""Write the design page, docs/science-design.md: the claims, how they are decided, and the power they are decided with.

python -m science.plan [FILE]
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from drtune.files.local import write_text
from science.arms import FULL, LONG, OBJECTIVES, QUICK, STEPS, Scale, short
from science.hypotheses import HYPOTHESES, NEAR, SYMMETRY, Hypothesis, arms_of, asked, budgeted
from science.page import render
from science.power import DECIDING, FIRST_PROMPTS, WANTED, Spread, power, tables

TEMPLATE = Path(__file__).with_name("plan.md.jinja")
SECONDS = {STEPS: 112, LONG: 430}
"""Of one core, a training: at T = 12 the mean of six, and at T = 50 as many times longer as updates measured there."""
CORES = 2
PILOT = Spread(seeds=0.022**2, prompts=0.107**2)
"""Of DRTune's lead over a shallow method in symmetry, as far as a pilot of one seed and the first study tell."""
PAGE = Path(__file__).parents[1] / "docs" / "science-design.md"


def page() -> str:
    """The page, in Markdown."""
    return render(
        TEMPLATE,
        first={"updates": 20, "prompts": FIRST_PROMPTS},
        objectives=OBJECTIVES,
        short=short,
        scale=FULL,
        near=NEAR,
        claims=HYPOTHESES,
        wanted=WANTED,
        deciding=DECIDING,
        tables=tables(),
        pilot=PILOT,
        pilot_power=power(OBJECTIVES[SYMMETRY].margin, PILOT, FULL.seeds, FULL.prompts // 2, DECIDING),
        trainings=_trainings(HYPOTHESES, FULL),
        hours=round(_seconds(HYPOTHESES) / CORES / 3600),
        depth=_trainings(asked(["depth"]), FULL),
        depth_minutes=round(_seconds(asked(["depth"])) / CORES / 60),
        quick=_trainings(asked(["depth"]), QUICK),
    )


def _trainings(hypotheses: Sequence[Hypothesis], scale: Scale, steps: Sequence[int] = (STEPS, LONG)) -> int:
    """How many there are, at most: an arm that is asked about within two budgets may choose one rate for both."""
    first = [arm for arm in arms_of(hypotheses) if arm.steps in steps]
    later = [arm for arm, _ in budgeted(hypotheses) if arm.steps in steps]
    return len(first) * len(scale.rates) * scale.choosing_seeds + len(later) * (scale.seeds - scale.choosing_seeds)


def _seconds(hypotheses: Sequence[Hypothesis]) -> float:
    return sum(_trainings(hypotheses, FULL, [steps]) * each for steps, each in SECONDS.items())


if __name__ == "__main__":
    write_text(Path(sys.argv[1]) if len(sys.argv) > 1 else PAGE, page())
