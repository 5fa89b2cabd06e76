"""Every Python example of the documents can be read by Python, and the names that it takes from us are there."""

from __future__ import annotations

import ast
import pkgutil
import re
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
OURS = ("drtune", "components", "pipelines")
BLOCK = re.compile(r"^( *)```python\n(.*?)^\1```", re.DOTALL | re.MULTILINE)
SNIPPETS = [
    pytest.param(textwrap.dedent(found[2]), id=f"{path.name}-{number}")
    for path in DOCUMENTS
    for number, found in enumerate(BLOCK.finditer(path.read_text(encoding="utf-8")))
]


def names_of_ours(code: str) -> Iterator[str]:
    """What it imports from us, and what it takes as an attribute of a package that it imports, by full names."""
    for node in ast.walk(ast.parse(code)):
        match node:
            case ast.ImportFrom(module=str(module), names=names):
                found = [f"{module}.{one.name}" for one in names]
            case ast.Attribute():
                found = [ast.unparse(node)]
            case _:
                continue
        yield from (name for name in found if re.fullmatch(rf"({'|'.join(OURS)})(\.\w+)+", name))


def test_there_are_snippets_of_several_documents() -> None:
    assert len({str(one.id).partition("-")[0] for one in SNIPPETS}) >= 4


@pytest.mark.parametrize("code", SNIPPETS)
def test_what_a_snippet_takes_from_us_is_there(code: str) -> None:
    for name in names_of_ours(code):
        pkgutil.resolve_name(name)


def test_a_name_that_is_not_there_is_found() -> None:
    code = "import drtune.evaluation.study\nfrom drtune.config import load_config\ndrtune.evaluation.study.make()\n"
    fine, *missing = names_of_ours(code)
    pkgutil.resolve_name(fine)
    assert missing[0] == "drtune.evaluation.study.make"
    with pytest.raises(AttributeError):
        pkgutil.resolve_name(missing[0])
