"""What a study is like unless one says otherwise; apart from it, since the command's --help must be instant."""

CONTESTANTS = ("candidate", "base")
COUNT = 60
"""Questions, repeats not counted."""
SEED = 0
REPEAT = 0.1
"""Share of the questions that is asked twice."""
QUESTION = "Which picture is better?"
TIES = True
SIDE = 512
"""Longer side of the pictures in the page, in pixels."""
