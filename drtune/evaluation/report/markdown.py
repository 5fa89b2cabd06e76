"""Text that others wrote, as it may stand in Markdown."""

from __future__ import annotations

import re
from html import escape


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
