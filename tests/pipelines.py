"""Tiny pipelines of the real classes, one of each base that can be tuned, with random weights."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    AutoencoderKLFlux2,
    AutoencoderKLQwenImage,
    AutoencoderKLQwenImage21,
    DDIMScheduler,
    DiffusionPipeline,
    FlowMatchEulerDiscreteScheduler,
    Flux2KleinPipeline,
    Flux2Transformer2DModel,
    FluxPipeline,
    FluxTransformer2DModel,
    QwenImage21Pipeline,
    QwenImage21Transformer2DModel,
    QwenImagePipeline,
    QwenImageTransformer2DModel,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
    ZImagePipeline,
    ZImageTransformer2DModel,
)
from torch import Tensor
from transformers import (
    CLIPTextModel,
    CLIPTextModelWithProjection,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2Tokenizer,
    Qwen3ForCausalLM,
    Qwen3Model,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
    T5EncoderModel,
    T5TokenizerFast,
)

from drtune.models.base import Base
from drtune.models.loading import load_base
from drtune.models.qwen_image_21 import PromptProcessor
from tests.encoders import WIDTH, clip, qwen3, qwen_tokenizer, t5
from tests.qwen import SPECIAL, TEMPLATE
from tests.tiny import tokenizer

KINDS = (
    "sd15",
    "sd21",
    "sdxl",
    "sd3",
    "sd3_without_t5",
    "flux_dev",
    "flux_schnell",
    "flux2_klein",
    "z_image",
    "qwen_image",
    "qwen_image_21",
)
FolderOf = Callable[[str], Path]
"""The folder of a pipeline of that kind."""
SIDE = 16
"""Of the images that most are made for, in pixels; FLUX.1 does not say, and is given it."""
GRAINS = {"qwen_image_21": 32}
"""Of sizes in pixels, where it is not 8."""


def side_of(kind: str) -> int:
    """Of the small images that the tests take of a kind, in pixels."""
    return 2 * GRAINS.get(kind, SIDE // 2)


def make_pipeline(kind: str, seed: int = 0) -> DiffusionPipeline:
    """A pipeline of about 0.1 M parameters; the latents are half as high and wide as the images, or a 16th for 2.1."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        match kind:
            case "sd15":
                return _stable_diffusion("epsilon", use_linear_projection=False)
            case "sd21":
                return _stable_diffusion("v_prediction", use_linear_projection=True)
            case "sdxl":
                return _stable_diffusion_xl()
            case "sd3":
                return _stable_diffusion_3(t5=t5())
            case "sd3_without_t5":
                return _stable_diffusion_3(t5=None)
            case "flux_dev":
                return _flux(guidance_embeds=True)
            case "flux_schnell":
                return _flux(guidance_embeds=False)
            case "flux2_klein" | "flux2_klein_distilled":
                return _flux2_klein(is_distilled=kind.endswith("distilled"))
            case "z_image":
                return _z_image()
            case "qwen_image":
                return _qwen_image()
            case "qwen_image_21":
                return _qwen_image_21()
    raise ValueError(kind)


def save_pipeline(kind: str, folder: Path, seed: int = 0) -> Path:
    """The pipeline as a folder that loads by its path, and says of each part what published ones say."""
    make_pipeline(kind, seed).save_pretrained(folder)
    index = folder / "model_index.json"
    processor = f'"{PromptProcessor.__module__}",\n    "PromptProcessor"'
    index.write_text(index.read_text().replace(processor, '"transformers",\n    "Qwen3VLProcessor"'))
    return folder


def plain_pipeline(folder: Path, **parts: Any) -> DiffusionPipeline:
    """The pipeline in a folder as diffusers loads it; a processor of Qwen3-VL without what would take torchvision."""
    if (folder / "processor").exists():
        parts["processor"] = PromptProcessor.from_pretrained(folder / "processor")
    return DiffusionPipeline.from_pretrained(folder, **parts)


def pictures(pipeline: DiffusionPipeline) -> Tensor:
    """A small picture (1, C, H, W) of plain diffusers."""
    side = max(SIDE, 4 * pipeline.vae_scale_factor)
    pipeline.set_progress_bar_config(disable=True)
    generator = torch.Generator().manual_seed(0)
    images: Tensor = pipeline(
        prompt="a red circle", num_inference_steps=4, height=side, width=side, generator=generator, output_type="pt"
    ).images
    return images


def on_white(images_BCHW: Tensor) -> Tensor:
    """Images (B, 3, H, W) of such, or of (B, 4, H, W), whose last channel says how opaque they are."""
    colours, opacity = images_BCHW[:, :3], images_BCHW[:, 3:]
    return opacity * colours + (1 - opacity) if opacity.shape[1] else colours


def open_base(folder: Path, *, precision: str = "fp32", height: int | None = None, width: int | None = None) -> Base:
    """The base in that folder, which is called as its kind, for small images."""
    side = side_of(folder.name)
    return load_base(str(folder), precision=precision, height=height or side, width=width or side)


def _vae(latent_channels: int, shift_factor: float | None = None, *, force_upcast: bool = False) -> AutoencoderKL:
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        block_out_channels=(8, 16),
        latent_channels=latent_channels,
        norm_num_groups=4,
        sample_size=SIDE,
        scaling_factor=0.5,
        shift_factor=shift_factor,
        force_upcast=force_upcast,
        use_quant_conv=shift_factor is None,
        use_post_quant_conv=shift_factor is None,
    ).eval()


def _unet(token_width: int, **settings: object) -> UNet2DConditionModel:
    return UNet2DConditionModel(
        sample_size=SIDE // 2,
        block_out_channels=(8, 16),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        attention_head_dim=2,
        cross_attention_dim=token_width,
        norm_num_groups=4,
        **settings,
    ).eval()


def _schedule(prediction: str) -> DDIMScheduler:
    return DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        prediction_type=prediction,
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    )


def _stable_diffusion(prediction: str, *, use_linear_projection: bool) -> StableDiffusionPipeline:
    return StableDiffusionPipeline(
        vae=_vae(4),
        text_encoder=clip(CLIPTextModel),
        tokenizer=tokenizer(),
        unet=_unet(WIDTH, use_linear_projection=use_linear_projection),
        scheduler=_schedule(prediction),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def _stable_diffusion_xl() -> StableDiffusionXLPipeline:
    unet = _unet(
        2 * WIDTH,
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=4,
        projection_class_embeddings_input_dim=WIDTH + 6 * 4,
    )
    return StableDiffusionXLPipeline(
        vae=_vae(4, force_upcast=True),
        text_encoder=clip(CLIPTextModel),
        text_encoder_2=clip(CLIPTextModelWithProjection),
        tokenizer=tokenizer(),
        tokenizer_2=tokenizer(),
        unet=unet,
        scheduler=_schedule("epsilon"),
        add_watermarker=False,
    )


def _stable_diffusion_3(t5: tuple[T5EncoderModel, T5TokenizerFast] | None) -> StableDiffusion3Pipeline:
    transformer = SD3Transformer2DModel(
        sample_size=SIDE // 2,
        in_channels=16,
        num_layers=2,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=2 * WIDTH,
        caption_projection_dim=16,
        pooled_projection_dim=2 * WIDTH,
        pos_embed_max_size=16,
        dual_attention_layers=(0,),
        qk_norm="rms_norm",
    )
    encoder, spelling = t5 or (None, None)
    return StableDiffusion3Pipeline(
        transformer=transformer.eval(),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=_vae(16, shift_factor=0.1),
        text_encoder=clip(CLIPTextModelWithProjection),
        tokenizer=tokenizer(),
        text_encoder_2=clip(CLIPTextModelWithProjection),
        tokenizer_2=tokenizer(),
        text_encoder_3=encoder,
        tokenizer_3=spelling,
    )


def _flux(*, guidance_embeds: bool) -> FluxPipeline:
    transformer = FluxTransformer2DModel(
        in_channels=64,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=2 * WIDTH,
        pooled_projection_dim=WIDTH,
        guidance_embeds=guidance_embeds,
        axes_dims_rope=(2, 2, 4),
    )
    encoder, spelling = t5()
    return FluxPipeline(
        # FLUX.1-dev shifts its schedule by the size of the image, FLUX.1-schnell does not.
        scheduler=FlowMatchEulerDiscreteScheduler(
            shift=3.0 if guidance_embeds else 1.0, use_dynamic_shifting=guidance_embeds, max_shift=1.15
        ),
        vae=_vae(16, shift_factor=0.1),
        text_encoder=clip(CLIPTextModel),
        tokenizer=tokenizer(),
        text_encoder_2=encoder,
        tokenizer_2=spelling,
        transformer=transformer.eval(),
    )


def _flux2_klein(*, is_distilled: bool) -> Flux2KleinPipeline:
    words = qwen_tokenizer()
    transformer = Flux2Transformer2DModel(
        in_channels=16,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=3 * WIDTH,
        axes_dims_rope=(2, 2, 2, 2),
        guidance_embeds=False,
    )
    transformer.transformer_blocks[0].attn.add_v_proj.weight.data *= 20  # most of 512 tokens are not of the prompt
    vae = AutoencoderKLFlux2(
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        block_out_channels=(8, 16),
        latent_channels=4,
        norm_num_groups=4,
    )
    vae.bn.running_mean.normal_()
    vae.bn.running_var.uniform_(4.0, 16.0)
    return Flux2KleinPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True),
        vae=vae.eval(),
        text_encoder=Qwen3ForCausalLM(qwen3(len(words), num_layers=27)).eval(),  # of which it reads 9, 18 and 27
        tokenizer=words,
        transformer=transformer.eval(),
        is_distilled=is_distilled,
    )


def _z_image() -> ZImagePipeline:
    words = qwen_tokenizer()
    transformer = ZImageTransformer2DModel(
        in_channels=16,
        dim=16,
        n_layers=2,
        n_refiner_layers=1,
        n_heads=2,
        n_kv_heads=2,
        cap_feat_dim=WIDTH,
        axes_dims=[2, 2, 4],
        axes_lens=[1024, 64, 64],
    )
    return ZImagePipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(shift=6.0),
        vae=_vae(16, shift_factor=0.1),
        text_encoder=Qwen3Model(qwen3(len(words), num_layers=2)).eval(),
        tokenizer=words,
        transformer=transformer.eval(),
    )


QWEN_VISION = {"depth": 1, "hidden_size": 16, "num_heads": 2, "intermediate_size": 16, "out_hidden_size": WIDTH}


def _qwen_text(words: Qwen2Tokenizer) -> dict[str, Any]:
    return {
        "vocab_size": len(words),
        "hidden_size": WIDTH,
        "intermediate_size": WIDTH,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
    }


def _qwen_image() -> QwenImagePipeline:
    words = qwen_tokenizer()
    rope = {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [1, 1, 2]}
    reader = Qwen2_5_VLConfig(text_config=_qwen_text(words) | {"rope_parameters": rope}, vision_config=QWEN_VISION)
    transformer = QwenImageTransformer2DModel(
        in_channels=16,
        out_channels=4,
        num_layers=2,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=WIDTH,
        axes_dims_rope=(4, 6, 6),
    )
    for block in transformer.transformer_blocks:
        block.attn.add_v_proj.weight.data *= 20  # the prompt is to tell, though guidance keeps each token's length
    vae = AutoencoderKLQwenImage(
        base_dim=8,
        z_dim=4,
        dim_mult=[1, 2],
        num_res_blocks=1,
        temperal_downsample=[False],
        latents_mean=[0.1, -0.2, 0.3, 0.0],
        latents_std=[1.5, 2.0, 2.5, 3.0],
    )
    return QwenImagePipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True, shift_terminal=0.02),
        vae=vae.eval(),
        text_encoder=Qwen2_5_VLForConditionalGeneration(reader).eval(),
        tokenizer=words,
        transformer=transformer.eval(),
    )


def _qwen_image_21() -> QwenImage21Pipeline:
    words = qwen_tokenizer(*SPECIAL[2:])
    rope = {"rope_type": "default", "rope_theta": 5e6, "mrope_section": [2, 1, 1]}
    reader = Qwen3VLConfig(
        text_config=_qwen_text(words) | {"head_dim": 8, "rope_parameters": rope},
        vision_config=QWEN_VISION | {"num_position_embeddings": 16, "deepstack_visual_indexes": [0]},
    )
    transformer = QwenImage21Transformer2DModel(
        in_channels=4,
        out_channels=4,
        num_layers=2,
        attention_head_dim=16,
        num_attention_heads=2,
        context_in_dim=WIDTH,
        axes_dims_rope=(4, 6, 6),
    )
    for block in transformer.transformer_blocks:
        block.attn.to_v.weight.data *= 20  # the prompt is to tell
    vae = AutoencoderKLQwenImage21(
        base_dim=8,
        decoder_base_dim=8,
        z_dim=4,
        dim_mult=[1, 1, 1, 1, 1],
        num_res_blocks=1,
        latents_mean=[0.1, -0.2, 0.3, 0.0],
        latents_std=[1.5, 2.0, 2.5, 3.0],
    )
    return QwenImage21Pipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True, shift_terminal=0.02),
        vae=vae.eval(),
        text_encoder=Qwen3VLForConditionalGeneration(reader).eval(),
        processor=PromptProcessor(words, chat_template=TEMPLATE),
        transformer=transformer.eval(),
    )
