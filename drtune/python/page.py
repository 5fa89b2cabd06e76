"""A result as a notebook shows it: the reward over the updates, and pictures before and after."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Sequence
from html import escape
from io import BytesIO

from PIL import Image

from drtune.files.images import resized
from drtune.training.metrics import WINDOW

SIDE = 128
"""Longer side of a picture in pixels."""
WIDTH, HEIGHT = 560, 120
"""Of the curve, in pixels."""


def page(
    prompts: Sequence[str],
    before: Sequence[Image.Image],
    after: Sequence[Image.Image],
    rewards: Sequence[float],
    names: Iterable[str],
) -> str:
    """One piece of HTML that stands alone; `rewards` are one an update, of the sum of those of these `names`."""
    pairs = "".join(
        '<figure style="display:inline-block;margin:4px 8px">'
        f"{_picture(base)} {_picture(tuned)}"
        f'<figcaption style="width:{2 * SIDE}px;font-size:80%">{escape(prompt)}</figcaption></figure>'
        for prompt, base, tuned in zip(prompts, before, after, strict=True)
    )
    title = escape(" + ".join(name.rpartition(":")[2] for name in names))
    return f"<div><p>reward: {title}</p>{_curve(rewards)}<p>before, after</p>{pairs}</div>"


def _picture(image: Image.Image) -> str:
    buffer = BytesIO()
    resized(image, SIDE).save(buffer, "PNG", optimize=True)
    content = base64.b64encode(buffer.getvalue()).decode()
    return f'<img style="display:inline" src="data:image/png;base64,{content}">'


def _curve(rewards: Sequence[float]) -> str:
    """Each update's mean reward as a dot, and their running mean over the last ten as a line."""
    low, high = min(rewards), max(rewards)
    span = (high - low) or 1.0

    def point(index: int, value: float) -> tuple[str, str]:
        return (
            f"{8 + index * (WIDTH - 16) / max(1, len(rewards) - 1):.1f}",
            f"{HEIGHT - 8 - (value - low) / span * (HEIGHT - 16):.1f}",
        )

    windows = [rewards[max(0, end - WINDOW) : end] for end in range(1, len(rewards) + 1)]
    means = [sum(window) / len(window) for window in windows]
    line = " ".join(",".join(point(index, mean)) for index, mean in enumerate(means))
    dots = "".join(
        '<circle cx="{}" cy="{}" r="2" opacity="0.4"/>'.format(*point(index, value))
        for index, value in enumerate(rewards)
    )
    return (
        f'<svg width="{WIDTH}" height="{HEIGHT}" fill="currentColor" stroke="none">{dots}'
        f'<polyline points="{line}" fill="none" stroke="currentColor" stroke-width="2"/></svg>'
        f'<p style="font-size:80%">{len(rewards)} updates; lowest {low:.3g}, highest {high:.3g}; '
        f"the line is the mean over {WINDOW}: {means[0]:.3g} at first, {means[-1]:.3g} at last</p>"
    )
