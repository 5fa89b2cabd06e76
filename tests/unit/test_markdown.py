"""Text of others in Markdown, read back by a Markdown parser with tables and strikethrough."""

from __future__ import annotations

import re
from html import unescape

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from drtune.files.markdown import code, plain, table

PARSER = MarkdownIt("commonmark").enable(["table", "strikethrough"])
MARKUP = [*"\\\\`*_[]()<>|#~!&;:-+=.1a \n{}\"'$^", "- ", "1. ", "2) ", "---", "***", "==", "<b>", "&lt;", "![x](y)"]
TEXTS = st.lists(st.sampled_from(MARKUP)).map("".join) | st.text(st.characters(exclude_categories=["Cs", "Cc"]))


def shown(text: str) -> str:
    """As it is read when white space does not count."""
    return " ".join(text.split())


@example("# a")
@example("~~a~~")
@example("1) a")
@example("- - -")
@example("+")
@example("<script>alert(1)</script>")
@given(TEXTS)
def test_a_line_of_any_text_is_a_paragraph_that_shows_it(text: str) -> None:
    html = PARSER.render(plain(text))
    if shown(text):
        assert html.startswith("<p>")
        assert html.endswith("</p>\n")
        inside = html.removeprefix("<p>").removesuffix("</p>\n")
        assert "<" not in inside
        assert unescape(inside) == shown(text)
    else:
        assert html == ""


@example("a", "---")
@example("a", "===")
@example("a #", "#")
@given(TEXTS, TEXTS)
def test_any_text_stays_in_its_place(one: str, other: str) -> None:
    """In a heading, in emphasis, below a line, in a list and in a table."""
    for around, tags in [
        ("# before {} after {}.", ["h1"]),
        ("**before {} after {}.**", ["p", "strong"]),
        ("before {}\n{}", ["p"]),
        ("before\n{} after {}.", ["p"]),
        ("# before {} after {}", ["h1"]),
        ("- {}, {}.", ["ul", "li"]),
        ("| a | b |\n|---|---|\n| {} | {} |", ["table", "thead", "tr", "th", "th", "tbody", "tr", "td", "td"]),
    ]:
        tokens = [
            token
            for block in PARSER.parse(around.format(plain(one), plain(other)))
            for token in [block, *(block.children or [])]
        ]
        if around == "- {}, {}." or shown(one):
            assert [token.tag for token in tokens if token.nesting == 1 and not token.hidden] == tags, around
        assert {token.type for token in tokens if token.nesting == 0} <= {"inline", "text", "softbreak"}


@pytest.mark.parametrize(
    ("numbers", "lines"),
    [
        (True, ["| a    | gain |  x |", "| ---- | ---: | -: |", "| b\\|c |   +1 | 20 |"]),
        (False, ["| a    | gain | x  |", "| ---- | ---- | -- |", "| b\\|c | +1   | 20 |"]),
    ],
)
def test_a_table_lines_up_and_shows_any_cell(numbers: bool, lines: list[str]) -> None:
    drawn = table([["a", "gain", "x"], ["b|c", "+1", "20"]], numbers=numbers)
    assert drawn.splitlines() == lines
    assert re.findall("<t[hd].*?>(.*)</t", PARSER.render(drawn)) == ["a", "gain", "x", "b|c", "+1", "20"]
    assert "<th" in PARSER.render(table([["a", ""], ["b", "1"]], numbers=numbers))  # however narrow


@example(" ")
@example("a `` b`")
@given(TEXTS)
def test_any_text_is_shown_as_code(text: str) -> None:
    html = PARSER.render(f"- before {code(text)} after")
    inside = html.removeprefix("<ul>\n<li>before <code>").removesuffix("</code> after</li>\n</ul>\n")
    assert unescape(inside) == (" ".join(text.splitlines()) or " ")


@pytest.mark.parametrize(
    ("text", "escaped"),
    [
        ("a|b <b>", r"a\|b &lt;b&gt;"),
        ("+1.25", "+1.25"),
        ("-0.5 of 3.5", "-0.5 of 3.5"),
        ("12. of May", r"12\. of May"),
        (":-:", r"\:-:"),
        ("--- a\n\tb", r"\--- a b"),
        ("a red circle, left of it a cat!", "a red circle, left of it a cat!"),
    ],
)
def test_no_more_is_escaped_than_must_be(text: str, escaped: str) -> None:
    assert plain(text) == escaped
