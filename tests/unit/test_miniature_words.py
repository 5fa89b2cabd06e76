from drtune.models.miniature.words import warning_of
from drtune.models.miniature.world import scenes


def test_the_prompts_of_its_world_are_no_reason_for_a_warning() -> None:
    assert warning_of([scene.caption for scene in scenes(seed=7, count=2000)]) is None


def test_words_that_it_was_never_shown_are_told_once_with_an_example() -> None:
    warning = warning_of(["a red circle, on a white background", "an oil painting of a whale", "Ein Wal"])
    assert warning is not None
    assert warning.startswith("2 of 3 prompts have words that the miniature was never shown, such as 'oil': ")
