"""Terms of the sum that is maximised: how each bends its reward, with numbers and gradients."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from drtune.config import RewardTerm, load_config
from drtune.errors import UserError
from drtune.rewards import WeightedSum, bend, load_reward

R = (-1.0, 0.25, 0.5, 2.0)
IMAGES = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
PROMPTS = ["a red circle on grey", "two green squares"]


@pytest.mark.parametrize(
    ("term", "values", "slopes"),
    [
        (RewardTerm(), R, (1, 1, 1, 1)),
        (RewardTerm(hinge=0.5), (-1.0, 0.25, 0.5, 0.5), (1, 1, 1, 0)),
        (RewardTerm(hinge=0.0), (-1.0, 0.0, 0.0, 0.0), (1, 0, 0, 0)),
        (RewardTerm(target=0.5), (-1.5, -0.25, 0.0, -1.5), (1, 1, 0, -1)),
        (RewardTerm(target=0.0), (-1.0, -0.25, -0.5, -2.0), (1, -1, -1, -1)),
    ],
    ids=str,
)
def test_a_term_bends_its_reward(term: RewardTerm, values: Sequence[float], slopes: Sequence[float]) -> None:
    raw = torch.tensor(R, requires_grad=True)
    bent = bend(raw, term)
    bent.sum().backward()
    assert bent.tolist() == list(values)
    assert raw.grad is not None
    assert raw.grad.tolist() == list(slopes)


def reward_of(name: str, images: Tensor = IMAGES, prompts: Sequence[str] = PROMPTS) -> Tensor:
    return load_reward(name, antialias=True)(images, prompts)


def test_a_weighted_sum_is_the_sum_of_its_bent_parts_and_tells_them_raw() -> None:
    terms = {"symmetry": RewardTerm(weight=2.0), "brightness": RewardTerm(weight=-0.5, hinge=0.1)}
    total = WeightedSum.load(terms, antialias=True)
    expected = 2 * reward_of("symmetry") - 0.5 * 0.1
    torch.testing.assert_close(total(IMAGES, PROMPTS), expected)
    total(IMAGES.flip(0)[:1], PROMPTS[:1])  # another batch, of another size, before anybody asks
    means = total.take_means()
    assert list(means) == ["symmetry", "brightness"]
    seen = torch.cat([IMAGES, IMAGES.flip(0)[:1]])
    assert means["brightness"].item() == pytest.approx(reward_of("brightness", seen, PROMPTS * 2).mean().item())


def test_means_are_over_what_was_scored_since_the_last_time() -> None:
    total = WeightedSum.load({"brightness": RewardTerm()}, antialias=True)
    total(torch.zeros(2, 3, 8, 8), PROMPTS)
    total.take_means()
    total(torch.ones(2, 3, 8, 8), PROMPTS)
    with total.unrecorded():
        total(torch.zeros(2, 3, 4, 4), [""] * 2)
    assert total.take_means()["brightness"].item() == pytest.approx(1)


def test_the_gradient_of_a_sum_is_weighted_and_ends_at_the_hinge() -> None:
    terms = {"brightness": RewardTerm(weight=3.0, hinge=0.5)}
    images = torch.stack([torch.full((3, 8, 8), 0.4), torch.full((3, 8, 8), 0.6)]).requires_grad_()
    WeightedSum.load(terms, antialias=True)(images, PROMPTS).sum().backward()
    assert images.grad is not None
    assert images.grad.sum((1, 2, 3)).tolist() == pytest.approx([3.0, 0.0])


def test_a_relative_reward_is_praised_minus_blamed_before_it_is_bent() -> None:
    term = RewardTerm(weight=2.0, praise="a bright", blame="a dark", hinge=0.0)
    total = WeightedSum.load({"preference": term}, antialias=True)
    images = IMAGES.clone().requires_grad_()
    praised, blamed = (
        reward_of("preference", images, [f"{words} {prompt}" for prompt in PROMPTS]) for words in ("a bright", "a dark")
    )
    torch.testing.assert_close(total(images, PROMPTS), 2 * (praised - blamed).clamp(max=0))
    assert total.take_means()["preference"].item() == pytest.approx((praised - blamed).mean().item())


def test_the_gradient_of_a_relative_reward_is_the_difference_of_both() -> None:
    term = RewardTerm(praise="a bright", blame="a dark")
    gradients = []
    for score in (
        WeightedSum.load({"preference": term}, antialias=True),
        lambda images, prompts: reward_of("preference", images, [f"a bright {prompt}" for prompt in prompts]),
        lambda images, prompts: reward_of("preference", images, [f"a dark {prompt}" for prompt in prompts]),
    ):
        images = IMAGES.clone().requires_grad_()
        gradients += torch.autograd.grad(score(images, PROMPTS).sum(), images)
    relative, praised, blamed = gradients
    torch.testing.assert_close(relative, praised - blamed)
    assert relative.abs().max() > 0


def test_the_opposite_of_a_relative_reward_praises_what_is_blamed_and_bends_that() -> None:
    words, swapped = {"praise": "a bright", "blame": "a dark"}, {"praise": "a dark", "blame": "a bright"}
    total = WeightedSum.load({"preference": RewardTerm(weight=2.0, hinge=0.0, **words)}, antialias=True)
    other = WeightedSum.load({"preference": RewardTerm(weight=2.0, hinge=0.0, **swapped)}, antialias=True)
    torch.testing.assert_close(total(IMAGES, PROMPTS, opposite=True), other(IMAGES, PROMPTS))
    plain = WeightedSum.load({"brightness": RewardTerm(weight=2.0, hinge=0.1)}, antialias=True)
    torch.testing.assert_close(plain(IMAGES, PROMPTS, opposite=True), -plain(IMAGES, PROMPTS))


@pytest.mark.parametrize(
    ("opposite", "sought", "avoided"), [(False, "a bright", "a dark"), (True, "a dark", "a bright")]
)
def test_a_surplus_on_what_is_sought_is_in_the_gradient_and_not_in_what_is_told(
    opposite: bool, sought: str, avoided: str
) -> None:
    total = WeightedSum.load({"preference": RewardTerm(praise="a bright", blame="a dark")}, antialias=True)
    images = IMAGES.clone().requires_grad_()
    rewards = total(images, PROMPTS, opposite=opposite, surplus=0.25)
    torch.testing.assert_close(rewards, total(images, PROMPTS, opposite=opposite))
    (gradient,) = torch.autograd.grad(rewards.sum(), images)
    found, against = (
        reward_of("preference", images, [f"{words} {prompt}" for prompt in PROMPTS]) for words in (sought, avoided)
    )
    (expected,) = torch.autograd.grad((1.25 * found - against).sum(), images)
    torch.testing.assert_close(gradient, expected)


def test_a_relative_reward_that_does_not_read_the_prompt_is_refused() -> None:
    with pytest.raises(UserError, match=r"rewards\.symmetry does not read the prompt"):
        load_config(None, ["rewards.symmetry={praise: a, blame: b}"])


def test_a_metric_cannot_be_tuned_on_but_evaluated() -> None:
    with pytest.raises(
        UserError, match=r"^rewards\.jpeg_kilobytes has no gradient and cannot be tuned on: name it in "
    ):
        load_config(None, ["rewards.jpeg_kilobytes=1"])
    config = load_config(
        None, ["evaluation.rewards=[jpeg_kilobytes]", "held_out={reward: jpeg_kilobytes, max_drop: 1}"]
    )
    assert config.reward_names == ["symmetry", "jpeg_kilobytes"]
