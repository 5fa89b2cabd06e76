"""HPSv3: how much people like a picture for its prompt, as a vision-language model has learnt it from their choices."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Self

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import Qwen2VLConfig, Qwen2VLModel

from drtune.rewards.head import furnished
from drtune.rewards.loading import filled, refused, under
from drtune.rewards.preprocessing import NetworkReward, SmartResize
from drtune.rewards.qwen import Reader, words_of
from drtune.rewards.weights import fetch, weights_of

QUESTION = Path(__file__).with_suffix(".txt").read_text(encoding="utf-8")
"""What the network was trained to be asked, to the last space.

(hpsv3 1.0.0 of PyPI, hpsv3/dataset/data_collator_qwen.py: INSTRUCTION and prompt_with_special_token; MIT, its licence
stands beside it.)"""
MARK = "<|Reward|>"
"""The token at which the score is read."""
PIXELS = 256 * 28 * 28
"""So many are seen of a picture, at least and at most: one of 1024 x 1024 is seen at 448 x 448."""
WIDTHS = (1024, 16, 2)
"""Of the head's layers; the last has the score's mean and, not used here, the logarithm of its deviation."""


class HPSv3(NetworkReward):
    """Human Preference Score v3 (Ma et al. 2025, ICCV, MizzenAI/HPSv3): the first of its outputs, about -1 to 15.

    Qwen2-VL-7B, tuned, with a head on what it makes of `MARK`. As in hpsv3 1.0.0 (hpsv3/inference.py, `reward`, and
    model/qwen2vl_trainer.py, `forward`) words and patches alike are counted 0, 1, 2, ...: it hands its network no
    positions, and transformers 4.45.2, which it requires, computes Qwen2-VL's own, of rows and columns, only when text
    is generated (models/qwen2_vl/modeling_qwen2_vl.py, `Qwen2VLModel.forward`).
    """

    name = "hpsv3"
    repository = "MizzenAI/HPSv3"
    revision = "4f81e3e09edd82fe3c5f636444c721b592a735ca"
    file = "HPSv3.safetensors"
    base = "Qwen/Qwen2-VL-7B-Instruct"
    base_revision = "eed13092ef92e448dd6875b2a00151bd3f7db0ac"

    def __init__(self, reader: Reader, head: nn.Sequential, weights: str, *, antialias: bool) -> None:
        self.reader, self.head, self.weights = reader, head.eval().requires_grad_(False), weights
        self.preprocessing = SmartResize(reader.side, antialias, PIXELS, PIXELS)
        self.mark: int = reader.tokenizer.convert_tokens_to_ids(MARK)

    @classmethod
    def load(cls, *, antialias: bool, checkpoint: Path | None = None) -> Self:
        """With the published weights, or those of a checkpoint in their place.

        No digest to hold them against is known: theirs is told instead.

        Raises:
            UserError: they are not to be had, or are no such network.
        """
        path, told = weights_of(cls.name, cls.repository, cls.file, revision=cls.revision, checkpoint=checkpoint)
        about = fetch(cls.name, cls.base, ("config.json",), cls.base_revision)
        words = words_of(cls.name, cls.base, cls.base_revision)
        words.add_special_tokens({"additional_special_tokens": [MARK]})
        with refused(cls.name, path, "is no HPSv3"):
            config = Qwen2VLConfig.from_pretrained(about)
            config.text_config.vocab_size = len(words)  # the published matrix was cut to the words there are
            model, head = networks_of(load_file(path), config)
        return cls(Reader(model, words), head, told, antialias=antialias)

    def judge(self, pixels_BCHW: Tensor, prompts: Sequence[str]) -> Tensor:
        """As `NetworkReward`; one picture after the other, so that no question is padded for another."""
        return torch.stack([self._mean(pixels, prompt) for pixels, prompt in zip(pixels_BCHW, prompts, strict=True)])

    def _mean(self, pixels_CHW: Tensor, prompt: str) -> Tensor:
        read = self.reader.read(pixels_CHW, QUESTION.format(text_prompt=prompt))
        tokens_L = read["input_ids"][0]
        plain_31L = torch.arange(len(tokens_L), device=tokens_L.device).expand(3, 1, -1)
        made_LD = self.reader.model(**read, position_ids=plain_31L, use_cache=False).last_hidden_state[0]
        marked_D = made_LD[tokens_L == self.mark][-1]  # a prompt may have the mark in it, too
        exact_D = marked_D.to(torch.promote_types(marked_D.dtype, torch.float32))
        mean: Tensor = self.head.to(exact_D.device, exact_D.dtype)(exact_D)[0]
        return mean


def networks_of(state: Mapping[str, Tensor], config: Qwen2VLConfig) -> tuple[Qwen2VLModel, nn.Sequential]:
    """The network in the precision of its weights and its head, of a state dict with the published names.

    These are `visual.*`, `model.*` and `rm_head.*`; `lm_head.*`, with which text would be generated, is not read.

    Raises:
        LookupError, ValueError: a weight is missing, unknown or of the wrong shape.
    """
    weights = {f"visual.{key}": tensor for key, tensor in under("visual.", state).items()}
    weights |= {f"language_model.{key}": tensor for key, tensor in under("model.", state).items()}
    precision = state["model.embed_tokens.weight"].dtype
    head = furnished(new_head(config.text_config.hidden_size), under("rm_head.", state))
    return filled(Qwen2VLModel, config, weights, dtype=precision), head


def new_head(width: int) -> nn.Sequential:
    """A head (..., width) -> (..., 2), with the published names of its layers; its dropout is idle in use."""
    first, second, outputs = WIDTHS
    return nn.Sequential(
        nn.Linear(width, first),
        nn.ReLU(),
        nn.Dropout(),
        nn.Linear(first, second),
        nn.ReLU(),
        nn.Linear(second, outputs),
    )
