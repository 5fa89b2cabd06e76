"""Finished pictures of any size: in batches of one, and with their scores."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby, islice
from typing import TYPE_CHECKING, TypeVar

from drtune.errors import UserError
from drtune.rewards import Reward, score_finished

if TYPE_CHECKING:
    from PIL import Image
    from torch import Tensor

Item = TypeVar("Item")

PIXELS_AT_ONCE = 4096**2
"""Of the pictures that are scored together. Rewards take up to 90 bytes for each: 1.5 GB."""


def batches(
    opened: Iterable[tuple[Item, Image.Image | None]], batch_size: int
) -> Iterator[tuple[list[Item], list[Image.Image]]]:
    """Items in their order with their pictures, or with none for items without.

    A batch holds pictures of one size: `batch_size` of them at most, and PIXELS_AT_ONCE, if that is not less than one.
    """
    for size, group in groupby(opened, key=lambda pair: None if pair[1] is None else pair[1].size):
        count = batch_size if size is None else max(1, min(batch_size, PIXELS_AT_ONCE // math.prod(size)))
        while batch := list(islice(group, count)):
            yield [item for item, _ in batch], [picture for _, picture in batch if picture is not None]


def reward_columns(
    rewards: Sequence[Reward],
    pictures: Sequence[Image.Image],
    images_BCHW: Tensor,
    prompts: Sequence[str],
    names: Sequence[str],
) -> dict[str, list[float]]:
    """Scores of a batch of finished pictures by reward, as `score_finished`; `names` are the pictures'.

    Raises:
        UserError: a score is not finite; the picture is named.
    """
    columns = {}
    for reward in rewards:
        scores_B = score_finished(reward, pictures, images_BCHW, prompts)
        if (unusable_B := ~scores_B.isfinite()).any():
            picture = names[int(unusable_B.int().argmax())]
            raise UserError(f"reward {reward.name}: not finite for {picture}; look at that picture, or at the reward")
        columns[reward.name] = scores_B.double().tolist()
    return columns
