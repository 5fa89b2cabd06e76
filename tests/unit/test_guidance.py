"""The guided denoiser is classifier-free guidance as diffusers has it, for one batch and for several end to end."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from diffusers.pipelines.stable_diffusion_xl.pipeline_stable_diffusion_xl import rescale_noise_cfg
from torch import Tensor

from drtune.config import TuningSamplerConfig
from drtune.methods.guidance import GuidedDenoiser
from drtune.models.sdxl import StableDiffusionXL
from tests.tiny import UNGUIDED, conditions_of, denoiser_of, tiny_base, tunable_base

LATENTS = torch.randn(2, 4, 4, 4, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
TIMESTEPS = torch.full((2,), 700.0)


@pytest.fixture(scope="module")
def base() -> StableDiffusionXL:
    return tunable_base(torch.float64)[0]


def branches(base: StableDiffusionXL) -> tuple[Tensor, Tensor]:
    """The network's output for the negative prompt and for the prompts."""
    negative = {name: part.repeat(2, *[1] * (part.ndim - 1)) for name, part in conditions_of(base, 1, 100).items()}
    return (
        base.predict(LATENTS, TIMESTEPS, negative, 3.0),
        base.predict(LATENTS, TIMESTEPS, conditions_of(base, 2), 3.0),
    )


def guided_by_diffusers(negative: Tensor, conditional: Tensor, rescale: float) -> Tensor:
    guided = negative + 3.0 * (conditional - negative)
    return rescale_noise_cfg(guided, conditional, rescale) if rescale else guided


def test_without_guidance_the_network_runs_once_on_the_prompts(base: StableDiffusionXL) -> None:
    torch.testing.assert_close(denoiser_of(base)(LATENTS, TIMESTEPS), branches(base)[1])


@pytest.mark.parametrize("gradient", ["both", "conditional"])
@pytest.mark.parametrize("rescale", [0.0, 0.7])
def test_guidance_and_its_gradient_are_those_of_diffusers(
    base: StableDiffusionXL, gradient: str, rescale: float
) -> None:
    settings = TuningSamplerConfig.model_validate(
        {"guidance_scale": 3.0, "guidance_rescale": rescale, "guidance_gradient": gradient}
    )
    negative, conditional = branches(base)
    wanted = guided_by_diffusers(negative.detach() if gradient == "conditional" else negative, conditional, rescale)
    ours = denoiser_of(base, settings)(LATENTS, TIMESTEPS)
    torch.testing.assert_close(ours, wanted)
    weights = [weight for weight in base.network.parameters() if weight.requires_grad]
    direction = torch.linspace(-1, 1, ours.numel(), dtype=ours.dtype).view_as(ours)
    torch.testing.assert_close(
        torch.autograd.grad(ours, weights, direction), torch.autograd.grad(wanted, weights, direction)
    )


@pytest.mark.parametrize("settings", [UNGUIDED, TuningSamplerConfig(guidance_scale=3.0)], ids=["plain", "guided"])
def test_several_batches_end_to_end_are_each_met_with_all_prompts(
    base: StableDiffusionXL, settings: TuningSamplerConfig
) -> None:
    denoiser = denoiser_of(base, settings)
    others, later = LATENTS.flip(0) * 0.5, torch.full((2,), 30.0)
    together = denoiser(torch.cat([LATENTS, others]), torch.cat([TIMESTEPS, later]))
    torch.testing.assert_close(together, torch.cat([denoiser(LATENTS, TIMESTEPS), denoiser(others, later)]))


def test_the_output_has_the_precision_of_the_latents() -> None:
    half = tiny_base(torch.bfloat16)
    denoiser = GuidedDenoiser(half, conditions_of(half, 2), conditions_of(half, 1), UNGUIDED, arithmetic=torch.bfloat16)
    assert denoiser(LATENTS.float(), TIMESTEPS).dtype == torch.float32


class Embedding(StableDiffusionXL):
    """A base whose network is told the guidance scale."""

    embeds_guidance = True

    def __init__(self, told: Callable[[int, float], None]) -> None:
        super().__init__(tiny_base().pipeline)
        self.told = told

    def predict(self, latents_BCHW: Tensor, _timesteps_B: Tensor, _conditions: object, guidance: float) -> Tensor:
        self.told(len(latents_BCHW), guidance)
        return latents_BCHW


def test_a_base_that_embeds_guidance_is_run_once_and_told_the_scale() -> None:
    calls: list[tuple[int, float]] = []
    base = Embedding(lambda rows, guidance: calls.append((rows, guidance)))
    denoiser_of(base, TuningSamplerConfig(guidance_scale=3.5))(LATENTS.float(), TIMESTEPS)
    assert calls == [(2, 3.5)]
