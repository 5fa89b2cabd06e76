"""Rewards: what a picture is worth. A reward is a callable, and so is a weighted sum of rewards.

It may know models (the miniature's place), config and what stands below; it knows no method.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, Self

from drtune.config import PUBLISHED, REWARDS, Config, RewardTerm
from drtune.errors import UserError

if TYPE_CHECKING:
    from PIL import Image
    from torch import Tensor


class Reward(Protocol):
    """Scores images for their prompts: differentiable, higher is better."""

    @property
    def name(self) -> str:
        """What the reward is called in configurations, logs and reports."""

    @property
    def provenance(self) -> str:
        """What the scores of finished pictures hang on besides them and prompts: digests, how it resizes; or ""."""

    def __call__(self, images_BCHW: Tensor, prompts: Sequence[str], /) -> Tensor:
        """Rewards (B,) of RGB images (B, 3, H, W) in [0, 1] made for `prompts`."""


def load_reward(
    name: str,
    *,
    antialias: bool,
    checkpoint: str | Path | None = None,
    differentiable: bool = False,
    model_folder: Path | None = None,
) -> Reward:
    """The reward of that name, which the configuration has checked to be one; its weights are loaded.

    Args:
        name: one of REWARDS, or your own as `file.py:function`.
        antialias: whether images are resized with antialias, by the rewards that resize.
        checkpoint: of one whose weights are published: a file or a folder with others in their place.
        differentiable: refuse your own reward when no gradient reaches the images.
        model_folder: a tuned model's; the copy of your own file that is kept there comes before the file itself.

    Raises:
        UserError: its weights or its file cannot be loaded, or your own function is no reward.
    """
    from drtune.rewards import arniqa, files, hpsv3, imagereward, openai, own, pixels, preference, vqascore

    if checkpoint is not None and name not in PUBLISHED:
        raise UserError(f"reward {name}: takes no checkpoint {checkpoint}; those that do: {', '.join(PUBLISHED)}")
    given = None if checkpoint is None else Path(checkpoint).expanduser()
    if name not in REWARDS:
        return own.OwnReward(name, files.file_of(name, model_folder), differentiable=differentiable)
    computed: dict[str, Callable[[], Reward]] = {
        "symmetry": pixels.Symmetry,
        "raw_symmetry": pixels.RawSymmetry,
        "compressibility": pixels.Compressibility,
        "brightness": pixels.Brightness,
        "jpeg_kilobytes": pixels.JpegKilobytes,
    }
    published: dict[str, Callable[..., Reward]] = {
        "hps": preference.HumanPreferenceScore.load,
        "hps_v2": preference.HumanPreferenceScoreV20.load,
        "hpsv3": hpsv3.HPSv3.load,
        "pickscore": preference.PickScore.load,
        "clipscore": openai.CLIPScore.load,
        "aesthetic": openai.Aesthetic.load,
        "arniqa": arniqa.Arniqa.load,
        "imagereward": imagereward.ImageReward.load,
        "vqascore": vqascore.VQAScore.load,
    }
    if name in computed:
        return computed[name]()
    if name == "preference":
        return preference.MiniaturePreference(antialias=antialias)
    return published[name](antialias=antialias, checkpoint=given)


def reward_of(config: Config, name: str, model_folder: Path | None = None) -> Reward:
    """`load_reward` of the weights, and with the resizing, that the configuration says."""
    checkpoint = config.reward_checkpoints.get(name)
    return load_reward(name, antialias=config.reward_antialias, checkpoint=checkpoint, model_folder=model_folder)


def score_finished(
    reward: Reward, pictures: Sequence[Image.Image], images_BCHW: Tensor, prompts: Sequence[str]
) -> Tensor:
    """Rewards (B,) of finished pictures, as the reward's original scores files; the scores of all that is compared.

    Args:
        reward: the one that judges; its gradient is not wanted.
        pictures: of one size, as `files.images.open_picture` reads them.
        images_BCHW: the same in RGB and [0, 1], where the reward is to compute.
        prompts: one for each picture.
    """
    from drtune.rewards.preprocessing import NetworkReward

    if isinstance(reward, NetworkReward):
        return reward.of_pictures(pictures, prompts, images_BCHW.device)
    return reward(images_BCHW, prompts)


class WeightedSum:
    """The sum of rewards, each bent as its term says and times its weight; collects every part for the log."""

    def __init__(self, terms: Sequence[tuple[Reward, RewardTerm]]) -> None:
        self.terms = terms
        self.collected: dict[str, list[Tensor]] = {reward.name: [] for reward, _ in terms}

    @classmethod
    def load(
        cls, terms: Mapping[str, RewardTerm], *, antialias: bool, checkpoints: Mapping[str, str] | None = None
    ) -> Self:
        """The sum of the rewards of these names, as `load_reward`; each must be differentiable."""
        given = checkpoints or {}
        return cls(
            [
                (load_reward(name, antialias=antialias, checkpoint=given.get(name), differentiable=True), term)
                for name, term in terms.items()
            ]
        )

    def __call__(
        self, images_BCHW: Tensor, prompts: Sequence[str], *, opposite: bool = False, surplus: float = 0.0
    ) -> Tensor:
        """Rewards (B,), as `Reward`.

        Args:
            images_BCHW: as `Reward` takes them.
            prompts: likewise.
            opposite: what is blamed in the place of what is praised, and minus a reward that is not relative.
            surplus: how far above 1 the prompt that is sought counts in the gradient of a relative reward.
        """
        total = images_BCHW.new_zeros(len(images_BCHW))
        for (reward, term), collected in zip(self.terms, self.collected.values(), strict=True):
            if term.praise is None:
                raw, sign = reward(images_BCHW, prompts), -1 if opposite else 1
            else:
                raw, sign = _relative(reward, term, images_BCHW, prompts, opposite=opposite, surplus=surplus), 1
            collected.append(raw.detach())
            total = total + sign * term.weight * bend(raw, term)
        return total

    @contextmanager
    def unrecorded(self) -> Iterator[None]:
        """Within, rewards are worth what they are, and nothing is collected."""
        collected, self.collected = self.collected, {name: [] for name in self.collected}
        yield
        self.collected = collected

    def take_means(self) -> dict[str, Tensor]:
        """Mean of each part, before it was bent and weighted, over all that was scored since the last time."""
        import torch

        means = {name: torch.cat(parts).mean() for name, parts in self.collected.items()}
        for parts in self.collected.values():
            parts.clear()
        return means


def bend(raw: Tensor, term: RewardTerm) -> Tensor:
    """min(r, hinge), which has no gradient beyond the hinge; or -|r - target|; or r as it is."""
    if term.hinge is not None:
        return raw.clamp(max=term.hinge)
    if term.target is not None:
        return -(raw - term.target).abs()
    return raw


def _relative(
    reward: Reward,
    term: RewardTerm,
    images_BCHW: Tensor,
    prompts: Sequence[str],
    *,
    opposite: bool,
    surplus: float,
) -> Tensor:
    """Praised minus blamed (SRPO, Shen et al. 2025, arXiv 2509.06942), or the opposite of it.

    A surplus is in the gradient alone, so that what is told of different steps compares.
    """
    sought, avoided = (term.blame, term.praise) if opposite else (term.praise, term.blame)
    found = reward(images_BCHW, [f"{sought} {prompt}" for prompt in prompts])
    against = reward(images_BCHW, [f"{avoided} {prompt}" for prompt in prompts])
    return found + surplus * (found - found.detach()) - against
