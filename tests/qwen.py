"""Tiny random Qwen-VLs and their words, in the layout in which the real ones are published."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel, Qwen2Tokenizer

from tests.words import LETTERS

SPECIAL = ["<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"]
END = "<|endoftext|>"
MERGES = [("Y", "e"), ("Ye", "s"), ("a", "b")]
VOCABULARY = {word: number for number, word in enumerate([*LETTERS, *("".join(pair) for pair in MERGES)])}
TEMPLATE = (
    "{% for message in messages %}{% if loop.first and message['role'] != 'system' %}<|im_start|>system\n"
    "You are a helpful assistant.<|im_end|>\n{% endif %}<|im_start|>{{ message['role'] }}\n"
    "{% for part in message['content'] %}{% if part['type'] == 'image' %}"
    "<|vision_start|><|image_pad|><|vision_end|>{% else %}{{ part['text'] }}{% endif %}{% endfor %}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""What the published chat template makes of pictures and texts."""


def words(text: str = "") -> Qwen2Tokenizer:
    """A tokenizer of letters and, so that it is short, of the words of a text; with the published special tokens."""
    merges = dict.fromkeys(MERGES)
    for word in re.findall(r" ?[A-Za-z]+", text):
        letters = word.replace(" ", "\u0120")  # as byte-level vocabularies write a space
        merges |= dict.fromkeys((letters[:end], letters[end]) for end in range(1, len(letters)))
    vocabulary = list(dict.fromkeys([*LETTERS, *("".join(pair) for pair in merges), END]))
    tokenizer = Qwen2Tokenizer(vocab={word: number for number, word in enumerate(vocabulary)}, merges=list(merges))
    tokenizer.add_special_tokens({"additional_special_tokens": SPECIAL})
    return tokenizer


def sizes(tokenizer: Qwen2Tokenizer) -> dict[str, Any]:
    """Of both parts of a tiny network, beside what the families name differently."""
    number = tokenizer.convert_tokens_to_ids
    text = {
        "vocab_size": len(tokenizer) + 5,  # the published matrix has unused rows, too
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 32768,
        "rope_parameters": {"type": "mrope", "mrope_section": [1, 1, 2], "rope_theta": 1e6},
        "bos_token_id": VOCABULARY["!"],
        "eos_token_id": VOCABULARY["."],
        "tie_word_embeddings": False,
    }
    return {
        "text_config": text,
        "image_token_id": number("<|image_pad|>"),
        "video_token_id": number("<|video_pad|>"),
        "vision_start_token_id": number("<|vision_start|>"),
        "vision_end_token_id": number("<|vision_end|>"),
    }


def shaken(model: PreTrainedModel) -> PreTrainedModel:
    """The network in double precision with weights that differ everywhere, biases and norms, too."""
    generator = torch.Generator().manual_seed(7)
    for weight in model.double().parameters():
        weight.data += 0.2 * torch.randn(weight.shape, generator=generator, dtype=torch.float64)
    return model.eval()


def write_shards(model: PreTrainedModel, folder: Path) -> None:
    """The network in several files with an index, its sizes, and the settings of its answers beside it."""
    model.save_pretrained(folder, max_shard_size="100KB")
    write_sizes(model, folder)
    settings = {"repetition_penalty": 1.05, "do_sample": True, "eos_token_id": VOCABULARY["."], "temperature": 1e-6}
    (folder / "generation_config.json").write_text(json.dumps(settings), encoding="utf-8")


def write_sizes(model: PreTrainedModel, folder: Path) -> None:
    """The sizes of a network in one level, as published."""
    model.config.save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    text = config.pop("text_config")
    rope = text.pop("rope_parameters")
    flat = {key: value for key, value in text.items() if key not in ("model_type", "layer_types")} | config
    scaling = {"type": "mrope", "mrope_section": rope["mrope_section"]}
    flat |= {"rope_theta": rope["rope_theta"], "rope_scaling": scaling}
    flat["torch_dtype"] = str(model.dtype).removeprefix("torch.")
    (folder / "config.json").write_text(json.dumps(flat), encoding="utf-8")
