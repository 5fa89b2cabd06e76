"""The agreement that docs/rewards.md tells: finished pictures, scored here and as each reward's original scores them.

The networks are tiny and random, in the layouts that are published. What they see, what they read and what they compute
is written out once more, in Pillow and plain torch.
"""

from __future__ import annotations

import math
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor
from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

from drtune.config import PUBLISHED
from drtune.files.images import open_picture, to_tensor
from drtune.rewards import load_reward, score_finished
from tests.unit import test_arniqa as arniqa
from tests.unit import test_hpsv3 as hpsv3
from tests.unit import test_imagereward as blip
from tests.unit import test_openai_rewards as openai
from tests.unit import test_preference_scores as openclip
from tests.unit import test_vqascore as vqa
from tests.unit.test_openai_rewards import mirror as openai_mirror  # noqa: F401 a fixture
from tests.unit.test_preference_scores import mirror as openclip_mirror  # noqa: F401 a fixture
from tests.words import picture, tokenize

DOCS = Path(__file__).parents[2] / "docs/rewards.md"
AGREEMENT = {
    name: float(apart)
    for name, apart in re.findall(r"^\| `(\w+)` \|.*\| (\d+e-\d+) \|$", DOCS.read_text(encoding="utf-8"), re.MULTILINE)
}
ELSEWHERE = {"arniqa": arniqa, "hpsv3": hpsv3, "imagereward": blip, "vqascore": vqa}
"""Rewards whose files a test makes."""
KINDS = [("RGB", 62, 56), ("RGB", 56, 62), ("L", 90, 60), ("P", 100, 70), ("RGBA", 62, 56), ("CMYK", 41, 67)]
PROMPT = "R&amp;B singer, full-width\uff0ccomma"
MENDED, UNMENDED = "r & b singer, full - width, comma", "r & amp ; b singer, full - width \uff0c comma"
"""The prompt in the words that the tokenizers split it into."""


def levels(image: Image.Image) -> Tensor:
    return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1).double() / 255


def fitted(image: Image.Image, side: int) -> Image.Image:
    short, long = sorted(image.size)
    longer = int(side * long / short)
    return image.resize((side, longer) if image.width <= image.height else (longer, side), Image.Resampling.BICUBIC)


def by_torchvision(image: Image.Image, side: int) -> Tensor:
    """Resize and CenterCrop of the file in its own mode, then RGB."""
    resized = fitted(image, side)
    left, top = round((resized.width - side) / 2), round((resized.height - side) / 2)
    return levels(resized.crop((left, top, left + side, top + side)))


def by_transformers(image: Image.Image, side: int) -> Tensor:
    """RGB, then resized and cropped."""
    resized = fitted(image.convert("RGB"), side)
    left, top = (resized.width - side) // 2, (resized.height - side) // 2
    return levels(resized.crop((left, top, left + side, top + side)))


def by_hps(image: Image.Image, side: int) -> Tensor:
    """Every channel resized in floating point, zeros around."""
    scale = side / max(image.size)
    width, height = round(image.width * scale), round(image.height * scale)
    boxed = torch.zeros(3, side, side, dtype=torch.float64)
    left, top = (side - width) // 2, (side - height) // 2
    for channel, exact in enumerate(levels(image).float().numpy()):
        resized = Image.fromarray(exact).resize((width, height), Image.Resampling.BICUBIC)
        boxed[channel, top : top + height, left : left + width] = torch.from_numpy(np.array(resized))
    return boxed


def original(name: str, image: Image.Image, weights: Path) -> float:
    if name in ("hps", "pickscore"):
        pixels = by_hps(image, openclip.SIDE) if name == "hps" else by_transformers(image, openclip.SIDE)
        cosine = openclip.cosines(pixels[None], [MENDED if name == "hps" else UNMENDED]).item()
        return cosine if name == "hps" else math.exp(3) * cosine
    if name == "arniqa":
        return arniqa.original(image)
    if name == "hpsv3":
        return hpsv3.original([image], [PROMPT])[0, 0].item()
    if name == "vqascore":
        return vqa.original(image, PROMPT)
    if name == "imagereward":
        mean, deviation = (torch.tensor(row)[:, None, None] for row in (OPENAI_CLIP_MEAN, OPENAI_CLIP_STD))
        pixels = (by_torchvision(image, blip.SIDE) - mean.double()) / deviation.double()
        tokens = blip.tokenize([blip.PROMPTS[0]])
        return (blip.raw_scores(pixels[None], tokens, tokens > 0).item() - 0.16717362830052426) / 1.0333394966054072
    exact = {key: tensor.double() for key, tensor in load_file(weights / openai.CLIP / "model.safetensors").items()}
    if name == "clipscore":
        embedding = openai.embed_images(exact, by_transformers(image, openai.SIDE)[None])
        return 100 * (embedding * openai.embed_text(exact, tokenize([UNMENDED]))).sum().item()
    x, head = openai.embed_images(exact, by_torchvision(image, openai.SIDE)[None]), openai.head_state()
    for number in (0, 2, 4, 6, 7):
        x = x @ head[f"layers.{number}.weight"].T.double() + head[f"layers.{number}.bias"].double()
    return x.item()


def test_the_docs_tell_the_agreement_of_every_reward_with_an_original() -> None:
    assert {*AGREEMENT} == {*PUBLISHED} - {"hps_v2"}  # which is the code of hps


@pytest.mark.parametrize("name", sorted(AGREEMENT))
def test_a_finished_picture_has_its_originals_score(
    name: str,
    openclip_mirror: Path,  # noqa: F811
    openai_mirror: Path,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if name in ELSEWHERE:
        ELSEWHERE[name].write_mirror(tmp_path / "weights")
    weights = {"hps": openclip_mirror, "pickscore": openclip_mirror}
    weights |= dict.fromkeys(ELSEWHERE, tmp_path / "weights")
    monkeypatch.setenv("DRTUNE_REWARDS", str(weights.get(name, openai_mirror)))
    reward = load_reward(name, antialias=True)
    prompt = blip.PROMPTS[0] if name == "imagereward" else PROMPT
    apart = []
    for mode, width, height in KINDS:
        image = picture(width, height).convert(mode)
        if mode == "RGBA":
            image.putalpha(picture(width, height).convert("L").rotate(180))
        path = tmp_path / f"{mode}.{'tif' if mode == 'CMYK' else 'png'}"
        image.save(path)
        opened = open_picture(path)
        score = score_finished(reward, [opened], to_tensor([opened]), [prompt]).item()
        with Image.open(path) as file:
            apart.append(abs(score - original(name, file, openai_mirror)))
    print(f"{name}: at most {max(apart):.1e} apart")
    assert max(apart) <= AGREEMENT[name]
