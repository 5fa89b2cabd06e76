"""Prompts that differ in their spelling alone, or hardly: none may be on both sides unseen."""

from __future__ import annotations

import json
from itertools import pairwise, product
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from drtune.cli.main import main
from drtune.contracts import PromptSet
from drtune.prompts.likeness import NEARLY, canonical, near_duplicates
from drtune.prompts.prepare import parse, split_of


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("A Cat, asleep!", "a cat asleep"),
        ("a  cat -- asleep", "a cat asleep"),
        ("\uff41 \uff43\uff41\uff54\uff0casleep", "a cat asleep"),
        ("“a cat” asleep…", "a cat asleep"),
        ("Straße ﬁn", "strasse fin"),
        ("a red circle", "a red circle"),
        ("!!!", "!!!"),
    ],
)
def test_case_punctuation_and_spaces_do_not_count(text: str, expected: str) -> None:
    assert canonical(text) == expected


@given(st.text(min_size=1))
def test_case_never_counts_and_twice_is_once(text: str) -> None:
    assert canonical(text.casefold()) == canonical(text)
    assert canonical(canonical(text)) == canonical(text)


def test_spellings_of_one_prompt_are_on_one_side() -> None:
    spelled = [f"a picture of {number} cats" for number in range(200)]
    variants = [[text, text.upper() + "!", text.replace(" ", "  "), text.replace(" of", ", of")] for text in spelled]
    assert {split_of(text) for text in spelled} == {"train", "eval"}
    assert all(len({split_of(text) for text in group}) == 1 for group in variants)
    prompts, problems = parse("\n".join(variants[0]).encode(), "p.txt")
    assert ([prompt.text for prompt in prompts], len(problems)) == (
        ["a picture of 0 cats", variants[0][1], variants[0][3]],
        1,
    )


WORDS = st.lists(st.sampled_from("abcdefgh"), min_size=1, max_size=9).map(" ".join)


@given(st.lists(WORDS, max_size=12), st.lists(WORDS, max_size=12))
def test_all_near_duplicates_are_found_and_no_others(held_out: list[str], trained: list[str]) -> None:
    def pairs(text: str) -> set[tuple[str, ...]]:
        words = text.split()
        return set(pairwise(words)) or {(words[0],)}

    def likeness(left: str, right: str) -> float:
        return len(pairs(left) & pairs(right)) / len(pairs(left) | pairs(right))

    near = near_duplicates(held_out, trained)
    assert [pair.held_out for pair in near] == [
        text for text in held_out if any(likeness(text, other) >= NEARLY for other in trained)
    ]
    for (text, found), other in product(near, trained):
        assert likeness(text, found) >= likeness(text, other)


def test_the_command_tells_how_many_there_are_and_which(tmp_path: Path) -> None:
    rows = [{"text": f"a cat number {number}", "split": "train"} for number in range(7)]
    rows += [{"text": f"A cat, number {number}.", "split": "test"} for number in range(7)]
    rows += [{"text": "a dog", "split": "test"}]
    (tmp_path / "p.jsonl").write_text("\n".join(map(json.dumps, rows)))
    result = CliRunner().invoke(main, ["prompts", str(tmp_path / "p.jsonl"), "--out", str(tmp_path / "set")])
    assert result.exit_code == 0
    first, second, *_, more, _ = result.output.splitlines()
    assert first == "7 prompts to train on, 8 held out; not taken: none; nearly the same on both sides: 7"
    assert second == "held out 'A cat, number 0.' is nearly 'a cat number 0'"
    assert more == f"the others stand in {tmp_path / 'set/near_duplicates.jsonl'}"
    assert len((tmp_path / "set/near_duplicates.jsonl").read_text().splitlines()) == 7
    assert PromptSet.load(tmp_path / "set").near_duplicates == 7
