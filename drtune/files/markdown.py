"""Text that others wrote, as it may stand in Markdown."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from html import escape

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup


def plain(text: str) -> str:
    r"""Text on one line that Markdown shows as it is, at the start of a line too: no markup, HTML or table comes of it.

    HTML is escaped as HTML, since not every reader of Markdown knows `\<`. A bare address stays one, which some readers
    make a link.

    >>> print(plain("a|b <b>"))
    a\|b &lt;b&gt;
    """
    text = re.sub(r"[\\`*_\[\]|#~]", r"\\\g<0>", escape(" ".join(text.split()), quote=False))
    # At its start: the mark of a list, a rule, the line below a heading or below the head of a table.
    return re.sub(r"^(\d*)([-+=:.)])(?![\w.])", r"\1\\\2", text)


def code(text: str) -> str:
    r"""Text on one line as a span of code, outside of tables: it is shown as it is, and can be copied.

    >>> print(code("a `b` c"))
    ``a `b` c``
    """
    text = " ".join(text.splitlines()) or " "
    fence = "`" * (1 + max(map(len, re.findall("`+", text)), default=0))
    # A space at both ends is taken off again, unless there is nothing but spaces.
    padded = f" {text} " if text.strip(" ") and {" ", "`"} & {text[0], text[-1]} else text
    return f"{fence}{padded}{fence}"


def aligned(rows: Sequence[Sequence[str]], *, numbers: bool = True) -> list[list[str]]:
    """The cells, padded so that columns line up; where they are `numbers` to the right, but for the first column."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    pad = str.rjust if numbers else str.ljust
    return [[row[0].ljust(widths[0]), *map(pad, row[1:], widths[1:])] for row in rows]


def table(rows: Sequence[Sequence[str]], *, numbers: bool = True) -> str:
    """A table of cells that are `plain` and `aligned`, the first row its head."""
    head, *body = aligned([[plain(cell) for cell in row] for row in rows], numbers=numbers)
    rule = [("-:" if numbers and index else "-").rjust(len(cell), "-") for index, cell in enumerate(head)]
    return "\n".join(f"| {' | '.join(row)} |" for row in [head, rule, *body])


def markdown_environment(**filters: Callable[[float], str]) -> Environment:
    """Templates of Markdown, in which everything that is put in is `plain`.

    Left as they are: the template's own words, what a filter of `filters` gives, and what is marked as `safe`.
    """
    environment = Environment(
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        finalize=lambda value: value if isinstance(value, Markup) else plain(str(value)),
    )
    ours = {name: (lambda value, number=number: Markup(number(value))) for name, number in filters.items()}
    environment.filters |= {**ours, "code": lambda text: Markup(code(text))}
    return environment
