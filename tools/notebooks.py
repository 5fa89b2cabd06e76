"""Run the notebooks of examples/ and keep their outputs: `python -m tools.notebooks [examples/NAME.ipynb ...]`."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import nbformat
from nbclient import NotebookClient
from nbformat import NotebookNode

EXAMPLES = Path(__file__).parents[1] / "examples"


def execute(path: Path) -> NotebookNode:
    """A notebook with the outputs of all its cells, run in order in a kernel of its own.

    Raises:
        CellExecutionError: a cell raises that is not tagged `raises-exception`.
    """
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.setdefault("PYTHONWARNINGS", "ignore:IProgress not found")  # bars of text, which a page can show
    notebook: NotebookNode = nbformat.read(path, as_version=4)
    with TemporaryDirectory() as scratch:  # where `runs/` comes to be
        NotebookClient(
            notebook,
            timeout=600,
            kernel_name="python3",
            coalesce_streams=True,
            record_timing=False,
            resources={"metadata": {"path": scratch}},
        ).execute()
    return notebook


def main(paths: list[str]) -> None:
    """Run those of these paths, or all."""
    for path in map(Path, paths) if paths else sorted(EXAMPLES.glob("*.ipynb")):
        nbformat.write(execute(path), path)


if __name__ == "__main__":
    main(sys.argv[1:])
