"""The model card: what was published, how to load it, how good it is and where it came from."""

from __future__ import annotations

from importlib.resources import files
from typing import NamedTuple

import yaml
from jinja2 import Environment, StrictUndefined

from drtune.config import Config
from drtune.contracts import Decision, EvaluationReport, TunedModel


class Method(NamedTuple):
    """How a method is called, where it was published, and what it reads of the configuration."""

    title: str
    arxiv: str
    keys: tuple[str, ...] = ()


METHODS = {
    "drtune": Method("DRTune", "2405.00760", ("trained_steps", "early_stop")),
    "refl": Method("ReFL", "2304.05977", ("early_stop",)),
    "draft_k": Method("DRaFT-K", "2309.17400", ("trained_steps",)),
    "draft_lv": Method("DRaFT-LV", "2309.17400", ("renoised",)),
    "alignprop": Method("AlignProp", "2310.03739", ("trained_steps",)),
    "full": Method("full back-propagation", "2309.17400"),
    "leapalign": Method("LeapAlign", "2604.15311"),
    "direct_align": Method("Direct-Align", "2509.06942", ("early_stop",)),
}


class Kind(NamedTuple):
    """How hubs tag a kind of base, which part of it is tuned, and with which sampler if none is asked for."""

    tag: str
    network: str
    sampler: str


KINDS = {
    "StableDiffusionPipeline": Kind("stable-diffusion", "unet", "ddim"),
    "StableDiffusionXLPipeline": Kind("stable-diffusion-xl", "unet", "ddim"),
    "StableDiffusion3Pipeline": Kind("stable-diffusion-3", "transformer", "flow_euler"),
    "FluxPipeline": Kind("flux", "transformer", "flow_euler"),
}
DTYPES = {"fp32": "torch.float32", "bf16": "torch.bfloat16", "fp16": "torch.float16"}


def render_model_card(
    name: str, model: TunedModel, report: EvaluationReport, decision: Decision, config: Config
) -> str:
    """Write the README.md of a published model, in Markdown with the front matter that model hubs read.

    Equal arguments give equal text: nothing of the publication itself (time, version, place) is in it.
    """
    lora = model.weights == "lora"
    kind = KINDS[report.pipeline]
    front_matter = {
        "base_model": model.base_model,
        "base_model_relation": "adapter" if lora else "finetune",
        "library_name": "diffusers",
        "pipeline_tag": "text-to-image",
        "tags": ["diffusers", "drtune", *(["lora"] if lora else []), "reward-tuning", kind.tag, "text-to-image"],
    }
    environment = Environment(
        undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True
    )
    template = environment.from_string(
        files("drtune.publishing").joinpath("model_card.md.jinja").read_text(encoding="utf-8")
    )
    return template.render(
        front_matter=yaml.safe_dump(front_matter, sort_keys=False),
        name=name,
        lora=lora,
        kind=kind,
        method=METHODS[config.method.name],
        dtype=DTYPES[config.compute.precision],
        model=model,
        report=report,
        scores=[
            score
            for measure in report.measures
            if measure.is_reward and (score := report.score(measure.name)) is not None
        ],
        decision=decision,
        config=config,
    )
