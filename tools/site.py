"""The pages of the site that are made: a hook of mkdocs (mkdocs.yml).

README.md becomes the first page; settings come from the configuration tree, commands from their own help, and the
Python reference from docstrings. A link to a file of the repository that is no page is shown
as its path, and must exist.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import click

from drtune.cli.main import main
from drtune.config.listing import settings
from pipelines.cli.main import main as pipeline

ROOT = Path(__file__).parents[1]
OBJECTS = (
    "drtune.python.tune.tune",
    "drtune.python.result.Result",
    "drtune.evaluation.run.evaluate",
    "drtune.rewards.Reward",
    "drtune.contracts.evaluation.EvaluationReport",
    "drtune.contracts.model.TunedModel",
)


def on_files(files: Any, config: Any) -> Any:
    """Add the pages that are made."""
    from mkdocs.structure.files import File

    for name, content in pages().items():
        files.append(File.generated(config, name, content=content))
    return files


def pages() -> dict[str, str]:
    """The pages that are made, by name."""
    return {
        "index.md": _from_docs((ROOT / "README.md").read_text(encoding="utf-8")),
        "settings.md": settings_page(),
        "commands.md": commands_page(),
        "reference.md": "# In Python\n\n" + "".join(f"::: {name}\n\n" for name in OBJECTS),
    }


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Show links to files of the repository as their paths.

    Raises:
        FileNotFoundError: one leads nowhere.
    """

    def shown(match: re.Match[str]) -> str:
        text, target = match.groups()
        path = (ROOT / "docs" / target.partition("#")[0]).resolve()
        path.stat()
        is_page = path.parent == ROOT / "docs" and path.suffix in (".md", ".png", ".svg")
        told = f"`{path.relative_to(ROOT)}`"
        return match[0] if is_page else told if path.name in text else f"{text} ({told})"

    return re.sub(r"(?<!!)\[([^\]]+)\]\((?![a-z]+:|#)([^)\s]+)\)", shown, markdown)


def _from_docs(readme: str) -> str:
    """README.md with its links as seen from docs/."""
    from_docs = re.sub(r'(\]\(|src="|srcset=")(?![a-z]+:|#)', r"\1../", readme)
    return from_docs.replace("../docs/", "")


def settings_page() -> str:
    """Every setting, as `drtune config` lists them."""
    rows = [f"`{one.key}` = `{one.default}`\n:   {one.meaning} ({one.type})\n" for one in settings()]
    return "# Every setting\n\nEach is given as `--set key=value`, or stands in a YAML file.\n\n" + "\n".join(rows)


def commands_page() -> str:
    """The help of every command of `drtune` and `drtune-pipeline`."""
    parts = ["# Every command\n"]

    def add(command: click.Command, name: str) -> None:
        context = click.Context(command, info_name=name)
        parts.append(f"## {name}\n\n```text\n{command.get_help(context)}\n```\n")
        for below, inner in getattr(command, "commands", {}).items():
            add(inner, f"{name} {below}")

    add(main, "drtune")
    add(pipeline, "drtune-pipeline")
    return "\n".join(parts)
