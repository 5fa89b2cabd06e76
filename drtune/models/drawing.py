"""How pictures are drawn, wherever one is looked at or judged: by the base's own pipeline with its own scheduler.

So training, evaluation and `drtune sample` show what everybody sees who takes the published model up with diffusers.
Tuning alone samples otherwise: the sweep (drtune/methods/sweep.py) needs steps that have a gradient.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from drtune.errors import UserError
from drtune.models.adapter import without_adapter
from drtune.models.base import Base, Conditions


def draw(
    base: Base,
    conditions: Conditions,
    negative: Conditions,
    seeds: Sequence[int],
    *,
    steps: int | None = None,
    guidance_scale: float | None = None,
    base_steps: int = 0,
) -> Tensor:
    """Images (B, 3, height, width) in [0, 1] and fp32, by the network as it is now; no text encoder is needed.

    Args:
        base: on its device.
        conditions: of B prompts; they are in the precision that the pipeline computes in.
        negative: of what guidance leads away from (B = 1).
        seeds: of each picture's noise, which the pipeline itself would draw from `torch.Generator().manual_seed(seed)`.
            So no picture hangs on what else is in the batch, but for its last bits.
        steps: of the sampler, from noise to image; None: the pipeline's own default, as for `guidance_scale`.
        guidance_scale: of classifier-free guidance; at 1 the negative conditions are not used.
        base_steps: so many of the first steps are made without the adapter, if there is one: the combined generation of
            ImageReFL (Sorokin et al. 2025, arXiv 2505.22569).

    Raises:
        UserError: a pixel is infinite or not a number, which an 8-bit picture would show as black or white.
    """
    images_BCHW = draw_unchecked(
        base, conditions, negative, seeds, steps=steps, guidance_scale=guidance_scale, base_steps=base_steps
    )
    if not images_BCHW.isfinite().all():
        precision = str(conditions["prompt_embeds"].dtype).removeprefix("torch.")
        raise UserError(
            f"pictures in {precision}: pixels are infinite or not a number; weights tuned with a lower "
            "optimizer.learning_rate, or another compute.precision, may have finite ones"
        )
    return images_BCHW.clamp(0, 1)


@torch.no_grad()
def draw_unchecked(
    base: Base,
    conditions: Conditions,
    negative: Conditions,
    seeds: Sequence[int],
    *,
    steps: int | None = None,
    guidance_scale: float | None = None,
    sigmas: Sequence[float] | None = None,
    base_steps: int = 0,
) -> Tensor:
    """What `draw` looks at and clamps; a plan's tensors, which have no numbers, can only come this far.

    `sigmas` are the noise levels of the steps, where they are not the pipeline's own.
    """
    if base.draws_alone and len(seeds) > 1:
        settings: dict[str, Any] = {"steps": steps, "guidance_scale": guidance_scale, "sigmas": sigmas}
        alone = [{name: rows[[index]] for name, rows in conditions.items()} for index in range(len(seeds))]
        return torch.cat(
            [
                draw_unchecked(base, condition, negative, [seed], base_steps=base_steps, **settings)
                for condition, seed in zip(alone, seeds, strict=True)
            ]
        )
    precision = conditions["prompt_embeds"].dtype
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    dtype = base.noise_dtype or precision
    rows = [torch.randn(1, *base.latents_shape, generator=generator, dtype=dtype) for generator in generators]
    arguments: dict[str, Any] = base.pipeline_conditions(conditions)
    if not base.embeds_guidance:
        expanded = {name: row.expand(len(seeds), *row.shape[1:]) for name, row in negative.items()}
        arguments |= {f"negative_{name}": value for name, value in base.pipeline_conditions(expanded).items()}
    if steps is not None:
        if sigmas is None:
            base.check_steps(steps)
        arguments["num_inference_steps"] = steps
    if sigmas is not None:
        arguments["sigmas"] = sigmas
    if guidance_scale is not None:
        arguments |= base.guidance_argument(guidance_scale)
    with _in_precision(base, precision), _base_first(base, base_steps) as taking_over:
        latents = base.pipeline(
            **arguments,
            **taking_over,
            height=base.height,
            width=base.width,
            latents=base.pack(torch.cat(rows).to(base.device)).contiguous(),
            generator=generators,  # which a sampler with fresh noise goes on to draw from
            output_type="latent",
        ).images
    return base.final_pixels(latents).float()


@contextmanager
def _base_first(base: Base, steps: int) -> Iterator[dict[str, Any]]:
    """Within, the adapter is off; gives what is to be told the pipeline, so that it is on after so many steps."""
    if not steps or not base.network._hf_peft_config_loaded:
        yield {}
        return

    def put_on(_pipeline: Any, step: int, _timestep: Any, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        if step + 1 == steps:
            base.network.enable_adapters()
        return tensors

    with without_adapter(base):
        yield {"callback_on_step_end": put_on}


@contextmanager
def _in_precision(base: Base, precision: torch.dtype) -> Iterator[None]:
    """Within, the network computes as when its tuned weights are loaded in that precision.

    While it trains, an adapter is kept in fp32, and for the moment rounded as loading it would. Full weights in fp32
    are not, which would take a second network: autocast rounds them layer by layer.
    """
    trained = [weight for weight in base.network.parameters() if weight.requires_grad and weight.dtype != precision]
    adapter = trained if base.dtype == precision else []
    kept = [weight.data for weight in adapter]
    for weight in adapter:
        weight.data = weight.data.to(precision)
    try:
        # Without a cache of cast weights, which would be a second network too.
        with torch.autocast(base.device.type, precision, enabled=base.dtype != precision, cache_enabled=False):
            yield
    finally:
        for weight, data in zip(adapter, kept, strict=True):
            weight.data = data
