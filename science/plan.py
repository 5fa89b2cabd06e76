"""Write the design page, docs/science-design.md: the claims, how they are decided, and the power they are decided with.

python -m science.plan [FILE]
"""

from __future__ import annotations

import sys
from pathlib import Path

from jinja2 import Environment, StrictUndefined

from drtune.files.local import write_text
from science.arms import FULL, OBJECTIVES, cells_of, short
from science.hypotheses import HYPOTHESES, NEAR, arms_of, asked
from science.power import DECIDING, FIRST_PROMPTS, WANTED, tables

TEMPLATE = Path(__file__).with_name("plan.md.jinja")
PAGE = Path(__file__).parents[1] / "docs" / "science-design.md"


def page() -> str:
    """The page, in Markdown."""
    environment = Environment(undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, autoescape=False)
    text = environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
        first={"updates": 20, "prompts": FIRST_PROMPTS},
        objectives=OBJECTIVES,
        short=short,
        scale=FULL,
        near=NEAR,
        claims=HYPOTHESES,
        wanted=WANTED,
        deciding=DECIDING,
        tables=tables(),
        cells=len(cells_of(arms_of(HYPOTHESES), FULL)),
        depth=len(cells_of(arms_of(asked(["depth"])), FULL)),
    )
    return text.rstrip() + "\n"


if __name__ == "__main__":
    write_text(Path(sys.argv[1]) if len(sys.argv) > 1 else PAGE, page())
