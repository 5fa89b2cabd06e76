"""What a study is like unless one says otherwise; apart from it, since the command's --help must be instant."""

from typing import Literal

CONTESTANTS = ("candidate", "base")
COUNT = 60
"""Questions, repeats not counted."""
SEED = 0
REPEAT = 0.1
"""Share of the questions that is asked twice."""
PROTOCOL: Literal["choice", "grades"] = "choice"
QUESTIONS = ("overall",)
TEXTS = {
    "choice": {
        "overall": "Which picture is better?",
        "alignment": "Which picture fits the text better?",
        "look": "Which picture looks better, whatever the text says?",
    },
    "grades": {
        "overall": "How good is this picture?",
        "alignment": "How well does this picture fit the text?",
        "look": "How good does this picture look, whatever the text says?",
    },
}
"""The questions that have names, by protocol. General preference, prompt alignment and visual appeal are what
Diffusion-DPO asked its raters (Wallace et al. 2023, arXiv 2311.12908); SRPO let them give several dimensions one of
four grades each (Shen et al. 2025, arXiv 2509.06942, section 2.3)."""
TIES = True
SIDE = 512
"""Longer side of the pictures in the page, in pixels."""
