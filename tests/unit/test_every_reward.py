"""What every reward must fulfil: its gradient, one picture at a time, its name, and what it says of itself.

Those with public weights have tiny random ones here, in the layout in which the real ones are published.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from drtune.config import NON_DIFFERENTIABLE, REWARDS
from drtune.files.images import to_pil, to_tensor
from drtune.models.miniature.world import draw, scenes
from drtune.rewards import Reward, load_reward, score_finished
from tests.unit import test_arniqa, test_hpsv3, test_imagereward, test_vqascore
from tests.unit.test_openai_rewards import mirror as openai_mirror  # noqa: F401 a fixture
from tests.unit.test_preference_scores import mirror as openclip_mirror  # noqa: F401 a fixture
from tests.words import PROMPTS, random_images

DRAWN = scenes(seed=123, count=8)
IN_FLOATS = {"preference", "hps", "hps_v2", "arniqa"}
IN_8_BITS = {"pickscore", "clipscore", "aesthetic", "imagereward", "hpsv3", "vqascore"}


@dataclass(frozen=True)
class Case:
    """What a reward is tried on, and how exactly."""

    images: Tensor
    prompts: list[str]
    step: float
    """Of the finite differences, each of which may be wrong by `error` of itself."""
    error: float
    steepest: float
    """At least so steep is it somewhere, in reward per level of a pixel."""
    apart: tuple[float, float]
    """By how much (relative, absolute) scores may differ that are computed together or alone."""


# Rounding jumps: a longer step would cross some of the edges of compressibility.
OF_DRAWINGS = Case(
    draw(DRAWN, seed=124),
    [scene.caption for scene in DRAWN],
    step=1e-8,
    error=1e-3,
    steepest=1e-6,
    apart=(1e-4, 1e-5),
)
OF_NOISE = Case(
    0.2 + 0.6 * random_images(3, 3, 36, 50), PROMPTS, step=1e-6, error=1e-6, steepest=1e-5, apart=(1e-5, 1e-6)
)
OPENAI = replace(OF_NOISE, apart=(1e-5, 1e-5))
CASES = {
    **dict.fromkeys(REWARDS, OF_DRAWINGS),
    **dict.fromkeys(("hps", "hps_v2", "pickscore"), OF_NOISE),
    **dict.fromkeys(("clipscore", "aesthetic"), OPENAI),
    "imagereward": replace(
        OF_NOISE, prompts=test_imagereward.PROMPTS, step=1e-5, error=1e-5, steepest=1e-6, apart=(1e-4, 1e-5)
    ),
    "arniqa": OF_NOISE,
    # The norms of these compute in single precision, whatever they are.
    "vqascore": replace(OF_NOISE, step=5e-4, error=2e-3),
    "hpsv3": replace(OF_NOISE, step=5e-4, error=2e-3),
}


@pytest.fixture(scope="module")
def weights(openclip_mirror: Path, openai_mirror: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:  # noqa: F811
    """The folders with the public weights of the rewards that have some."""
    blip = tmp_path_factory.mktemp("blip")
    test_imagereward.write_mirror(blip)
    qwen = tmp_path_factory.mktemp("qwen")
    test_vqascore.write_mirror(qwen)
    test_hpsv3.write_mirror(qwen)
    resnet = tmp_path_factory.mktemp("resnet")
    test_arniqa.write_mirror(resnet)
    return {
        **dict.fromkeys(("hps", "hps_v2", "pickscore"), openclip_mirror),
        **dict.fromkeys(("clipscore", "aesthetic"), openai_mirror),
        "imagereward": blip,
        "arniqa": resnet,
        **dict.fromkeys(("hpsv3", "vqascore"), qwen),
    }


@pytest.fixture
def reward(name: str, weights: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> Reward:
    monkeypatch.setenv("DRTUNE_REWARDS", str(weights.get(name, "nowhere")))
    return load_reward(name, antialias=True)


@pytest.mark.parametrize("name", sorted({*REWARDS} - {*NON_DIFFERENTIABLE}))
def test_the_gradient_to_the_pixels_is_that_of_finite_differences(name: str, reward: Reward) -> None:
    case = CASES[name]
    images, prompts = case.images[:2].double().requires_grad_(), case.prompts[:2]
    direction = torch.randn(images.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    (gradient,) = torch.autograd.grad(reward(images, prompts).sum(), images)
    with torch.no_grad():
        above, below = (reward(images + sign * case.step * direction, prompts).sum() for sign in (1, -1))
    slope = float((above - below) / (2 * case.step))
    assert float((gradient * direction).sum()) == pytest.approx(slope, rel=case.error)
    assert gradient.abs().max() > case.steepest


@pytest.mark.parametrize("name", sorted(REWARDS))
def test_every_picture_is_scored_by_itself(name: str, reward: Reward) -> None:
    case = CASES[name]
    together = reward(case.images, case.prompts)
    alone = [reward(case.images[i : i + 1], case.prompts[i : i + 1]) for i in range(len(case.images))]
    assert together.shape == (len(case.images),)
    relative, absolute = case.apart
    torch.testing.assert_close(together, torch.cat(alone), rtol=relative, atol=absolute)


@pytest.mark.parametrize("name", sorted(REWARDS))
def test_it_has_its_name_and_tells_in_one_line_how_it_resizes(name: str, reward: Reward) -> None:
    assert reward.name == name
    rough = load_reward(name, antialias=False)
    assert "\n" not in reward.provenance
    if name in IN_FLOATS:
        assert reward.provenance.endswith("resized with antialias")
        assert rough.provenance == reward.provenance.replace("resized with antialias", "resized without antialias")
    else:
        assert rough.provenance == reward.provenance
        assert "antialias" not in reward.provenance
        assert ("resized by Pillow in 8 bits" in reward.provenance) == (name in IN_8_BITS)


@pytest.mark.parametrize("name", sorted(REWARDS))
def test_no_reward_keeps_a_trace_of_an_earlier_call(
    name: str, reward: Reward, weights: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DRTUNE_REWARDS", str(weights.get(name, "nowhere")))
    case = CASES[name]
    fresh = load_reward(name, antialias=True)(case.images[:1], case.prompts[:1])
    for dtype in (torch.bfloat16, torch.float16, torch.float64):
        reward(case.images.to(dtype), case.prompts)  # in another precision, and the prompt among others
    assert torch.equal(reward(case.images[:1], case.prompts[:1]), fresh)


@pytest.mark.parametrize("name", sorted({*REWARDS} - {*NON_DIFFERENTIABLE}))
def test_a_finished_picture_scores_about_what_it_scored_while_it_was_made(name: str, reward: Reward) -> None:
    case = CASES[name]
    pictures = to_pil(case.images)
    finished = score_finished(reward, pictures, to_tensor(pictures), case.prompts)
    made = reward(case.images, case.prompts)
    assert (finished - made).abs().max() < 0.05 * max(1, made.abs().max().item())
