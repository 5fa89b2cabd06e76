"""Rewards: what a picture is worth. A reward is a callable, and so is a weighted sum of rewards."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Protocol, get_args

from drtune.config import RewardName
from drtune.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

NAMES: tuple[str, ...] = get_args(RewardName)


class Reward(Protocol):
    """Scores images for their prompts: differentiable, higher is better."""

    @property
    def name(self) -> str:
        """What the reward is called in configurations, logs and reports."""

    def __call__(self, images_BCHW: Tensor, prompts: Sequence[str], /) -> Tensor:
        """Rewards (B,) of RGB images (B, 3, H, W) in [0, 1] made for `prompts`."""


def load_reward(name: str) -> Reward:
    """The reward of that name.

    Raises:
        UserError: there is none.
    """
    from drtune.rewards import pixels, preference

    match name:
        case "symmetry":
            return pixels.Symmetry()
        case "compressibility":
            return pixels.Compressibility()
        case "brightness":
            return pixels.Brightness()
        case "preference":
            return preference.MiniaturePreference()
    raise UserError(f"reward {name!r}: no such reward; there are {', '.join(NAMES)}")


class WeightedSum:
    """The sum of rewards, each times its weight; keeps every part of the last call for the log."""

    def __init__(self, parts: Mapping[RewardName, float]) -> None:
        self.rewards = [(load_reward(name), weight) for name, weight in parts.items()]
        self.name = " + ".join(f"{weight:g} {name}" for name, weight in parts.items())
        self.means: dict[str, Tensor] = {}
        """Mean of each part in the last call, before its weight, as a scalar."""

    def __call__(self, images_BCHW: Tensor, prompts: Sequence[str]) -> Tensor:
        """Rewards (B,), as `Reward`."""
        total = images_BCHW.new_zeros(len(images_BCHW))
        for reward, weight in self.rewards:
            part = reward(images_BCHW, prompts)
            self.means[reward.name] = part.detach().mean()
            total = total + weight * part
        return total
