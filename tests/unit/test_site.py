"""The pages of the site that are made, and where their links lead."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from drtune.config.listing import settings
from tools import site

ROOT = Path(__file__).parents[2]
PAGES = sorted((ROOT / "docs").glob("*.md"))


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_every_page_stands_in_the_navigation_and_its_links_lead_somewhere(path: Path) -> None:
    assert f": {path.name}\n" in (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    shown = site.on_page_markdown(path.read_text(encoding="utf-8"))
    assert "](../" not in shown


def test_the_first_page_is_the_readme_as_seen_from_docs() -> None:
    made = site.pages()
    assert "](before-after.png)" in made["index.md"]
    assert "](../" not in site.on_page_markdown(made["index.md"])
    assert all(f"`{one.key}`" in made["settings.md"] for one in settings())
    assert "## drtune registry rollback\n" in made["commands.md"]
    assert "## drtune-pipeline schedule pause\n" in made["commands.md"]


def test_a_link_to_a_file_is_shown_as_its_path_and_one_that_leads_nowhere_is_refused() -> None:
    assert site.on_page_markdown("see [the tree](../drtune/config/tree.py)") == "see the tree (`drtune/config/tree.py`)"
    assert (
        site.on_page_markdown("[a](method.md#b) [c](https://d.e) [f](#g)")
        == "[a](method.md#b) [c](https://d.e) [f](#g)"
    )
    with pytest.raises(FileNotFoundError, match="nowhere"):
        site.on_page_markdown("[x](nowhere.md)")


def test_nothing_is_loaded_from_elsewhere() -> None:
    theme = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))["theme"]
    assert theme["font"] is False


@pytest.mark.slow
def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    commands = pytest.importorskip("mkdocs.commands.build")
    config = pytest.importorskip("mkdocs.config").load_config(
        str(ROOT / "mkdocs.yml"), site_dir=str(tmp_path), strict=True
    )
    commands.build(config)
    assert "learning_rate" in (tmp_path / "settings" / "index.html").read_text(encoding="utf-8")
    reference = (tmp_path / "reference" / "index.html").read_text(encoding="utf-8")
    assert reference.count("&gt;&gt;&gt;") > 3
    assert "<blockquote>" not in reference  # which is what Markdown makes of an example's prompt
