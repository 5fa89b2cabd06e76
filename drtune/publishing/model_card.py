"""The model card: what was published, how to load it, how good it is and where it came from."""

from __future__ import annotations

import re
from importlib.resources import files
from pathlib import Path
from typing import NamedTuple

import yaml
from PIL import Image

from drtune.config import Config
from drtune.contracts import Decision, EvaluationReport, Highlight, TunedModel
from drtune.errors import UserError
from drtune.evaluation.report.pages import told
from drtune.files.markdown import markdown_environment
from drtune.files.sheets import contact_sheet


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
    "flowbp_sparse": Method("FlowBP-Sparse", "2606.11075", ("trained_steps",)),
    "flowbp_bridge": Method("FlowBP-Bridge", "2606.11075", ("trained_steps",)),
    "flowbp_lagrange": Method("FlowBP-Lagrange", "2606.11075"),
    "direct_align": Method("Direct-Align", "2509.06942", ("early_stop", "recoveries", "discount")),
    "srpo": Method("SRPO", "2509.06942", ("early_stop", "recoveries", "discount", "praise_surplus", "blame_surplus")),
}


class Kind(NamedTuple):
    """How hubs tag a kind of base, which part of it is tuned, and with which sampler if none is asked for."""

    tag: str
    network: str
    sampler: str
    guidance: str = "guidance_scale"
    """What its pipeline calls our scale of guidance."""
    unguided: float = 1.0
    """What its pipeline calls no guidance, which is 1 with us."""
    names_negative: bool = False
    """Its pipeline has no guidance unless it is given a negative prompt, be it empty."""


KINDS = {
    "StableDiffusionPipeline": Kind("stable-diffusion", "unet", "ddim"),
    "StableDiffusionXLPipeline": Kind("stable-diffusion-xl", "unet", "ddim"),
    "StableDiffusion3Pipeline": Kind("stable-diffusion-3", "transformer", "flow_euler"),
    "FluxPipeline": Kind("flux", "transformer", "flow_euler"),
    "Flux2KleinPipeline": Kind("flux2-klein", "transformer", "flow_euler"),
    "ZImagePipeline": Kind("z-image", "transformer", "flow_euler", unguided=0.0),
    "QwenImagePipeline": Kind("qwen-image", "transformer", "flow_euler", "true_cfg_scale", names_negative=True),
    "QwenImage21Pipeline": Kind("qwen-image-2.1", "transformer", "flow_euler", "true_cfg_scale", names_negative=True),
}
LICENSES = {
    "miniature": {"license": "apache-2.0"},
    "stable-diffusion-v1-5/stable-diffusion-v1-5": {"license": "creativeml-openrail-m"},
    "stabilityai/stable-diffusion-xl-base-1.0": {"license": "openrail++"},
    "stabilityai/stable-diffusion-3.5-medium": {"license": "other", "license_name": "stabilityai-ai-community"},
    "stabilityai/stable-diffusion-3.5-large": {"license": "other", "license_name": "stabilityai-ai-community"},
    "black-forest-labs/FLUX.1-dev": {"license": "other", "license_name": "flux-1-dev-non-commercial-license"},
    "black-forest-labs/FLUX.1-schnell": {"license": "apache-2.0"},
    "black-forest-labs/FLUX.2-klein-4B": {"license": "apache-2.0"},
    "black-forest-labs/FLUX.2-klein-base-4B": {"license": "apache-2.0"},
    "black-forest-labs/FLUX.2-klein-9B": {"license": "other", "license_name": "flux-non-commercial-license"},
    "black-forest-labs/FLUX.2-klein-base-9B": {"license": "other", "license_name": "flux-non-commercial-license"},
    "Tongyi-MAI/Z-Image": {"license": "apache-2.0"},
    "Tongyi-MAI/Z-Image-Turbo": {"license": "apache-2.0"},
    "Qwen/Qwen-Image": {"license": "apache-2.0"},
    "Qwen/Qwen-Image-2.1": {"license": "other", "license_name": "qwen-research"},
    "Qwen/Qwen-Image-2.1-Turbo": {"license": "other", "license_name": "qwen-research"},
}
"""Of bases, which what is made from them inherits, as their own model cards name them."""
PICTURE = "before-after.png"
DTYPES = {"fp32": "torch.float32", "bf16": "torch.bfloat16", "fp16": "torch.float16"}


def render_model_card(
    name: str, model: TunedModel, report: EvaluationReport, decision: Decision, config: Config
) -> str:
    """Write the README.md of a published model, in Markdown with the front matter that model hubs read.

    Equal arguments give equal text: nothing of the publication itself (time, version, place) is in it.
    """
    lora = model.weights == "lora"
    kind = KINDS[report.pipeline]
    license = LICENSES.get(model.base_model, {})
    if license.get("license") == "other":  # hubs then want a link to what it says
        license = license | {"license_link": f"https://huggingface.co/{model.base_model}"}
    on_a_hub = re.fullmatch(r"[\w.-]+/[\w.-]+", model.base_model)  # hubs refuse a card with another base
    relation = {"base_model": model.base_model, "base_model_relation": "adapter" if lora else "finetune"}
    front_matter = {
        **license,
        **(relation if on_a_hub else {}),
        "library_name": "diffusers",
        "pipeline_tag": "text-to-image",
        "tags": ["diffusers", "drtune", *(["lora"] if lora else []), "reward-tuning", kind.tag, "text-to-image"],
    }
    source = files("drtune.publishing").joinpath("model_card.md.jinja").read_text(encoding="utf-8")
    template = markdown_environment().from_string(source)
    return template.render(
        front_matter=yaml.safe_dump(front_matter, sort_keys=False),
        name=name,
        license=license.get("license_name", license.get("license")),
        picture=PICTURE,
        shown=_shown(report),
        lora=lora,
        kind=kind,
        method=METHODS[config.method.name],
        told=told,
        dtype=DTYPES[config.compute.precision],
        model=model,
        report=report,
        scores=[score for reward in report.rewards if (score := report.score(reward)) is not None],
        decision=decision,
        config=config,
    )


def draw_picture(report: EvaluationReport, report_folder: Path, out: Path) -> None:
    """Draw PICTURE, which the card shows: above what the base made of some prompts, below what the model makes of them.

    Raises:
        UserError: a picture of the report is gone.
    """
    pictures, captions = [], []
    for contestant, when in (("base", "before"), ("candidate", "after")):
        for _, highlight in _shown(report):
            captions.append(f"{when}: {highlight.prompt}")
            path = report_folder / highlight.thumbnails[contestant]
            try:
                with Image.open(path) as picture:
                    pictures.append(picture.convert("RGB"))
            except OSError as error:
                raise UserError(f"{path}: cannot be read ({error.strerror}); evaluate again") from None
    if pictures:
        contact_sheet(pictures, columns=len(pictures) // 2, captions=captions).save(out)


def _shown(report: EvaluationReport) -> list[tuple[str, Highlight]]:
    """What a card shows of a report: not the best alone."""
    gained = [("among the largest gains", highlight) for highlight in report.gained[:3]]
    return [*gained, *((_least(highlight.gain), highlight) for highlight in report.lost[:1])]


def _least(gain: float) -> str:
    return "the largest loss" if gain < 0 else "the smallest gain"
