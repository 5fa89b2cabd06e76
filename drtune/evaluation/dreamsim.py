"""DreamSim: a space of features that was fitted to which pictures people find alike."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import torch
from peft.utils import SAFETENSORS_WEIGHTS_NAME, WEIGHTS_NAME, load_peft_weights
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import Dinov2Model
from transformers.image_utils import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

from drtune.errors import UserError
from drtune.files.images import to_tensor
from drtune.files.local import sha256_file
from drtune.rewards.clip import unit
from drtune.rewards.loading import network_from_hub, refused
from drtune.rewards.preprocessing import BY_PILLOW, normalised

BASE = "facebook/dinov2-base"
SIDE = 224
"""Height and width of what the network sees."""
ABOUT = "adapter_config.json"
ADAPTED = "base_model.model.extractor_list.0.model.blocks.{}.attn.qkv.lora_{}.weight"
"""A layer's weights in the published adapter: side A, then B."""


class DreamSim:
    """DreamSim (Fu et al. 2023, arXiv 2306.09344), its variant on DINOv2 ViT-B/14: 1 - cosine is its distance.

    An adapter of DINOv2, fitted to which of two pictures people find more like a third. The ensemble and two other
    variants are CLIPs, as many rewards are; this one is none. (ssundaram21/dreamsim at db4d16c, dreamsim/model.py: the
    whole picture is squeezed into a square, the class token is taken as the last block leaves it, without DINOv2's
    last normalisation, and its own mean is taken off.)
    """

    name = "dreamsim"

    def __init__(self, model: Dinov2Model, weights: str) -> None:
        self.model = model.eval().requires_grad_(False)
        self.model.layernorm = nn.Identity()
        embeddings = self.model.embeddings
        patches = SIDE // model.config.patch_size
        embeddings.position_embeddings = nn.Parameter(positions(embeddings.position_embeddings, patches), False)
        self.provenance = f"{weights}, {BY_PILLOW}"

    @classmethod
    def load(cls, checkpoint: str | Path) -> Self:
        """With the published DINOv2, and the adapter in the folder `checkpoint`.

        The authors have it on GitHub, in an archive, and no digest to hold it against is known: it is told instead.

        Raises:
            UserError: one of them is not to be had, or is no such network.
        """
        model, base = network_from_hub(Dinov2Model, cls.name, BASE)
        folder = Path(checkpoint).expanduser()
        files = [folder / name for name in (SAFETENSORS_WEIGHTS_NAME, WEIGHTS_NAME) if (folder / name).is_file()]
        if not files or not (folder / ABOUT).is_file():
            raise UserError(
                f"reward_checkpoints.dreamsim={checkpoint}: has no {ABOUT} with {SAFETENSORS_WEIGHTS_NAME} or "
                f"{WEIGHTS_NAME} beside it; give the folder dinov2_vitb14_single_lora of DreamSim's archive "
                "dreamsim_dinov2_vitb14_checkpoint.zip"
            )
        with refused(cls.name, files[0], "is no DreamSim on DINOv2"):
            adapt(model, load_peft_weights(str(folder), device="cpu"), json.loads((folder / ABOUT).read_bytes()))
        return cls(model, f"{files[0].name} sha256 {sha256_file(files[0])} on {BASE} {base}")

    def embed(self, pictures: Sequence[Image.Image], device: torch.device) -> Tensor:
        """As `FeatureSpace`."""
        square = [picture.convert("RGB").resize((SIDE, SIDE), Image.Resampling.BICUBIC) for picture in pictures]
        pixels_BCHW = normalised(to_tensor(square), IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD).to(device)
        class_BD = self.model.to(device)(pixel_values=pixels_BCHW).pooler_output
        return unit(class_BD - class_BD.mean(dim=1, keepdim=True))


def adapt(model: Dinov2Model, adapter: Mapping[str, Tensor], about: Mapping[str, Any]) -> None:
    """Add an adapter of the original's network, where queries, keys and values are one layer, to the weights.

    Raises:
        LookupError, ValueError: a weight is missing, unknown or of the wrong shape.
    """
    left = dict(adapter)
    for number, layer in enumerate(model.encoder.layer):
        down, up = (left.pop(ADAPTED.format(number, side)) for side in "AB")
        attention = layer.attention
        added = (about["lora_alpha"] / about["r"] * up @ down).chunk(3)
        for part, change in zip((attention.q_proj, attention.k_proj, attention.v_proj), added, strict=True):
            if change.shape != part.weight.shape:
                raise ValueError(f"block {number} takes {tuple(part.weight.shape)}, not {tuple(change.shape)}")
            part.weight.data += change
    if left:
        raise ValueError(f"{min(left)!r} is no weight of it")


def positions(table_1ND: Tensor, patches: int) -> Tensor:
    """A table of positions for `patches` in each direction, of one for another number of them.

    As the original interpolates, with a tenth of a patch too much, which transformers leaves out
    (facebookresearch/dinov2 at b8931f7, dinov2/models/vision_transformer.py, `interpolate_pos_encoding`).
    """
    side = math.isqrt(table_1ND.shape[1] - 1)
    grid_1DHW = table_1ND[:, 1:].unflatten(1, (side, side)).permute(0, 3, 1, 2)
    scaled_1DHW = F.interpolate(grid_1DHW, scale_factor=(patches + 0.1) / side, mode="bicubic")
    return torch.cat([table_1ND[:, :1], scaled_1DHW.flatten(2).transpose(1, 2)], dim=1)
