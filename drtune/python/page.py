"""A result as a notebook shows it: the reward over the updates, and pictures before and after."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from html import escape
from io import BytesIO

from PIL import Image

from drtune.contracts import CurvePoint
from drtune.files.images import resized
from drtune.training.history import WINDOW, UpdateMetrics, tuning_charts

SIDE = 128
"""Longer side of a picture in pixels."""


def page(
    prompts: Sequence[str],
    before: Sequence[Image.Image],
    after: Sequence[Image.Image],
    updates: Sequence[UpdateMetrics],
    points: Sequence[CurvePoint],
) -> str:
    """One piece of HTML that stands alone; `points` are the learning curve."""
    pairs = "".join(
        '<figure style="display:inline-block;margin:4px 8px">'
        f"{_picture(base)} {_picture(tuned)}"
        f'<figcaption style="width:{2 * SIDE}px;font-size:80%">{escape(prompt)}</figcaption></figure>'
        for prompt, base, tuned in zip(prompts, before, after, strict=True)
    )
    return f"<div>{_curves(updates, points)}<p>before, after</p>{pairs}</div>"


def _picture(image: Image.Image) -> str:
    buffer = BytesIO()
    resized(image, SIDE).save(buffer, "PNG", optimize=True)
    content = base64.b64encode(buffer.getvalue()).decode()
    return f'<img style="display:inline" src="data:image/png;base64,{content}">'


def _curves(updates: Sequence[UpdateMetrics], points: Sequence[CurvePoint]) -> str:
    """Each update's mean reward as a dot, their running mean as a line, and the rewards of the samples."""
    return (
        tuning_charts(updates, points)
        + f'<p style="font-size:80%">While tuning, dots are updates and the line is their mean over {WINDOW}; the '
        "others are means over the same prompts, drawn from the same noise.</p>"
    )
