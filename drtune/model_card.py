"""The model card: what was published, how to load it, how good it is and where it came from."""

from __future__ import annotations

from importlib.resources import files

import yaml
from jinja2 import Environment, StrictUndefined

from drtune.config import Config
from drtune.contracts import Decision, EvaluationReport, TunedModel


def render_model_card(
    name: str, model: TunedModel, report: EvaluationReport, decision: Decision, config: Config
) -> str:
    """Write the README.md of a published model, in Markdown with the front matter that model hubs read.

    Equal arguments give equal text: nothing of the publication itself (time, version, place) is in it.
    """
    front_matter = {
        "base_model": model.base_model,
        "base_model_relation": "adapter",
        "library_name": "diffusers",
        "pipeline_tag": "text-to-image",
        "tags": ["diffusers", "drtune", "lora", "reward-tuning", "stable-diffusion-xl", "text-to-image"],
    }
    environment = Environment(
        undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True
    )
    template = environment.from_string(files("drtune").joinpath("model_card.md.jinja").read_text(encoding="utf-8"))
    return template.render(
        front_matter=yaml.safe_dump(front_matter, sort_keys=False),
        name=name,
        model=model,
        report=report,
        scores=[score for score in report.scores if score.category is None],
        decision=decision,
        config=config,
    )
