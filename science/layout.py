"""A reward of layout: how far to the left the objects are. As any reward of one's own, one function in a file."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

FLOOR = 0.02
"""Added to the mean weight: an empty picture, whose few weights are noise, is worth nothing."""


def left_half(images_BCHW: Tensor, _prompts: Sequence[str]) -> Tensor:
    """Rewards (B,) in [-1, 1]: 1 where everything is at the left edge, 0 in the middle or in an empty picture.

    The mean of 1 - 2u over the picture, u in [0, 1] from left to right, weighted by the squared distance of each pixel
    to the mean colour of the picture's border. To erase what is on the left loses, and what is on the right cannot gain
    more by being erased than to 0: all beyond comes from objects on the left.
    """
    top_and_bottom_BC2W, left_and_right_BCH2 = images_BCHW[..., (0, -1), :], images_BCHW[..., (0, -1)]
    border_BCN = torch.cat([top_and_bottom_BC2W.flatten(2), left_and_right_BCH2.flatten(2)], dim=-1)
    background_BC11 = border_BCN.mean(-1)[..., None, None]
    weight_BHW = (images_BCHW - background_BC11).square().mean(1)
    width = images_BCHW.shape[-1]
    u_W = (torch.arange(width, device=images_BCHW.device) + 0.5) / width
    return (weight_BHW * (1 - 2 * u_W)).mean((1, 2)) / (weight_BHW.mean((1, 2)) + FLOOR)
