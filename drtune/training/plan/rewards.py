"""Rewards without their weights: the published ones by their architecture, the others as they are."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import (
    BlipTextConfig,
    BlipTextModel,
    BlipVisionConfig,
    BlipVisionModel,
    CLIPConfig,
    CLIPModel,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2VLConfig,
    Qwen2VLModel,
    ResNetConfig,
    ResNetModel,
)

from drtune.rewards import Reward, load_reward
from drtune.rewards.arniqa import Arniqa
from drtune.rewards.clip import Towers, TowersReward
from drtune.rewards.head import Head
from drtune.rewards.hpsv3 import new_head
from drtune.rewards.imagereward import TOKENS, ImageReward, Network
from drtune.rewards.openai import Aesthetic, CLIPScore
from drtune.rewards.preference import HumanPreferenceScore, HumanPreferenceScoreV20, PickScore
from drtune.training.plan.architectures import Ruler
from drtune.training.plan.published import published

HEAD_WIDTH, RESNET_WIDTH = 768, 2048
VISION_LANGUAGE = frozenset({"hpsv3", "vqascore"})
"""Rewards of a vision-language model."""


class WeightsAlone:
    """Stands in for a vision-language reward, which looks at values: its network takes room, and is not computed."""

    provenance = "no weights"

    def __init__(self, name: str, network: nn.Module) -> None:
        self.name = name
        self.network = network.bfloat16().requires_grad_(False)

    def __call__(self, images_BCHW: Tensor, _prompts: Sequence[str], /) -> Tensor:
        """Something (B,) that hangs on the images."""
        return images_BCHW.mean((1, 2, 3))


def reward_shell(name: str, *, antialias: bool) -> Reward:
    """The reward of that name; the network of one whose weights are on the hub is on the device `meta`."""
    told = "no weights"
    match name:
        case "hps":
            return HumanPreferenceScore(_towers("vit_h_14"), told, antialias=antialias)
        case "hps_v2":
            return HumanPreferenceScoreV20(_towers("vit_h_14"), told, antialias=antialias)
        case "pickscore":
            return PickScore(_towers("vit_h_14"), told, antialias=antialias)
        case "clipscore":
            return CLIPScore(_towers("vit_l_14"), told, antialias=antialias)
        case "aesthetic":
            with torch.device("meta"):
                return Aesthetic(_clip("vit_l_14"), Head(HEAD_WIDTH), told, antialias=antialias)
        case "arniqa":
            with torch.device("meta"):
                encoder = ResNetModel(ResNetConfig())
                return Arniqa(encoder, nn.Linear(2 * RESNET_WIDTH, 1), told, antialias=antialias)
        case "imagereward":
            return ImageReward(_blip(), Ruler(TOKENS), told, antialias=antialias)
        case "hpsv3":
            with torch.device("meta"):
                network = Qwen2VLModel(Qwen2VLConfig(**published()["parts"]["qwen2_vl_7b"]))
                head = new_head(network.config.text_config.hidden_size)
                return WeightsAlone(name, nn.ModuleList([network, head]))
        case "vqascore":
            with torch.device("meta"):
                config = Qwen2_5_VLConfig(**published()["parts"]["qwen2_5_vl_7b"])
                return WeightsAlone(name, Qwen2_5_VLForConditionalGeneration(config))
    return load_reward(name, antialias=antialias)


def networks(rewards: Iterable[Reward]) -> list[nn.Module]:
    """The networks among the rewards, in fp32 as pictures are, and held there: fake tensors cannot be moved.

    Those that are not computed stay as they are.
    """
    found = [
        network if isinstance(reward, WeightsAlone) else network.float()
        for reward in rewards
        for network in _networks_of(reward)
    ]
    for network in found:
        network.to = lambda *_: None
    return found


def _networks_of(reward: Reward) -> list[Any]:
    match reward:
        case WeightsAlone():
            return [reward.network]
        case TowersReward():
            return [reward.towers.model]
        case Aesthetic():
            return [reward.vision, reward.projection, reward.head]
        case Arniqa():
            return [reward.encoder, reward.rating]
        case ImageReward():
            return [reward.network.vision, reward.network.text, reward.network.head]
    return []


def _clip(architecture: str) -> CLIPModel:
    with torch.device("meta"):
        return CLIPModel(CLIPConfig.from_dict(published()["parts"][architecture]))


def _towers(architecture: str) -> Towers:
    model = _clip(architecture)
    return Towers(model, Ruler(model.config.text_config.max_position_embeddings))


def _blip() -> Network:
    sizes = published()["parts"]["blip_l"]
    with torch.device("meta"):
        return Network(
            BlipVisionModel(BlipVisionConfig(**sizes["vision_config"])),
            BlipTextModel(BlipTextConfig(**sizes["text_config"]), add_pooling_layer=False),
            Head(HEAD_WIDTH),
        )
