"""Many pictures on one sheet, with a caption below each and a title above all."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

from PIL import Image, ImageDraw, ImageFont

from drtune.files.images import resized

INK, SOFT = "#1c1d21", "#676b75"
LINE = 16
"""Height of a line of text, in pixels."""
CAPTION_LINES = 2
LONGEST = 500
"""Characters of a text that are looked at: no line holds more."""


def contact_sheet(
    pictures: Sequence[Image.Image],
    columns: int,
    *,
    captions: Sequence[str] = (),
    title: str = "",
    side: int = 256,
    gap: int = 4,
) -> Image.Image:
    """Pictures of one size in rows of `columns`: each `resized` to `side`, with `gap` pixels of white between them.

    Below each stands its caption, if there are any, in two lines at most; above all the title, if there is one.
    """
    small = [resized(picture, side) for picture in pictures]
    width, height = small[0].size
    columns = min(columns, len(small))
    rows = -(-len(small) // columns)
    lines = [_lines(caption, width) for caption in captions]
    top, below = (2 * LINE if title else 0), LINE * max(map(len, lines), default=0)
    across, down = width + gap, height + below + gap
    sheet = Image.new("RGB", (columns * across - gap, top + rows * down - gap), "white")
    draw = ImageDraw.Draw(sheet)
    draw.text((2, LINE // 2), fitted(title, sheet.width - 4), fill=INK, font=_font())
    for index, picture in enumerate(small):
        row, column = divmod(index, columns)
        left, upper = column * across, top + row * down
        sheet.paste(picture, (left, upper))
        if captions:
            for number, line in enumerate(lines[index]):
                draw.text((left + 1, upper + height + number * LINE), line, fill=SOFT, font=_font())
    return sheet


def fitted(text: str, width: int) -> str:
    """As much of a text as stands in `width` pixels, with an ellipsis where it was cut."""
    text = " ".join(text[:LONGEST].split())
    if _width(text) <= width:
        return text
    while text and _width(f"{text}…") > width:
        text = text[:-1]
    return f"{text.rstrip()}…"


def _lines(text: str, width: int) -> list[str]:
    """A text broken at its spaces into CAPTION_LINES at most, the last one cut."""
    lines: list[str] = []
    words = text[:LONGEST].split()
    while words and len(lines) < CAPTION_LINES - 1:
        count = max((n for n in range(1, len(words) + 1) if _width(" ".join(words[:n])) <= width), default=1)
        lines.append(fitted(" ".join(words[:count]), width))
        words = words[count:]
    return [*lines, fitted(" ".join(words), width)] if words else lines


def _width(text: str) -> float:
    return _font().getlength(text)


@cache
def _font() -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Pillow's own, which is the same on every machine; it has Latin letters only."""
    return ImageFont.load_default(12)
