"""Tiny text encoders of the real classes, with random weights, and tokenizers that spell."""

from __future__ import annotations

import string

from tokenizers.pre_tokenizers import ByteLevel
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    Qwen2Tokenizer,
    Qwen3Config,
    T5Config,
    T5EncoderModel,
    T5TokenizerFast,
)

from tests.tiny import tokenizer

WIDTH = 16
"""Of the text encoders, and their pooled output."""


def clip(kind: type[CLIPTextModel | CLIPTextModelWithProjection]) -> CLIPTextModel | CLIPTextModelWithProjection:
    words = tokenizer()
    return kind(
        CLIPTextConfig(
            vocab_size=len(words),
            hidden_size=WIDTH,
            intermediate_size=2 * WIDTH,
            projection_dim=WIDTH,
            num_hidden_layers=2,
            num_attention_heads=2,
            max_position_embeddings=words.model_max_length,
            bos_token_id=words.bos_token_id,
            eos_token_id=words.eos_token_id,
            pad_token_id=words.pad_token_id,
        )
    ).eval()


def t5() -> tuple[T5EncoderModel, T5TokenizerFast]:
    """A T5 that spells every word."""
    pieces = [(token, 0.0) for token in ("<pad>", "</s>", "<unk>")]
    pieces += [(letter, -1.0) for letter in f"\N{LOWER ONE EIGHTH BLOCK}{string.ascii_lowercase}"]
    spelling = T5TokenizerFast(vocab=pieces, extra_ids=0, model_max_length=512)
    encoder = T5EncoderModel(
        T5Config(vocab_size=len(spelling), d_model=2 * WIDTH, d_kv=8, d_ff=WIDTH, num_layers=1, num_heads=2)
    )
    return encoder.eval(), spelling


def qwen_tokenizer(*special: str) -> Qwen2Tokenizer:
    """A tokenizer that spells every byte, in Qwen's template of a chat; `special` are words beside its own."""
    words = Qwen2Tokenizer(
        vocab={token: index for index, token in enumerate(["<|endoftext|>", *sorted(ByteLevel.alphabet())])},
        merges=[],
        model_max_length=131_072,
        extra_special_tokens=["<|im_start|>", "<|im_end|>", *special],
    )
    words.chat_template = (
        "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
        "<|im_start|>assistant\n{% if not enable_thinking %}<think>\n\n</think>\n\n{% endif %}"
    )
    return words


def qwen3(vocab_size: int, num_layers: int) -> Qwen3Config:
    return Qwen3Config(
        vocab_size=vocab_size,
        hidden_size=WIDTH,
        intermediate_size=WIDTH,
        num_hidden_layers=num_layers,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=8,
        tie_word_embeddings=True,
    )
