"""What a run draws: functions of the seed and of the update's number, whoever asks and however often."""

from __future__ import annotations

import torch

from drtune.methods.draws import Draws, generator_of

DRAWS = Draws(seed=3, num_prompts=7, batch_size=2, latents_shapes=((4, 2, 3),))


def test_an_epoch_shows_every_prompt_once_and_the_next_one_in_another_order() -> None:
    drawn = [DRAWS.prompt(step, slot) for step in range(1, 8) for slot in range(2)]
    assert sorted(drawn[:7]) == sorted(drawn[7:]) == list(range(7))
    assert drawn[:7] != drawn[7:]


def test_a_batch_larger_than_the_prompts_goes_on_with_the_next_epoch() -> None:
    draws = Draws(seed=3, num_prompts=3, batch_size=8, latents_shapes=((1, 1, 1),))
    assert sorted(draws.prompt(1, slot) for slot in range(6)) == [0, 0, 1, 1, 2, 2]


def test_noise_is_that_of_the_slot_whichever_process_asks_for_it() -> None:
    whole = DRAWS.noise(5, range(4))
    assert whole.shape == (4, 4, 2, 3)
    assert torch.equal(torch.cat([DRAWS.noise(5, range(2)), DRAWS.noise(5, range(2, 4))]), whole)


def test_sizes_take_turns_and_all_slots_of_an_update_have_the_same() -> None:
    draws = Draws(seed=3, num_prompts=7, batch_size=2, latents_shapes=((4, 2, 3), (4, 3, 2)))
    assert [draws.noise(step, range(2)).shape for step in (1, 2, 3)] == [(2, 4, 2, 3), (2, 4, 3, 2), (2, 4, 2, 3)]
    assert torch.equal(draws.noise(3, range(2)), DRAWS.noise(3, range(2)))


def test_noise_differs_by_update_slot_seed_and_key() -> None:
    other_seed = Draws(seed=4, num_prompts=7, batch_size=2, latents_shapes=((4, 2, 3),))
    drawn = [
        DRAWS.noise(5, range(1)),
        DRAWS.noise(6, range(1)),
        DRAWS.noise(5, range(1, 2)),
        DRAWS.noise(5, range(1), "fresh", 0),
        DRAWS.noise(5, range(1), "fresh", 1),
        other_seed.noise(5, range(1)),
    ]
    assert len({tuple(noise.flatten().tolist()) for noise in drawn}) == len(drawn)


def test_noise_is_unit_noise() -> None:
    draws = Draws(seed=0, num_prompts=1, batch_size=1, latents_shapes=((4, 64, 64),))
    noise = draws.noise(1, range(1))
    assert abs(float(noise.mean())) < 0.03
    assert abs(float(noise.std()) - 1) < 0.03


def test_a_generator_depends_on_its_key_alone() -> None:
    torch.manual_seed(1)
    first = torch.rand(3, generator=generator_of(0, "plan", 12))
    torch.manual_seed(2)
    assert torch.equal(torch.rand(3, generator=generator_of(0, "plan", 12)), first)
    assert not torch.equal(torch.rand(3, generator=generator_of(0, "plan", 1, 2)), first)
