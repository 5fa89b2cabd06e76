"""Qwen-Image 2.1: one causal stream of text tokens and then the picture's, whose VAE has a channel for transparency."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, ClassVar

import torch
from diffusers import ModelMixin, QwenImage21Pipeline
from diffusers.models.transformers.transformer_qwenimage21 import QwenImage21KVCache, QwenImage21Rope
from torch import Tensor
from transformers import PreTrainedTokenizerBase, ProcessorMixin, Qwen3VLProcessor

from drtune.models.base import Conditions, shift_of
from drtune.models.language import lengths
from drtune.models.qwen_image import QwenImageBase
from drtune.models.sampler import Scheduler


class PromptProcessor(Qwen3VLProcessor):  # type: ignore[misc]  # transformers makes it when it is asked for
    """The pipeline's processor of prompts alone: what it has for pictures and films takes torchvision."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, chat_template: str | None = None) -> None:
        self.image_token, self.video_token = "<|image_pad|>", "<|video_pad|>"
        self.image_token_id, self.video_token_id = tokenizer.convert_tokens_to_ids([self.image_token, self.video_token])
        ProcessorMixin.__init__(self, tokenizer=tokenizer, chat_template=chat_template)


class QwenImage21(QwenImageBase):
    """`QwenImage21Pipeline` for prompts alone.

    A picture is placed where its text ends, in the pipeline where the longest text of the batch does. Here each prompt
    goes through the network by itself, as long as it is: a picture is what the pipeline makes of its prompt alone.
    """

    pipeline_class = QwenImage21Pipeline
    pieces: ClassVar[Mapping[str, Any]] = {"processor": PromptProcessor}
    patch = 1
    draws_alone = True
    lora_targets = ("to_q", "to_k", "to_v", "to_out.0", "img_mlp.proj", "img_mlp.gate_layer", "img_mlp.out")

    def __init__(self, pipeline: QwenImage21Pipeline, *, height: int | None = None, width: int | None = None) -> None:
        super().__init__(pipeline, height=height, width=width)
        self.head = pipeline._drop_idx
        self.max_tokens = self.head + 512
        self.network.forward = partial(_text_to_image, self.network)

    @property
    def native_side(self) -> int:
        """As `Base`: its pipeline's default."""
        return 1024

    @property
    def side_multiple(self) -> int:
        """As `Base`: of two tokens."""
        return 2 * self.factor

    @property
    def tokenizer(self) -> Any:
        """As `LanguageModelBase`."""
        return self.pipeline.processor.tokenizer

    def in_template(self, prompt: str) -> str:
        """As `LanguageModelBase`."""
        text: str = self.pipeline.prompt_template_t2i.format(prompt or " ")
        return text

    def states(self, tokens_BL: Tensor, mask_BL: Tensor) -> Tensor:
        """As `QwenImageBase`: of its last layer, before the norm."""
        reader = self.pipeline.text_encoder.model.language_model
        without_norm = reader.norm.register_forward_hook(lambda _norm, given, _made: given[0])
        try:
            states: Tensor = reader(input_ids=tokens_BL, attention_mask=mask_BL, use_cache=False).last_hidden_state
        finally:
            without_norm.remove()
        return states

    def predict(self, latents_BCHW: Tensor, timesteps_B: Tensor, conditions: Conditions, _guidance: float) -> Tensor:
        """As `Base`."""
        times_B = timesteps_B.to(latents_BCHW.dtype) / 1000
        shape = (1, *latents_BCHW.shape[2:])
        rows = zip(self.pack(latents_BCHW).split(1), _texts(conditions), times_B.split(1), strict=True)
        outputs = [
            self.network(picture_1LC, text_1LD, time_1, img_shapes=[[shape]], return_dict=False)[0]
            for picture_1LC, text_1LD, time_1 in rows
        ]
        return self.unpack(torch.cat([output[:, -self.num_tokens :] for output in outputs]))

    @property
    def noise_levels(self) -> Sequence[float] | None:
        """As `Base`: those that 2.1 Turbo was distilled to."""
        levels: Sequence[float] | None = self.pipeline.config.sample_sigmas
        return levels

    def set_timesteps(self, scheduler: Scheduler, num_steps: int) -> None:
        """As `Base`."""
        if self.noise_levels:
            scheduler.set_timesteps(sigmas=self.noise_levels, mu=shift_of(scheduler, self.num_tokens))
        else:
            super().set_timesteps(scheduler, num_steps)

    def pipeline_conditions(self, conditions: Conditions) -> dict[str, Any]:
        """As `Base`, of one prompt: its tokens without what fills them up."""
        (text_1LD,) = _texts(conditions)
        return {"prompt_embeds": text_1LD}

    def pixels(self, latents_BCHW: Tensor) -> Tensor:
        """As `Base`: on white, as the text encoder is shown pictures, where they are transparent."""
        channels = super().pixels(latents_BCHW)
        colours, opacity = channels[:, :3], channels[:, 3:]
        return 1 - opacity * (1 - colours)

    def latents_of(self, images_BCHW: Tensor) -> Tensor:
        """As `Base`, of images that are opaque."""
        return super().latents_of(torch.cat([images_BCHW, torch.ones_like(images_BCHW[:, :1])], dim=1))


def _texts(conditions: Conditions) -> list[Tensor]:
    """Each prompt's tokens (1, L, D), without what fills them up."""
    counts = lengths(conditions["prompt_embeds_mask"])
    return [row[:, :count] for row, count in zip(conditions["prompt_embeds"].split(1), counts, strict=True)]


def _text_to_image(
    network: ModelMixin,
    hidden_states: Tensor,
    encoder_hidden_states: Tensor,
    timestep: Tensor,
    img_shapes: list[list[tuple[int, int, int]]],
    img_mask: Tensor | None = None,
    encoder_hidden_states_mask: Tensor | None = None,
    kv_cache: QwenImage21KVCache | None = None,
    kv_cache_mode: str | None = None,
    **more: Any,
) -> tuple[Tensor]:
    """The network's own forward for texts of one length and no pictures beside them; all else is left to that.

    It takes the sizes of its tensors from the values of a mask, and a plan's have none. Here they are those of the
    text and of the picture, as the two stand one after the other.
    """
    if img_mask is not None and (encoder_hidden_states_mask is not None or len(img_shapes[0]) > 1):
        made: tuple[Tensor] = type(network).forward(
            network,
            hidden_states,
            encoder_hidden_states,
            timestep,
            img_shapes,
            img_mask,
            encoder_hidden_states_mask,
            kv_cache=kv_cache,
            kv_cache_mode=kv_cache_mode,
            **more,
        )
        return made
    tokens = torch.cat([network.txt_in(encoder_hidden_states), network.img_in(hidden_states)], dim=1)
    text = encoder_hidden_states.shape[1]
    places = torch.arange(tokens.shape[1], device=tokens.device)
    rotation = _rotation(network.pos_embed, text, *img_shapes[0][0][1:]).to(tokens.device)
    segments: list[tuple[int, int, bool]] | None = [(0, text, True)]
    if kv_cache_mode == "cached":  # what the text became stands there
        tokens, places, rotation, segments = tokens[:, text:], places[text:], rotation[text:], None
    timestep, of_picture = timestep.to(tokens.dtype), None
    if network.config.causal_condition:  # the text is told that there is no noise
        timestep, of_picture = torch.cat([timestep, timestep.new_zeros(1)]), places >= text
    embedded = network.time_text_embed(timestep, tokens)
    modulation = network.modulation(embedded)
    written = slice(0, text) if kv_cache_mode == "extract" else None
    for index, block in enumerate(network.transformer_blocks):
        cache = kv_cache.get_layer(index) if kv_cache else None
        given = (tokens, modulation, rotation, None, of_picture, cache, kv_cache_mode, written, segments)
        if torch.is_grad_enabled() and network.gradient_checkpointing:
            tokens = network._gradient_checkpointing_func(block, *given)
        else:
            tokens = block(*given)
    return (network.proj_out(network.norm_out(tokens, embedded, of_picture)),)


def _rotation(rope: QwenImage21Rope, text: int, height: int, width: int) -> Tensor:
    """The turns (L, D / 2) of the rope's three axes: texts along all of them, then a picture, its rows and columns."""
    before, tokens = torch.arange(text), height * width
    rows = torch.arange(height) - (height - height // 2)
    columns = torch.arange(width) - (width - width // 2)
    places = [torch.full((tokens,), text), rows.repeat_interleave(width), columns.repeat(height)]
    return torch.cat(
        [
            rope.rope_params(torch.cat([before, place]), size, rope.theta)
            for place, size in zip(places, rope.axes_dim, strict=True)
        ],
        dim=1,
    )
