"""What votes say: numbers worked out by hand, published ones, and what holds for any votes."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from drtune.cli.main import main
from drtune.contracts import Study, StudyPair, StudyResult
from drtune.errors import UserError
from drtune.evaluation.statistics import wilson
from drtune.evaluation.study.build import make as make_study
from drtune.evaluation.study.measures import Judgement, agreement, krippendorff_alpha, self_consistency, win_rate
from drtune.evaluation.study.strengths import fit, strengths
from drtune.evaluation.study.tally import count as count_votes
from drtune.files.local import sha256_file
from tests.studies import numbered, prefer, votes_of, write_report, write_votes

wins = st.sampled_from([0.0, 0.5, 1.0])
votes = st.lists(st.tuples(st.sampled_from("abcdefgh"), wins), min_size=1, max_size=40)


def judgement(
    wins_left: float, *, rater: str = "ann", prompt: str = "p", left: str = "a", right: str = "b", repeat: bool = False
) -> Judgement:
    return Judgement(rater, prompt, left, right, wins_left, question=prompt, repeat=repeat)


def test_a_win_rate_is_over_votes_and_a_tie_is_half() -> None:
    assert win_rate(["p", "p", "q", "r"], [1, 0.5, 1, 0]).value == 2.5 / 4


def test_votes_that_all_agree_leave_the_doubt_of_as_many_votes_as_prompts() -> None:
    rate = win_rate([f"p{index % 10}" for index in range(50)], [1.0] * 50)
    assert rate == pytest.approx((1.0, *wilson(1.0, 10)))


def test_more_raters_who_say_the_same_make_it_no_surer() -> None:
    prompts = [f"p{index}" for index in range(20)]
    said = [float(index % 3 > 0) for index in range(20)]
    assert win_rate(prompts * 10, said * 10) == win_rate(prompts, said)


def test_prompts_with_many_votes_widen_the_interval_by_the_bootstrap() -> None:
    prompts = ["heavy"] * 50 + [f"p{index}" for index in range(20)]
    said = [1.0] * 50 + [0.0] * 10 + [1.0] * 10
    rate = win_rate(prompts, said)
    assert rate.value == pytest.approx(60 / 70)
    assert rate.low < wilson(60 / 70, 21)[0] - 0.1


def test_the_interval_covers_the_truth_at_least_as_often_as_it_says() -> None:
    rng = np.random.default_rng(2)
    covered = 0
    for _ in range(100):
        chance_P = rng.beta(1.4, 0.6, size=25)  # prompts differ in how far the candidate is ahead: mean 0.7
        said_P3 = rng.random((25, 3)) < chance_P[:, None]
        rate = win_rate([f"p{index // 3}" for index in range(75)], said_P3.ravel().astype(float).tolist())
        covered += rate.low <= 0.7 <= rate.high
    assert covered >= 93


@settings(deadline=None, max_examples=50)
@given(votes)
def test_an_interval_holds_its_value_and_turns_round_with_the_contestants(given_votes: list[tuple[str, float]]) -> None:
    prompts, said = [prompt for prompt, _ in given_votes], [won for _, won in given_votes]
    there, back = win_rate(prompts, said), win_rate(prompts, [1 - won for won in said])
    assert 0 <= there.low <= there.value <= there.high <= 1
    assert there.high - there.low > 0.05
    assert (back.value, back.low, back.high) == pytest.approx((1 - there.value, 1 - there.high, 1 - there.low))


@settings(deadline=None, max_examples=50)
@given(votes, st.integers(0, 39))
def test_one_vote_more_for_a_contestant_never_lowers_an_end(given_votes: list[tuple[str, float]], which: int) -> None:
    prompts, said = [prompt for prompt, _ in given_votes], [won for _, won in given_votes]
    better = list(said)
    better[which % len(better)] = 1.0
    worse, now = win_rate(prompts, said), win_rate(prompts, better)
    assert now.low >= worse.low
    assert now.high >= worse.high


def test_alpha_is_that_of_krippendorffs_example() -> None:
    """Four observers, twelve units, missing values: 0.849 for interval data (Krippendorff 2011)."""
    units = ["111", "2232", "3333", "3333", "2222", "1234", "4444", "1121", "2222", "555", "11", "3"]
    assert krippendorff_alpha([[float(digit) for digit in unit] for unit in units]) == pytest.approx(0.849, abs=5e-4)


def test_alpha_by_hand_and_at_its_ends() -> None:
    # Values 1, 0 twice each; one of two units disagrees: 1 - 3 * (2 * 1) / (2 * 2 * 2) with n = 4.
    assert krippendorff_alpha([[1, 0], [1, 0]]) == pytest.approx(1 - 3 * 4 / 8)
    assert krippendorff_alpha([[1, 1], [0, 0]]) == 1
    assert krippendorff_alpha([[1, 1], [1, 1]]) is None


def test_agreement_is_of_raters_on_first_answers_alone() -> None:
    said = [
        judgement(1.0, rater="ann", prompt="p"),
        judgement(1.0, rater="bob", prompt="p"),
        judgement(0.0, rater="cy", prompt="p"),
        judgement(0.0, rater="ann", prompt="q"),
        judgement(0.0, rater="bob", prompt="q"),
        judgement(1.0, rater="ann", prompt="q", repeat=True),
        judgement(0.5, rater="ann", prompt="r"),
    ]
    alike, alpha = agreement(said)
    assert alike == (2 + 2) / (6 + 2)
    assert alpha == krippendorff_alpha([[1, 1, 0], [0, 0]])
    assert agreement(said[3:4]) == (None, None)


def test_a_rater_is_consistent_who_prefers_the_same_contestant_on_the_other_side() -> None:
    first = [judgement(won, prompt=prompt) for prompt, won in (("p", 1.0), ("q", 0.0), ("r", 0.5), ("s", 1.0))]
    again = [
        judgement(won, prompt=prompt, left="b", right="a", repeat=True)
        for prompt, won in (("p", 0.0), ("q", 0.0), ("r", 0.5))  # the same, the same side, a tie again
    ]
    assert self_consistency(first + again) == (3, 2 / 3)
    assert self_consistency(first) == (0, None)


def test_strengths_of_two_are_the_log_of_their_wins_with_the_virtual_tie() -> None:
    [found] = fit(np.array([[[0, 7.0], [2.0, 0]]]))
    assert found[0] - found[1] == pytest.approx(math.log(7.5 / 2.5))
    assert found.sum() == pytest.approx(0)


def test_strengths_make_the_wins_that_were_expected() -> None:
    """At the maximum each contestant's wins equal those that the strengths predict; that is the likelihood equation."""
    wins_KK = np.random.default_rng(1).integers(0, 9, (4, 4)).astype(float) * (1 - np.eye(4))
    [found] = fit(wins_KK[None])
    wins_KK += 0.5 * (1 - np.eye(4))
    chance_KK = 1 / (1 + np.exp(found[None, :] - found[:, None]))
    np.testing.assert_allclose(((wins_KK + wins_KK.T) * chance_KK).sum(axis=1), wins_KK.sum(axis=1), rtol=1e-6)


def test_who_always_wins_is_strongest_by_a_finite_and_uncertain_strength() -> None:
    said = [
        judgement(1.0, prompt=f"{left}{right}{index}", left=left, right=right)
        for left, right in ("ab", "ac", "bc")
        for index in range(5)
    ]
    found = strengths(["c", "a", "b"], said)
    assert [strength.contestant for strength in found] == ["a", "b", "c"]
    assert all(strength.low < strength.strength - 0.3 and strength.strength + 0.3 < strength.high for strength in found)
    assert sum(strength.strength for strength in found) == pytest.approx(0, abs=1e-6)


def test_strengths_of_equals_are_zero() -> None:
    said = [judgement(0.5, prompt=left + right, left=left, right=right) for left, right in ("ab", "ac", "bc")]
    assert [strength.strength for strength in strengths(["a", "b", "c"], said)] == pytest.approx([0, 0, 0])


@pytest.fixture
def study(tmp_path: Path) -> Path:
    report = write_report(tmp_path / "report", numbered(20))
    make_study(report, tmp_path / "study", repeat=0.2)
    return tmp_path / "study"


def test_a_study_is_counted_from_its_files_to_the_contract(tmp_path: Path, study: Path) -> None:
    key = Study.load(study)
    by_prompt = {pair.prompt: index for index, pair in enumerate(key.pairs) if pair.repeats is None}

    def half(pair: StudyPair) -> str:
        return "tie" if by_prompt[pair.prompt] % 2 else prefer("candidate")(pair)

    ann = write_votes(tmp_path / "1.json", votes_of(key, prefer("candidate"), rater="ann"))
    bob = write_votes(tmp_path / "2.json", votes_of(key, half, rater="bob"))
    cy = write_votes(tmp_path / "3.json", votes_of(key, lambda _: "left", rater="cy"))
    result = count_votes([cy, ann, bob], study, tmp_path / "result")

    ties = sum(index % 2 for index in by_prompt.values())
    preference = result.preference("candidate", "base")
    assert preference is not None
    assert (preference.num_votes, preference.num_prompts, preference.num_raters) == (60, 20, 3)
    assert preference.win_rate == pytest.approx((20 + (20 - ties / 2) + 10) / 60)  # always left is half
    assert preference.win_low < preference.win_rate < preference.win_high
    assert [rater.rater for rater in result.raters] == ["ann", "bob", "cy"]
    assert [rater.self_consistency for rater in result.raters] == [1.0, 1.0, 0.0]
    assert (result.num_votes, result.num_repeats, result.self_consistency) == (60, 12, pytest.approx(2 / 3))
    assert result.strengths == ()
    assert result.votes_sha256 == {"ann": sha256_file(ann), "bob": sha256_file(bob), "cy": sha256_file(cy)}
    assert result.study_sha256 == sha256_file(study / "manifest.json")
    assert result.report_sha256 == sha256_file(tmp_path / "report" / "manifest.json")
    assert StudyResult.load(tmp_path / "result") == result
    again = count_votes([ann, bob, cy], study, tmp_path / "again")
    assert again == result


def test_a_preference_can_be_asked_for_from_either_side(tmp_path: Path, study: Path) -> None:
    votes = write_votes(tmp_path / "votes.json", votes_of(Study.load(study), prefer("candidate")))
    result = count_votes([votes], study, tmp_path / "result")
    there, back = result.preference("candidate", "base"), result.preference("base", "candidate")
    assert there is not None
    assert back is not None
    assert (there.win_rate, there.win_high) == (1.0, 1.0)
    assert (back.contestant, back.opponent, back.win_rate, back.win_low) == ("base", "candidate", 0.0, 0.0)
    assert back.win_high == pytest.approx(1 - there.win_low)
    assert result.preference("candidate", "midjourney") is None


def test_three_contestants_get_strengths_and_only_those_that_met_a_preference(tmp_path: Path) -> None:
    names = ("candidate", "base", "midjourney")
    report = write_report(tmp_path / "report", numbered(12), contestants=names)
    key = make_study(report, tmp_path / "study", contestants=names, count=12, repeat=0)
    votes = votes_of(key, lambda pair: "left" if names.index(pair.left) < names.index(pair.right) else "right")
    result = count_votes([write_votes(tmp_path / "v.json", votes)], tmp_path / "study", tmp_path / "result")
    assert [found.contestant for found in result.strengths] == list(names)
    assert [found.win_rate for found in result.preferences] == [1, 1, 1]
    assert (result.alpha, result.agreement, result.self_consistency) == (None, None, None)

    votes["votes"] = votes["votes"][:1]
    few = count_votes([write_votes(tmp_path / "few.json", votes)], tmp_path / "study", tmp_path / "few")
    assert len(few.preferences) == 1
    assert len(few.strengths) == 3


def test_the_command_tells_the_result_and_what_raters_call_themselves_stays_text(tmp_path: Path, study: Path) -> None:
    name = "<img src=x onerror=alert(1)> | [x](y)"
    votes = write_votes(tmp_path / "votes.json", votes_of(Study.load(study), prefer("candidate"), rater=name))
    arguments = ["study", "count", str(votes), "--study", str(study), "--out", str(tmp_path / "result")]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0
    *_, verdict, last = result.stdout.splitlines()
    assert verdict == "candidate is preferred to base: 100.0% (83.9% to 100.0%) of 20 votes on 20 prompts by 1 rater"
    assert last == f"result: {tmp_path / 'result' / 'result.md'}"
    page = (tmp_path / "result" / "result.md").read_text(encoding="utf-8")
    assert "<" not in page
    rows = [line for line in page.splitlines() if line.startswith("| &lt;img")]
    assert len(rows) == 1
    assert rows[0].replace("\\|", "").count("|") == 7
    assert CliRunner().invoke(main, arguments).exit_code == 2
    assert CliRunner().invoke(main, [*arguments, "--overwrite"]).exit_code == 0


def test_equal_votes_are_no_clear_preference_and_lost_ones_the_opponents(tmp_path: Path, study: Path) -> None:
    key = Study.load(study)
    said = []
    for index, choose in enumerate((lambda _: "tie", prefer("base"))):
        votes = write_votes(tmp_path / f"{index}.json", votes_of(key, choose))
        out = str(tmp_path / f"out{index}")
        said.append(
            CliRunner().invoke(main, ["study", "count", str(votes), "--study", str(study), "--out", out]).stdout
        )
    assert "no clear preference: 50.0% (" in said[0]
    assert "base is preferred to candidate: 0.0% (0.0% to 16.1%) for candidate" in said[1]


def test_votes_are_never_overwritten_by_their_result(tmp_path: Path, study: Path) -> None:
    votes = write_votes(tmp_path / "votes.json", votes_of(Study.load(study), prefer("candidate")))
    for place in (votes, study):
        with pytest.raises(UserError, match="is what it would be made from"):
            count_votes([votes], study, place, overwrite=True)
