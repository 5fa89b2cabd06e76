"""The miniature's tokenizer: byte-pair encoding (Sennrich et al. 2016) of the world's few words.

Each word of the world becomes one token; any other text is spelled out in bytes, so that none is unknown. The
tokenizers library has a trainer too, but numbers its tokens differently from run to run.
"""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

from tokenizers.pre_tokenizers import ByteLevel
from transformers import CLIPTokenizer

from drtune.models.miniature.world import scenes
from tools.miniature.networks import MAX_TOKENS

END_OF_WORD = "</w>"
START, END = "<|startoftext|>", "<|endoftext|>"


def train_tokenizer() -> CLIPTokenizer:
    """The tokenizer of the world's captions; always the same."""
    words = Counter(word for scene in scenes(seed=30, count=4000) for word in scene.caption.replace(",", "").split())
    merges = _merges(words)
    letters = sorted(ByteLevel.alphabet())
    tokens = [START, END, *letters, *(letter + END_OF_WORD for letter in letters), *map("".join, merges)]
    vocabulary = {token: number for number, token in enumerate(dict.fromkeys(tokens))}
    return CLIPTokenizer(
        vocab=vocabulary, merges=merges, bos_token=START, eos_token=END, pad_token=END, model_max_length=MAX_TOKENS
    )


def _merges(words: Counter[str]) -> list[tuple[str, str]]:
    """The pairs to merge, in order: the most frequent first, until every word is one token."""
    spelled = {word: [*word[:-1], word[-1] + END_OF_WORD] for word in words}
    merges = []
    while pairs := _count_pairs(words, spelled):
        # Equal counts are told apart by the letters, so that the order never depends on chance.
        best = max(pairs, key=lambda pair: (pairs[pair], pair))
        merges.append(best)
        spelled = {word: _merge(symbols, best) for word, symbols in spelled.items()}
    return merges


def _count_pairs(words: Counter[str], spelled: dict[str, list[str]]) -> Counter[tuple[str, str]]:
    pairs: Counter[tuple[str, str]] = Counter()
    for word, symbols in spelled.items():
        for pair in pairwise(symbols):
            pairs[pair] += words[word]
    return pairs


def _merge(symbols: list[str], pair: tuple[str, str]) -> list[str]:
    merged: list[str] = []
    for symbol in symbols:
        if merged and (merged[-1], symbol) == pair:
            merged[-1] += symbol
        else:
            merged.append(symbol)
    return merged
