"""The miniature's preference score: how well a picture fits its caption, as a small CLIP has learnt it."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor
from torch.nn import functional as F
from transformers import CLIPModel, CLIPTokenizer

from drtune.miniature import CHECKPOINT
from drtune.miniature.world import IMAGE_SIZE


class MiniaturePreference:
    """Cosine of image and caption in [-1, 1], as the Human Preference Score v2.1 is computed.

    The model knows the drawn world only. Pictures of another size are resized to 32 x 32, bilinear with antialias.
    """

    name = "preference"

    def __init__(self) -> None:
        folder = CHECKPOINT / "preference"
        self.model = CLIPModel.from_pretrained(folder).eval().requires_grad_(False)
        self.tokenizer = CLIPTokenizer.from_pretrained(folder)

    def __call__(self, images_BCHW: Tensor, prompts: Sequence[str]) -> Tensor:
        """Rewards (B,), as `Reward`."""
        self.model.to(images_BCHW.device, images_BCHW.dtype)
        if images_BCHW.shape[-2:] != (IMAGE_SIZE, IMAGE_SIZE):
            images_BCHW = F.interpolate(images_BCHW, (IMAGE_SIZE, IMAGE_SIZE), mode="bilinear", antialias=True)
        tokens = self.tokenizer(list(prompts), padding="max_length", truncation=True, return_tensors="pt").input_ids
        text = self.model.get_text_features(input_ids=tokens.to(images_BCHW.device)).pooler_output
        image = self.model.get_image_features(pixel_values=images_BCHW * 2 - 1).pooler_output
        return (F.normalize(image, dim=-1) * F.normalize(text, dim=-1)).sum(-1)
