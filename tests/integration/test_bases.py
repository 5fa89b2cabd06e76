"""Every base against plain diffusers, with the real classes at tiny size."""

from __future__ import annotations

import gc
import json
import sys
import weakref
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
from diffusers import DiffusionPipeline, FlowMatchEulerDiscreteScheduler
from PIL import Image, ImageChops
from torch import Tensor

from drtune.config import ComputeSection, LoraSection, MethodConfig, TuningSamplerConfig, load_config
from drtune.errors import UserError
from drtune.evaluation.run import evaluate
from drtune.methods.guidance import GuidedDenoiser
from drtune.methods.loss_scale import scaled, unscaled
from drtune.methods.plans import Plan
from drtune.methods.supervision import Task, supervise
from drtune.methods.sweep import roll_out
from drtune.models.adapter import add_adapter, save_adapter
from drtune.models.base import Base, EncodedPrompts
from drtune.models.flux2_klein import Flux2Klein
from drtune.models.sampler import make_scheduler
from drtune.prompts.prepare import prepare
from drtune.training.plan.meter import SavedBytes
from drtune.training.trainer import train
from tests.pipelines import GRAINS, KINDS, FolderOf, on_white, open_base, side_of

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # Euler of diffusers

PROMPTS = ["a red circle on a green field", "two blue squares"]
LORA = LoraSection(rank=2, alpha=6.0)
GUIDED = TuningSamplerConfig(steps=4, guidance_scale=2.0, negative_prompt="a grey star")
"""FLUX.1 tells its network a thousand times the scale: 2000 stands exactly in bf16, unlike 3000."""
UNGUIDED = TuningSamplerConfig(steps=4)


def noise_for(base: Base, seed: int = 3) -> Tensor:
    return torch.randn(len(PROMPTS), *base.latents_shape, generator=torch.Generator().manual_seed(seed))


def negative_of(base: Base, settings: TuningSamplerConfig) -> str:
    """The negative prompt, or for FLUX.2 klein the only one that it takes."""
    return "" if isinstance(base, Flux2Klein) else settings.negative_prompt


def denoiser_of(base: Base, settings: TuningSamplerConfig) -> GuidedDenoiser:
    negative = base.encode_negative(negative_of(base, settings))
    return GuidedDenoiser(base, base.encode(PROMPTS), negative, settings, arithmetic=base.dtype)


@torch.no_grad()
def our_images(base: Base, settings: TuningSamplerConfig) -> Tensor:
    sampler = base.sampler(settings)
    whole = Plan(stop=settings.steps - 1, trained=(), alpha=0.0)
    noise = sampler.initial_scale * noise_for(base)
    return base.decode(roll_out(denoiser_of(base, settings), sampler, noise, whole).clean_BCHW)


def diffusers_images(pipeline: DiffusionPipeline, base: Base, settings: TuningSamplerConfig) -> Tensor:
    """What the pipeline itself makes of the same noise; `base` says of which shape."""
    noise, more = noise_for(base), {}
    if type(pipeline).__name__ in ("FluxPipeline", "QwenImagePipeline", "QwenImage21Pipeline"):
        noise = pipeline._pack_latents(noise, *noise.shape)
    negative = negative_of(base, settings)
    images = []
    for rows in [slice(0, 1), slice(1, 2)] if base.draws_alone else [slice(0, 2)]:
        prompts = PROMPTS[rows]  # a list of its own, in which Z-Image writes its templates
        if negative or base.names_negative:
            more["negative_prompt"] = [negative] * len(prompts)
        drawn = pipeline(
            prompt=prompts,
            **base.guidance_argument(settings.guidance_scale),
            num_inference_steps=settings.steps,
            height=base.height,
            width=base.width,
            latents=noise[rows],
            output_type="pt",
            **more,
        )
        images.append(on_white(drawn.images))
    return torch.cat(images)


def tunable(base: Base, strength: float = 0.1) -> dict[str, torch.nn.Parameter]:
    """A LoRA that already does something."""
    weights = add_adapter(base, LORA, seed=0)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weight in weights.values():
            weight.copy_(strength * torch.randn(weight.shape, generator=generator))
    return weights


def gradient_of(
    base: Base, weights: dict[str, torch.nn.Parameter], *, worth: float = 1.0, precision: str = "fp32"
) -> Tensor:
    """The gradient of one DRTune update with two trained steps, which is left in `.grad`, end to end."""
    task = Task(
        denoiser_of(base, GUIDED),
        base.sampler(GUIDED),
        rewards_of=lambda clean, _rows: worth * base.decode(clean).square().mean((1, 2, 3)),
        draw_noise=lambda *_key: noise_for(base),
        compute=ComputeSection(),
        loss_scale=partial(scaled, weights=weights.values(), mean=lambda x: x) if precision == "fp16" else unscaled,
    )
    supervise(task, MethodConfig(), Plan(stop=2, trained=(0, 2), alpha=0.0))
    gradients = [weight.grad for weight in weights.values()]
    return torch.cat([gradient.flatten() for gradient in gradients if gradient is not None])


def cosine(one: Tensor, other: Tensor) -> float:
    return float((one / one.norm()) @ (other / other.norm()))


# ----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "kind", ["sd15", "sdxl", "sd3", "flux_dev", "z_image", "flux2_klein", "qwen_image", "qwen_image_21"]
)
def test_the_latents_of_a_picture_are_what_the_vae_says_on_the_scale_of_the_network(
    kind: str, folder_of: FolderOf
) -> None:
    base = open_base(folder_of(kind), width=2 * side_of(kind))
    images = torch.rand(2, 3, base.height, base.width, generator=torch.Generator().manual_seed(0))
    latents, vae = base.latents_of(images), base.pipeline.vae
    assert latents.shape == (2, *base.latents_shape)
    told = images
    if kind == "qwen_image_21":  # which has a channel of how opaque they are
        told = torch.cat([told, torch.ones_like(told[:, :1])], dim=1)
    with torch.no_grad():
        frames = told.unsqueeze(2) if kind.startswith("qwen_image") else told
        seen = on_white(vae.decode(vae.encode(2 * frames - 1).latent_dist.mode()).sample.view_as(told) / 2 + 0.5)
        torch.testing.assert_close(base.pixels(latents), seen, atol=1e-5, rtol=1e-4)


def test_a_vae_that_says_how_its_latents_are_spread_decodes_as_in_the_pipeline(folder_of: FolderOf) -> None:
    base = open_base(folder_of("sdxl"))
    base.pipeline.scheduler = make_scheduler("ddim", base.pipeline.scheduler.config)
    before = our_images(base, GUIDED)
    base.pipeline.vae.register_to_config(latents_mean=[-1.66, 1.89, -1.38, 2.52], latents_std=[8.5, 5.9, 6.5, 5.2])
    ours = our_images(base, GUIDED)
    assert (ours - diffusers_images(base.pipeline, base, GUIDED)).abs().max() <= 1e-4
    assert (ours - before).abs().max() > 0.01
    images = torch.rand(2, 3, base.height, base.width, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        seen = base.pipeline.vae(2 * images - 1).sample / 2 + 0.5
        torch.testing.assert_close(base.pixels(base.latents_of(images)), seen, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("kind", "sampler"),
    [(kind, sampler) for kind in ("sd15", "sd21", "sdxl") for sampler in ("ddim", "euler")]
    + [(kind, "flow_euler") for kind in KINDS if kind not in ("sd15", "sd21", "sdxl")],
)
def test_our_sampler_makes_the_images_of_plain_diffusers(kind: str, sampler: str, folder_of: FolderOf) -> None:
    grain = GRAINS.get(kind, 8)
    for height, width, settings in (
        (2 * grain, 2 * grain, GUIDED),
        (3 * grain, 2 * grain, UNGUIDED),
        (2 * grain, 4 * grain, GUIDED.model_copy(update={"negative_prompt": ""})),
    ):
        base = open_base(folder_of(kind), height=height, width=width)
        base.pipeline.scheduler = make_scheduler(sampler, base.pipeline.scheduler.config)
        ours = our_images(base, settings.model_copy(update={"name": sampler}))
        assert ours.shape == (2, 3, height, width)
        assert (ours - diffusers_images(base.pipeline, base, settings)).abs().max() <= 1e-4


@pytest.mark.parametrize("kind", KINDS)
def test_a_base_in_another_size_is_one_that_was_opened_in_it(kind: str, folder_of: FolderOf) -> None:
    base, side = open_base(folder_of(kind)), side_of(kind)
    before, other = our_images(base, GUIDED), base.resized(f"{2 * side}x{side}")
    assert other.network is base.network
    assert torch.equal(our_images(other, GUIDED), our_images(open_base(folder_of(kind), width=2 * side), GUIDED))
    assert torch.equal(our_images(base, GUIDED), before)


@pytest.mark.parametrize("kind", [*KINDS, "flux2_klein_distilled"])
def test_guidance_changes_the_images_but_for_the_base_that_has_none(kind: str, folder_of: FolderOf) -> None:
    base = open_base(folder_of(kind))
    effect = (our_images(base, GUIDED) - our_images(base, UNGUIDED)).abs().max()
    assert effect == 0 if kind in ("flux_schnell", "flux2_klein_distilled") else effect > 0.01


@pytest.mark.parametrize("kind", ["sd3", "flux_dev", "z_image", "flux2_klein", "qwen_image", "qwen_image_21"])
def test_a_schedule_that_shifts_with_the_size_is_shifted_as_in_the_pipeline(kind: str, folder_of: FolderOf) -> None:
    steps = []
    for side in (side_of(kind), 2 * side_of(kind)):
        base = open_base(folder_of(kind), height=side, width=side)
        dynamic = {"use_dynamic_shifting": True, "base_image_seq_len": 4, "max_image_seq_len": 100}
        base.pipeline.scheduler = FlowMatchEulerDiscreteScheduler.from_config(base.pipeline.scheduler.config, **dynamic)
        assert (our_images(base, GUIDED) - diffusers_images(base.pipeline, base, GUIDED)).abs().max() <= 1e-4
        steps.append([step.timestep for step in base.sampler(GUIDED).steps])
    assert steps[0] != steps[1]


@pytest.mark.parametrize("kind", KINDS)
def test_a_tuned_adapter_gives_plain_diffusers_our_images(kind: str, folder_of: FolderOf, tmp_path: Path) -> None:
    base = open_base(folder_of(kind))
    weights = add_adapter(base, LORA, seed=0)
    optimizer = torch.optim.AdamW(weights.values(), lr=0.05)
    for _ in range(2):  # the inner matrices have no gradient before the outer ones have left zero
        optimizer.zero_grad()
        gradient_of(base, weights)
        optimizer.step()
    assert all(weight.grad is not None and weight.grad.any() for weight in weights.values())
    save_adapter(base, tmp_path)

    plain = open_base(folder_of(kind)).pipeline
    plain.scheduler = make_scheduler(base.samplers[0], plain.scheduler.config)
    before = diffusers_images(plain, base, GUIDED)
    plain.load_lora_weights(tmp_path, weight_name="pytorch_lora_weights.safetensors")
    after = diffusers_images(plain, base, GUIDED)
    assert (after - our_images(base, GUIDED)).abs().max() <= 1e-3
    assert (after - before).abs().max() > 0.1


@pytest.mark.parametrize("kind", ["sdxl", "z_image", "flux2_klein", "qwen_image", "qwen_image_21"])
def test_the_sweep_has_the_gradient_of_plain_autograd(kind: str, folder_of: FolderOf) -> None:
    base = open_base(folder_of(kind))
    weights = tunable(base)
    swept = gradient_of(base, weights)
    denoiser, steps = denoiser_of(base, GUIDED), base.sampler(GUIDED).steps
    latents = noise_for(base)
    for index in range(3):  # trains steps 0 and 2, and jumps to the end from there
        with torch.set_grad_enabled(index != 1):
            output = denoiser(latents.detach(), steps[index].timesteps(latents))
        a, b = steps[index].jump if index == 2 else steps[index].move
        latents = a * latents + b * output
    loss = -base.decode(latents).square().mean()
    plain = torch.autograd.grad(loss, list(weights.values()))
    assert (swept - torch.cat([gradient.flatten() for gradient in plain])).norm() <= 1e-4 * swept.norm()


# ----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
@pytest.mark.parametrize("kind", ["sd21", "sdxl", "sd3", "flux_dev", "z_image", "flux2_klein", "qwen_image_21"])
def test_half_precision_has_nearly_the_gradient_of_fp32(kind: str, precision: str, folder_of: FolderOf) -> None:
    full, half = open_base(folder_of(kind)), open_base(folder_of(kind), precision=precision)
    wanted = gradient_of(full, tunable(full))
    weights = tunable(half)
    half.prepare(ComputeSection(precision=precision))
    assert half.network.dtype != torch.float32
    assert {weight.dtype for weight in weights.values()} == {torch.float32}
    # Tiny networks that are made to hang on their text (tests/pipelines.py) round more.
    tolerance = 0.1 if kind in ("flux2_klein", "qwen_image_21") and precision == "bf16" else 0.02
    for worth in (1.0, 1e-9):  # fp16 alone would make a zero of the gradient of such a small reward
        for weight in weights.values():
            weight.grad = None
        gradient = gradient_of(half, weights, worth=worth, precision=precision)
        assert cosine(gradient, wanted) > 0.99
        assert float(gradient.norm() / worth / wanted.norm()) == pytest.approx(1, rel=tolerance)


def test_the_loss_scale_leaves_no_trace_in_gradients_that_were_there_before() -> None:
    weight = torch.ones(3, requires_grad=True)
    weight.grad = torch.tensor([1.0, 1e-3, 3.0])
    gradient = torch.tensor([3e-9, -5e-9, 1e-12])
    with scaled(gradient, weights=[weight], mean=lambda x: x) as scale:
        assert 0.5 <= scale * 5e-9 < 1
        weight.grad += scale * gradient
    assert torch.allclose(weight.grad, torch.tensor([1.0, 1e-3, 3.0]) + gradient, rtol=1e-7, atol=0)
    with scaled(torch.zeros(3), weights=[weight], mean=lambda x: x) as scale:
        assert scale == 1


@pytest.mark.parametrize("kind", ["sdxl", "flux_dev"])
def test_in_fp16_the_vae_computes_in_fp32(kind: str, folder_of: FolderOf) -> None:
    base = open_base(folder_of(kind), precision="fp16")
    assert (base.network.dtype, base.pipeline.vae.dtype) == (torch.float16, torch.float32)
    images = our_images(base, UNGUIDED)
    assert images.isfinite().all()
    assert (images - our_images(open_base(folder_of(kind)), UNGUIDED)).abs().max() < 0.02


@pytest.mark.parametrize("kind", ["sd15", "sdxl", "sd3", "flux_dev", "z_image", "flux2_klein"])
def test_gradient_checkpointing_saves_memory_and_keeps_the_gradient(kind: str, folder_of: FolderOf) -> None:
    base = open_base(folder_of(kind))
    weights, noise, denoiser = tunable(base), noise_for(base), denoiser_of(base, GUIDED)
    plain = gradient_of(base, weights)
    in_network = saved_bytes(lambda: denoiser(noise, torch.full((2,), 500.0)))
    in_vae = saved_bytes(lambda: base.decode(noise.requires_grad_()))

    base.prepare(ComputeSection(gradient_checkpointing=True))
    assert saved_bytes(lambda: denoiser(noise, torch.full((2,), 500.0))) < 0.6 * in_network
    assert saved_bytes(lambda: base.decode(noise.requires_grad_())) < 0.6 * in_vae
    for weight in weights.values():
        weight.grad = None
    assert (gradient_of(base, weights) - plain).norm() <= 1e-6 * plain.norm()


def saved_bytes(forward: Callable[[], Tensor]) -> int:
    """What a forward keeps for the backward."""
    saved = SavedBytes([])
    with saved:
        forward()
    return saved.peak


@pytest.mark.filterwarnings("ignore:.*script_method:DeprecationWarning")  # of torch, when it loads its compiler
def test_a_compiled_network_keeps_the_names_of_its_weights(
    folder_of: FolderOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = open_base(folder_of("sdxl"))
    tunable(base)
    names = list(base.network.state_dict())
    monkeypatch.setenv("CXX", sys.executable)  # anything that runs: nothing is compiled before the first call
    base.prepare(ComputeSection(compile=True))
    assert list(base.network.state_dict()) == names
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(UserError, match=r"compute.compile=True: no C\+\+ compiler no-such-compiler here; install"):
        base.prepare(ComputeSection(compile=True))


@pytest.mark.parametrize("kind", KINDS)
def test_encoded_prompts_outlive_the_text_encoders(kind: str, folder_of: FolderOf) -> None:
    base = open_base(folder_of(kind))
    wanted = our_images(base, GUIDED)
    encoded = EncodedPrompts(base, {7: PROMPTS[0], 8: "a star", 5: PROMPTS[1]}, batch_size=2)
    negative = base.encode_negative(negative_of(base, GUIDED))
    encoders = [
        weakref.ref(part) for name, part in base.pipeline.components.items() if name.startswith("text_encoder") and part
    ]
    base.free_text_encoders()
    gc.collect()
    one = ("sd15", "sd21", "z_image", "flux2_klein", "qwen_image", "qwen_image_21")
    assert len(encoders) == (1 if kind in one else 3 if kind == "sd3" else 2)
    assert all(encoder() is None for encoder in encoders)

    sampler = base.sampler(GUIDED)
    denoiser = GuidedDenoiser(base, encoded[[7, 5]], negative, GUIDED)
    whole = Plan(stop=GUIDED.steps - 1, trained=(), alpha=0.0)
    clean = roll_out(denoiser, sampler, sampler.initial_scale * noise_for(base), whole).clean_BCHW
    assert (base.decode(clean) - wanted).abs().max() <= 1e-5


# ----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "overrides"),
    [
        ("sd15", ["compute.precision=fp16", "compute.gradient_checkpointing=true", "sampler.guidance_scale=2"]),
        ("sd21", ["sampler.name=euler", "method.name=draft_k"]),
        ("sdxl", ["compute.precision=fp16", "weights=full", "compute.micro_batch_size=1"]),
        ("sd3", ["compute.precision=bf16", "sampler.guidance_scale=2", "compute.replay_batch=2"]),
        ("sd3_without_t5", ["method.name=leapalign", "base_penalty=0.1"]),
        ("flux_dev", ["compute.precision=bf16", "sampler.guidance_scale=3.5", "compute.gradient_checkpointing=true"]),
        ("flux_schnell", ["compute.precision=fp16", "method.name=full"]),
        ("flux2_klein", ["compute.precision=bf16", "sampler.guidance_scale=2", "method.name=draft_k"]),
        ("z_image", ["compute.precision=bf16", "sampler.guidance_scale=2", "compute.replay_batch=2"]),
        ("qwen_image", ["compute.precision=bf16", "sampler.guidance_scale=2", "compute.gradient_checkpointing=true"]),
        ("qwen_image_21", ["compute.precision=bf16", "sampler.guidance_scale=2", "method.name=srpo"]),
    ],
)
def test_every_base_is_tuned_from_prompts_to_pictures(
    kind: str, overrides: list[str], folder_of: FolderOf, tmp_path: Path
) -> None:
    prompts = [{"text": f"a {colour} star", "split": "train"} for colour in ("red", "blue", "green")]
    prompts.append({"text": "a grey star", "split": "eval"})
    (tmp_path / "prompts.jsonl").write_text("\n".join(map(json.dumps, prompts)))
    prepare(tmp_path / "prompts.jsonl", tmp_path / "prompts")
    settings = ["steps=3", "batch_size=2", "sampler.steps=4", "method.trained_steps=2", "method.early_stop=2"]
    side = side_of(kind)
    settings += [f"height={side}", f"width={side}", "rewards={brightness: 1}", "optimizer.learning_rate=1e-2"]
    settings += ["evaluation.sampler={steps: 2, guidance_scale: 2}", "evaluation.rewards=[brightness]"]
    settings += ["evaluation.features=preference"]
    config = load_config(None, [f"base_model={folder_of(kind)}", *settings, *overrides])
    model = train(config, tmp_path / "prompts", tmp_path / "model")
    assert (model.step, model.weights) == (3, config.weights)
    lines = [json.loads(line) for line in (tmp_path / "model" / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 3]
    assert all(0 < line["grad_norm"] < 10 for line in lines)
    report = evaluate(tmp_path / "model", tmp_path / "prompts", tmp_path / "report")
    assert report.scores[0].gain != 0
    with (
        Image.open(tmp_path / "model" / "samples" / "step-000003.png") as seen,
        Image.open(tmp_path / "report" / "images" / "candidate" / "0000-0.png") as judged,
    ):
        first = seen.crop((0, 32, 256, 32 + 256))  # between title and caption
        difference = ImageChops.difference(first.resize((side, side), Image.Resampling.NEAREST), judged)
        assert max(high for _, high in difference.getextrema()) <= (2 if config.weights == "full" else 1)
