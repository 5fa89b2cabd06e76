"""Rewards in the configuration: their names, and how one counts in the sum."""

from __future__ import annotations

import re
from typing import Annotated, ClassVar, Self

from pydantic import AfterValidator, model_validator

from drtune.config.sections import Section

NON_DIFFERENTIABLE = ("jpeg_kilobytes",)
"""Rewards without a gradient: they can be evaluated, and not tuned on."""
PROMPTLESS = ("symmetry", "raw_symmetry", "compressibility", "brightness", "aesthetic", "arniqa", *NON_DIFFERENTIABLE)
"""Rewards that do not read the prompt."""
PUBLISHED = ("aesthetic", "arniqa", "hps", "hps_v2", "hpsv3", "pickscore", "clipscore", "imagereward", "vqascore")
"""Rewards of large networks, whose weights are published."""
CHECKPOINTED = (*PUBLISHED, "dreamsim")
"""What takes weights of yours: those, and the space of features whose weights are on no hub."""
REWARDS = tuple(dict.fromkeys((*PROMPTLESS, "preference", *PUBLISHED)))
"""The rewards that drtune brings; a reward of your own is named `file.py:function` (docs/rewards.md)."""


def is_reward(name: str) -> bool:
    """Whether a reward has this name: one of REWARDS, or your own as file.py:function."""
    return name in REWARDS or re.fullmatch(r".+\.py:[A-Za-z_]\w*", name) is not None


def reward_name(name: str) -> str:
    """The name, if it is a reward's.

    Raises:
        ValueError: there is no such reward.
    """
    if not is_reward(name):
        raise ValueError(f"no reward {name!r}; there are {', '.join(REWARDS)}, and your own as file.py:function")
    return name


RewardName = Annotated[str, AfterValidator(reward_name)]


def published_name(name: str) -> str:
    """The name, if it is that of something that takes weights of yours.

    Raises:
        ValueError: it is not.
    """
    if name not in CHECKPOINTED:
        raise ValueError(f"{name!r} takes no checkpoint; those with published weights do: {', '.join(CHECKPOINTED)}")
    return name


PublishedName = Annotated[str, AfterValidator(published_name)]


class RewardTerm(Section):
    """One reward in the sum that is maximised: weight * r, where r may be bent by one of the other settings."""

    short_for: ClassVar[str | None] = "weight"

    weight: float = 1.0
    """How much it counts beside the others."""
    hinge: float | None = None
    """r counts up to this value: beyond it there is nothing to gain."""
    target: float | None = None
    """r becomes -|r - target|."""
    praise: str | None = None
    """Relative reward (SRPO, Shen et al. 2025): r of the prompt after these words..."""
    blame: str | None = None
    """...minus r of the prompt after these."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.hinge is not None and self.target is not None:
            raise ValueError("hinge and target exclude each other: give one of them")
        if (self.praise is None) != (self.blame is None):
            raise ValueError("a relative reward needs both praise and blame")
        return self
