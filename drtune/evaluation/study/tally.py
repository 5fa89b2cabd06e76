"""Counting the votes of a study."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from pathlib import Path

from drtune.contracts import MANIFEST, Preference, RaterResult, Study, StudyResult
from drtune.evaluation.study.measures import Judgement, agreement, self_consistency, win_rate
from drtune.evaluation.study.strengths import strengths
from drtune.evaluation.study.summary import as_markdown
from drtune.evaluation.study.votes import Ballot, read_ballots
from drtune.files.local import replacing, sha256_file, write_text
from drtune.files.output import claimed

RESULT = "result.md"
WINS_LEFT = {"left": 1.0, "right": 0.0, "tie": 0.5}


def count(votes: Sequence[str | Path], study: str | Path, out: str | Path, *, overwrite: bool = False) -> StudyResult:
    """Take the blinding off the votes, count them, and write a StudyResult and `result.md` to `out`.

    Win rates are over votes; repeats count for self-consistency alone. The order of the files does not matter.

    Args:
        votes: files that the page saved, one a rater; part of a study is enough.
        study: folder that `make` wrote.
        out: folder that is written, whole or not at all.
        overwrite: replace what stands at `out`.

    Raises:
        UserError: a file or the study cannot be used, or something stands at `out`.
    """
    study = Path(study)
    with claimed(out, "StudyResult", overwrite=overwrite, inputs=[study, *votes]) as out:
        key = Study.load(study)
        ballots = sorted(read_ballots(votes, key), key=lambda ballot: ballot.rater)
        judgements = [vote for ballot in ballots for vote in _unblinded(ballot, key)]
        first = [vote for vote in judgements if not vote.repeat]
        num_repeats, consistency = self_consistency(judgements)
        alike, alpha = agreement(judgements)
        result = StudyResult(
            study_sha256=sha256_file(study / MANIFEST),
            report_sha256=key.report_sha256,
            votes_sha256={ballot.rater: ballot.sha256 for ballot in ballots},
            num_votes=len(first),
            num_repeats=num_repeats,
            num_prompts=len({vote.prompt for vote in first}),
            num_raters=len(ballots),
            preferences=_preferences(key.contestants, first),
            raters=tuple(_rater_result(ballot.rater, key.contestants, judgements) for ballot in ballots),
            self_consistency=consistency,
            agreement=alike,
            alpha=alpha,
            strengths=strengths(key.contestants, first) if len(key.contestants) > 2 else (),
        )
        with replacing(out) as folder:
            folder.mkdir()
            write_text(folder / RESULT, as_markdown(result, key))
            result.save(folder)
        return result


def _unblinded(ballot: Ballot, study: Study) -> list[Judgement]:
    """A rater's votes, in the study's order."""
    return [
        Judgement(
            rater=ballot.rater,
            prompt=pair.prompt,
            left=pair.left,
            right=pair.right,
            wins_left=WINS_LEFT[ballot.choices[pair.id]],
            question=pair.repeats or pair.id,
            repeat=pair.repeats is not None,
        )
        for pair in study.pairs
        if pair.id in ballot.choices
    ]


def _preferences(contestants: Sequence[str], votes: Sequence[Judgement]) -> tuple[Preference, ...]:
    found = []
    for contestant, opponent in combinations(contestants, 2):
        met = [vote for vote in votes if {vote.left, vote.right} == {contestant, opponent}]
        if met:
            rate = win_rate([vote.prompt for vote in met], [vote.wins(contestant) for vote in met])
            found.append(
                Preference(
                    contestant=contestant,
                    opponent=opponent,
                    num_votes=len(met),
                    num_prompts=len({vote.prompt for vote in met}),
                    num_raters=len({vote.rater for vote in met}),
                    win_rate=rate.value,
                    win_low=rate.low,
                    win_high=rate.high,
                )
            )
    return tuple(found)


def _rater_result(rater: str, contestants: Sequence[str], judgements: Sequence[Judgement]) -> RaterResult:
    own = [vote for vote in judgements if vote.rater == rater]
    first = [vote for vote in own if not vote.repeat]
    num_repeats, consistency = self_consistency(own)
    return RaterResult(
        rater=rater,
        num_votes=len(first),
        num_repeats=num_repeats,
        self_consistency=consistency,
        preferences=_preferences(contestants, first),
    )
