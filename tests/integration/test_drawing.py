"""The one way of drawing: plain diffusers' pictures, and the same in training as in the evaluation."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline, EulerAncestralDiscreteScheduler
from PIL import Image
from torch import Tensor

from drtune.config import LoraSection, load_config
from drtune.contracts import read_curve
from drtune.evaluation.run import evaluate
from drtune.files.images import to_pil
from drtune.models.adapter import add_adapter
from drtune.models.base import Base
from drtune.models.drawing import draw
from drtune.prompts.prepare import open_prompts, prepare
from drtune.training.processes import Processes
from drtune.training.trainer import Trainer
from tests.pipelines import KINDS, SIDE, FolderOf, make_pipeline, on_white, open_base, side_of

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # Euler of diffusers

PROMPTS = ["a red circle on a green field", "two blue squares", "a star"]
SEEDS = [5, 2**59 + 1, 0]


def generators() -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in SEEDS]


def plainly(
    base: Base,
    pipeline: DiffusionPipeline,
    negative: str | None,
    before: Callable[[], None] = lambda: None,
    **settings: Any,
) -> Tensor:
    """What a pipeline itself draws: for a base that draws alone, of each prompt by itself."""
    batches = [slice(row, row + 1) for row in range(len(PROMPTS))] if base.draws_alone else [slice(None)]
    images = []
    for rows in batches:
        before()
        prompts = PROMPTS[rows]  # a list of its own, in which Z-Image writes its templates
        more = {} if negative is None else {"negative_prompt": [negative] * len(prompts)}
        drawn = pipeline(prompt=prompts, **more, generator=generators()[rows], output_type="pt", **settings)
        images.append(on_white(drawn.images))
    return torch.cat(images)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("kind", KINDS)
def test_pictures_are_those_of_plain_diffusers_without_the_text_encoders(
    kind: str, precision: str, folder_of: FolderOf
) -> None:
    side = side_of(kind)
    plain = open_base(folder_of(kind), precision=precision, width=2 * side).pipeline
    base = open_base(folder_of(kind), precision=precision, width=2 * side)
    texts = [""] if kind == "flux2_klein" else ["", "a grey star"]  # it takes the empty one alone
    conditions, negatives = base.encode(PROMPTS), {text: base.encode_negative(text) for text in texts}
    base.free_text_encoders()
    for negative, guidance_scale in (("", 1.0), *((text, 2.0) for text in texts)):
        ours = draw(base, conditions, negatives[negative], SEEDS, steps=3, guidance_scale=guidance_scale)
        theirs = plainly(
            base,
            plain,
            negative if negative or base.names_negative else None,
            num_inference_steps=3,
            **base.guidance_argument(guidance_scale),
            height=side,
            width=2 * side,
        )
        assert (ours.dtype, ours.shape) == (torch.float32, (3, 3, side, 2 * side))
        # Qwen-Image's text encoder rounds otherwise in bf16 when what fills prompts up is longer.
        rounding = 0.02 if (kind[:10], precision) == ("qwen_image", "bf16") else 2e-6
        assert (ours - theirs.float()).abs().max() <= rounding


@pytest.mark.parametrize("kind", ["sdxl", "z_image", "qwen_image", "qwen_image_21"])
def test_the_first_steps_are_the_bases_as_in_plain_diffusers(kind: str, folder_of: FolderOf) -> None:
    base = open_base(folder_of(kind))
    weights = add_adapter(base, LoraSection(rank=2), seed=0)
    rng = torch.Generator().manual_seed(3)
    for weight in weights.values():
        torch.nn.init.normal_(weight, std=0.2, generator=rng)
    conditions, negative = base.encode(PROMPTS), base.encode_negative("")
    with_it, late, without = (draw(base, conditions, negative, SEEDS, steps=4, base_steps=n) for n in (0, 2, 4))

    def put_on(pipe: DiffusionPipeline, step: int, _timestep: Tensor, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        if step + 1 == 2:
            pipe.enable_lora()
        return tensors

    theirs = plainly(
        base,
        base.pipeline,
        "" if base.names_negative else None,
        base.pipeline.disable_lora,
        num_inference_steps=4,
        height=base.height,
        width=base.width,
        callback_on_step_end=put_on,
    )
    assert (late - theirs).abs().max() <= 2e-6
    assert 1e-3 < (late - without).square().sum() < (with_it - without).square().sum()
    assert all(weight.requires_grad for weight in weights.values())


def test_what_is_not_said_is_the_pipelines_own_default(folder_of: FolderOf) -> None:
    base = open_base(folder_of("sdxl"))
    theirs = base.pipeline(PROMPTS, generator=generators(), height=SIDE, width=SIDE, output_type="pt").images
    assert (draw(base, base.encode(PROMPTS), base.encode_negative(""), SEEDS) - theirs).abs().max() <= 2e-6


def test_a_picture_does_not_hang_on_what_else_is_drawn(folder_of: FolderOf) -> None:
    base = open_base(folder_of("sdxl"))
    base.pipeline.scheduler = EulerAncestralDiscreteScheduler.from_config(base.pipeline.scheduler.config)
    together = draw(base, base.encode(PROMPTS), base.encode_negative(""), SEEDS, steps=3, guidance_scale=2.0)
    alone = draw(base, base.encode(PROMPTS[1:2]), base.encode_negative(""), SEEDS[1:2], steps=3, guidance_scale=2.0)
    assert (together[1:2] - alone).abs().max() <= 1e-5
    assert (together[:1] - alone).abs().max() > 0.05


def test_drawing_leaves_the_weights_that_train_as_they_were(folder_of: FolderOf) -> None:
    base = open_base(folder_of("sdxl"), precision="bf16")
    weights = add_adapter(base, LoraSection(rank=2), seed=0)
    before = {name: weight.detach().clone() for name, weight in weights.items()}
    draw(base, base.encode(PROMPTS), base.encode_negative(""), SEEDS, steps=1)
    assert all(torch.equal(weight, before[name]) for name, weight in weights.items())
    assert {weight.dtype for weight in weights.values()} == {torch.float32}


@pytest.mark.parametrize(
    ("overrides", "levels"),
    [([], 1), (["compute.precision=bf16"], 1), (["weights=full"], 1), (["weights=full", "compute.precision=bf16"], 6)],
    ids=["fp32", "bf16", "full", "full bf16"],
)
def test_the_last_held_out_pictures_of_a_training_are_those_that_the_evaluation_draws(
    overrides: list[str], levels: int, tmp_path: Path
) -> None:
    """With a sampler that tuning does not know, fresh noise at every step, and other batches.

    Full weights in bf16 train in fp32 and are drawn with under autocast, which rounds elsewhere than a bf16 network.
    """
    pipeline = make_pipeline("sdxl")
    pipeline.scheduler = EulerAncestralDiscreteScheduler.from_config(pipeline.scheduler.config)
    pipeline.save_pretrained(tmp_path / "base")
    rows = [
        {"text": f"a {word} star", "category": word[0], "split": "eval"} for word in ("red", "rose", "blue", "grey")
    ]
    rows.append({"text": "a star", "category": "b", "split": "train"})
    (tmp_path / "prompts.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    prepare(tmp_path / "prompts.jsonl", tmp_path / "prompts")
    settings = [f"base_model={tmp_path}/base", f"height={SIDE}", f"width={SIDE}", "steps=2", "batch_size=2"]
    settings += ["sampler.steps=4", "method.trained_steps=2", "method.early_stop=2", "ema_decay=0.5"]
    settings += ["rewards={brightness: 1}", "optimizer.learning_rate=1e-2", "held_out={reward: symmetry, max_drop: 9}"]
    settings += ["evaluation.sampler={steps: 3, guidance_scale: 2, negative_prompt: a circle}", "evaluation.seed=7"]
    settings += ["evaluation.rewards=[symmetry]", "evaluation.features=none", "evaluation.batch_size=3"]
    config = load_config(None, [*settings, *overrides])
    (tmp_path / "model").mkdir()
    trainer = Trainer(config, open_prompts(tmp_path / "prompts"), tmp_path / "model", Processes())
    trainer.run()
    with trainer.state.averaged():
        seen = trainer.samples.draw()
    report = evaluate(tmp_path / "model", tmp_path / "prompts", tmp_path / "report")
    assert report.scheduler == "EulerAncestralDiscreteScheduler"
    for index, picture in enumerate(to_pil(seen)):
        judged, before = (
            np.asarray(Image.open(tmp_path / f"report/images/{name}/{index:04d}-0.png")).astype(int)
            for name in ("candidate", "base")
        )
        assert np.abs(np.asarray(picture).astype(int) - judged).max() <= levels
        assert np.abs(judged - before).max() > 10
    assert read_curve(tmp_path / "report")[-1].rewards["symmetry"] == trainer.state.held_out[2]
    assert trainer.state.held_out[2] == pytest.approx(float(trainer.samples.held_out_reward(seen)), abs=1e-6)
