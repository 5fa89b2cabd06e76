"""The notebooks of examples/ run from top to bottom, and show what they promise."""

from __future__ import annotations

from itertools import chain
from pathlib import Path

import nbformat
import pytest
from nbformat import NotebookNode

from tools.notebooks import EXAMPLES, execute

NOTEBOOKS = sorted(EXAMPLES.glob("*.ipynb"))


def outputs(notebook: NotebookNode) -> list[NotebookNode]:
    return list(chain.from_iterable(cell.get("outputs", []) for cell in notebook.cells))


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs_and_shows_a_bar_and_its_mistakes_in_one_line(path: Path) -> None:
    shown = outputs(execute(path))
    assert "train: 100%|" in "".join(output.get("text", "") for output in shown)
    assert [
        len(output.traceback) for output in shown if output.output_type == "error" and output.ename == "UserError"
    ] == [1 for cell in nbformat.read(path, 4).cells if "raises-exception" in cell.metadata.get("tags", [])]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_kept_with_its_outputs(path: Path) -> None:
    notebook = nbformat.read(path, 4)
    assert [cell.source for cell in notebook.cells if cell.cell_type == "code" and not cell.execution_count] == []
    assert path.stat().st_size < 400_000
