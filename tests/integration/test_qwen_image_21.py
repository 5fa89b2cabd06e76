"""Qwen-Image 2.1: one way through its network for a plan and for a run, and pictures that are transparent."""

from __future__ import annotations

import pytest
import torch

from drtune.config import ComputeSection, TuningSamplerConfig
from drtune.errors import UserError
from drtune.methods.guidance import GuidedDenoiser
from drtune.models.drawing import draw
from drtune.models.qwen_image_21 import QwenImage21
from tests.pipelines import FolderOf, on_white, open_base, plain_pipeline

PROMPTS = ["a red circle on a green field", "two blue squares"]
SEEDS = [5, 7]


@pytest.fixture
def base(folder_of: FolderOf) -> QwenImage21:
    opened = open_base(folder_of("qwen_image_21"), width=96)
    assert isinstance(opened, QwenImage21)
    return opened


def test_a_prompt_is_what_the_pipeline_makes_of_it_alone(base: QwenImage21, folder_of: FolderOf) -> None:
    plain = plain_pipeline(folder_of("qwen_image_21"))
    prompts = [*PROMPTS, ""]
    encoded = base.encode(prompts)
    for row, prompt in enumerate(prompts):
        wanted, mask, _ = plain.encode_prompt(prompt, device="cpu")
        count = wanted.shape[1]
        assert mask is None
        assert encoded["prompt_embeds_mask"][row].sum() == count
        assert (encoded["prompt_embeds"][row, :count] - wanted[0]).abs().max() <= 1e-6
        assert not encoded["prompt_embeds"][row, count:].any()


def test_the_way_through_the_network_is_its_own_and_so_is_the_gradient(base: QwenImage21) -> None:
    network, generator = base.network.requires_grad_(), torch.Generator().manual_seed(0)
    packed = torch.randn(2, 24, 4, generator=generator)
    text = torch.randn(2, 5, 16, generator=generator)
    mask = torch.zeros(2, 5 + 6, dtype=torch.bool)  # one place for four tokens of a picture
    mask[:, 5:] = True
    given = (packed, text, torch.tensor([0.9, 0.3]), [[(1, 4, 6)]] * 2, mask)
    outputs, gradients = [], []
    for forward in (network, lambda *args, **more: type(network).forward(network, *args, **more)):
        (output,) = forward(*given, return_dict=False)
        outputs.append(output)
        gradients.append(torch.autograd.grad(output[:, -24:].square().sum(), list(network.parameters())))
    assert torch.equal(*outputs)
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(*gradients, strict=True))
    assert all(gradient.any() for gradient in gradients[0])


def test_what_is_no_text_of_one_length_goes_the_networks_own_way(base: QwenImage21, folder_of: FolderOf) -> None:
    settings = {"num_inference_steps": 2, "height": 64, "width": 96, "output_type": "pt"}
    one, other = (
        pipeline(prompt=list(PROMPTS), generator=[torch.Generator().manual_seed(seed) for seed in SEEDS], **settings)
        for pipeline in (base.pipeline, plain_pipeline(folder_of("qwen_image_21")))
    )
    assert torch.equal(one.images, other.images)


def test_a_picture_hangs_on_its_prompt_alone(base: QwenImage21) -> None:
    negative = base.encode_negative("a grey star")
    together = draw(base, base.encode(PROMPTS), negative, SEEDS, steps=3, guidance_scale=2.0)
    for row, prompt in enumerate(PROMPTS):
        alone = draw(base, base.encode([prompt]), negative, SEEDS[row : row + 1], steps=3, guidance_scale=2.0)
        assert (together[row] - alone[0]).abs().max() <= 1e-6


def test_gradient_checkpointing_keeps_the_gradient(base: QwenImage21) -> None:
    settings = TuningSamplerConfig(guidance_scale=2.0)
    denoiser = GuidedDenoiser(base, base.encode(PROMPTS), base.encode_negative(""), settings)
    latents = torch.randn(2, *base.latents_shape, generator=torch.Generator().manual_seed(0))
    sizes: list[int] = []
    gradients = []
    base.network.requires_grad_()
    for checkpointing in (False, True):
        base.prepare(ComputeSection(gradient_checkpointing=checkpointing))
        kept = 0

        def pack(tensor: torch.Tensor) -> torch.Tensor:
            nonlocal kept
            kept += tensor.nbytes
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            loss = denoiser(latents, torch.full((2,), 500.0)).square().sum()
        sizes.append(kept)
        gradients.append(torch.autograd.grad(loss, list(base.network.parameters())))
    assert sizes[1] < 0.6 * sizes[0]
    for plain, again in zip(*gradients, strict=True):
        torch.testing.assert_close(again, plain)


def test_noise_levels_of_its_own_are_taken_and_no_other_number_of_steps(base: QwenImage21) -> None:
    levels = [1.0, 0.8, 0.3]
    base.pipeline.register_to_config(sample_sigmas=levels)
    base.pipeline.scheduler.register_to_config(use_dynamic_shifting=False, shift_terminal=None)
    steps = base.sampler(TuningSamplerConfig(steps=3)).steps
    assert [step.timestep for step in steps] == pytest.approx([1000, 800, 300])
    with pytest.raises(UserError, match=r"steps=4: this base has 3 noise levels of its own; give 3, in sampler\.steps"):
        base.sampler(TuningSamplerConfig(steps=4))
    encoded = base.encode(PROMPTS[:1])
    with pytest.raises(UserError, match="steps=4: this base has 3 noise levels"):
        draw(base, encoded, encoded, SEEDS[:1], steps=4)
    drawn = draw(base, encoded, encoded, SEEDS[:1], steps=3, guidance_scale=1.0)
    plain = base.pipeline(
        prompt=PROMPTS[0], height=64, width=96, output_type="pt", generator=torch.Generator().manual_seed(SEEDS[0])
    )
    assert (drawn - on_white(plain.images)).abs().max() <= 1e-6


def test_a_transparent_picture_lies_on_white(base: QwenImage21) -> None:
    latents = torch.randn(1, *base.latents_shape, generator=torch.Generator().manual_seed(0)).requires_grad_()
    channels = super(QwenImage21, base).pixels(latents)
    assert channels.shape == (1, 4, 64, 96)
    assert channels[:, 3].min() < 0.9
    torch.testing.assert_close(base.pixels(latents), on_white(channels))
    (gradient,) = torch.autograd.grad(base.pixels(latents).mean(), latents)
    assert gradient.any()
