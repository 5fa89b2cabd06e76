"""Counting the votes of a study."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from pathlib import Path

import numpy as np

from drtune.contracts import MANIFEST, Preference, QuestionResult, RaterResult, Study, StudyResult
from drtune.evaluation.study.grades import grade_gains
from drtune.evaluation.study.judges import human_agreement, judge_agreements
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

    Each question is counted by itself. Win rates are over votes; repeats count for self-consistency alone. The order of
    the files does not matter.

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
        first, *others = (_answers(name, ballots, key) for name in key.asked)
        result = StudyResult(
            **dict(first),
            study_sha256=sha256_file(study / MANIFEST),
            report_sha256=key.report_sha256,
            votes_sha256={ballot.rater: ballot.sha256 for ballot in ballots},
            further=dict(zip(key.further, others, strict=True)),
        )
        with replacing(out) as folder:
            folder.mkdir()
            write_text(folder / RESULT, as_markdown(result, key))
            result.save(folder)
        return result


def _answers(name: str | None, ballots: Sequence[Ballot], study: Study) -> QuestionResult:
    """What the raters answered to the question of that name."""
    judgements = [vote for ballot in ballots for vote in _unblinded(ballot, study, name)]
    first = [vote for vote in judgements if not vote.repeat]
    raters = sorted({vote.rater for vote in judgements})
    num_repeats, consistency = self_consistency(judgements)
    alike, alpha = agreement(judgements)
    return QuestionResult(
        question=study.asked[name],
        num_votes=len(first),
        num_repeats=num_repeats,
        num_prompts=len({vote.prompt for vote in first}),
        num_raters=len(raters),
        preferences=_preferences(study.contestants, first),
        raters=tuple(_rater_result(rater, study.contestants, judgements) for rater in raters),
        self_consistency=consistency,
        agreement=alike,
        alpha=alpha,
        strengths=strengths(study.contestants, first) if first and len(study.contestants) > 2 else (),
        grades=grade_gains(study.contestants, first),
        judges=judge_agreements(study.pairs, first),
        human=human_agreement(first),
    )


def _unblinded(ballot: Ballot, study: Study, question: str | None) -> list[Judgement]:
    """A rater's answers to a question, in the study's order; of grades, the higher one wins."""
    judgements = []
    for pair in study.pairs:
        grades: tuple[int, int] | None = None
        if study.protocol == "choice":
            choice = ballot.answers.get((pair.id, question, None))
            if choice is None:
                continue
            wins_left = WINS_LEFT[str(choice)]
        else:
            left, right = (ballot.answers.get((pair.id, question, side)) for side in ("left", "right"))
            if left is None or right is None:
                continue
            grades = int(left), int(right)
            wins_left = float(np.sign(grades[0] - grades[1]) + 1) / 2
        judgements.append(
            Judgement(
                rater=ballot.rater,
                prompt=pair.prompt,
                left=pair.left,
                right=pair.right,
                wins_left=wins_left,
                question=pair.repeats or pair.id,
                repeat=pair.repeats is not None,
                grades=grades,
            )
        )
    return judgements


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
