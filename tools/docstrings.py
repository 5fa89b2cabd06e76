"""An extension of griffe, which reads docstrings for the site: their examples are code.

Markdown takes each `>` of `>>>` for a quotation.
"""

from __future__ import annotations

from typing import Any

from griffe import Extension


class Examples(Extension):  # type: ignore[misc]  # whose types are read where the extra `docs` is installed
    """Fences the examples of every docstring."""

    def on_instance(self, *, obj: Any, **_: Any) -> None:
        """Change the docstring of what was read, if it has one."""
        if obj.docstring:
            obj.docstring.value = fenced(obj.docstring.value)


def fenced(text: str) -> str:
    """A docstring with each paragraph that is an example between fences."""
    paragraphs = text.split("\n\n")
    return "\n\n".join(f"```pycon\n{one}\n```" if one.startswith(">>>") else one for one in paragraphs)
