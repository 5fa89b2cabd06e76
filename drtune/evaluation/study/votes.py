"""The files that raters send back."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError, field_validator

from drtune.contracts import Contract, Study
from drtune.contracts.reading import problem_in
from drtune.errors import UserError
from drtune.files.local import read_given, sha256_bytes

MAX_FILE_BYTES = 10 * 2**20
"""A file of 50,000 votes is smaller."""
ANSWER = {"choice": "choice", "grades": "grade of a picture"}
"""What an answer is, by protocol."""

Choice = Literal["left", "right", "tie"]
Side = Literal["left", "right"]
Grade = Literal[1, 2, 3, 4]
Slot = tuple[str, str | None, Side | None]
"""Where an answer belongs: the pair's id, the name of the question (None for the first one), and the picture, if it was
graded."""


class Vote(Contract):
    """The answer to one question: the side of the better picture, or the grade of one of the two.

    >>> Vote(pair="5f0c2a91d3b7", choice="left")
    >>> Vote(pair="5f0c2a91d3b7", question="alignment", picture="right", grade=3)
    """

    pair: str
    question: str | None = None
    """Its name; None for the first one."""
    choice: Choice | None = None
    picture: Side | None = None
    grade: Grade | None = None

    @property
    def slot(self) -> Slot:
        """What it answers."""
        return self.pair, self.question, self.picture


class Votes(Contract):
    """What one rater said: the file that the page saves.

    >>> Votes(study="9d41c07be2f8a635", rater="ann", seed=7, votes=(Vote(...),))
    """

    kind: Literal["StudyVotes/1"]
    study: str
    rater: str = Field(min_length=1, max_length=100)
    seed: int = Field(ge=0, lt=2**32)
    """Of the order in which this rater saw the pairs."""
    votes: tuple[Vote, ...]

    @field_validator("rater")
    @classmethod
    def _one_line(cls, rater: str) -> str:
        if rater != rater.strip() or any(unicodedata.category(letter) in ("Cc", "Zl", "Zp") for letter in rater):
            raise ValueError("is not one line of text")
        return rater


@dataclass(frozen=True)
class Ballot:
    """The checked votes of one rater, and the digest of their file."""

    rater: str
    answers: dict[Slot, Choice | Grade]
    sha256: str


def read_ballots(paths: Sequence[str | Path], study: Study) -> list[Ballot]:
    """Read and check files with votes on a study.

    Raises:
        UserError: a file is none of this study, is damaged, or has the rater of another one.
    """
    if not paths:
        raise UserError("votes: no file given; give the files that the raters sent back")
    ballots: dict[str, tuple[str | Path, Ballot]] = {}
    for path in paths:
        ballot = _read(Path(path), study)
        name = unicodedata.normalize("NFKC", ballot.rater).casefold()
        if name in ballots:
            raise UserError(
                f"votes {path}: rater {ballot.rater!r} is also that of {ballots[name][0]}; leave out one of "
                "the two, or give the rater another name in it if these are two people"
            )
        ballots[name] = (path, ballot)
    return [ballot for _, ballot in ballots.values()]


def _read(path: Path, study: Study) -> Ballot:
    """Read one file."""
    try:
        content = read_given(path, most=MAX_FILE_BYTES)
    except OSError as error:
        raise UserError(f"votes {path}: cannot be read ({error.strerror}); give a file that the page saved") from None
    try:
        votes = Votes.model_validate_json(content)
    except ValidationError as error:
        raise UserError(f"votes {path}: {problem_in(error, 'the file')}; give the file as the page saved it") from None
    if votes.study != study.id:
        raise UserError(
            f"votes {path}: are for study {votes.study!r}, not {study.id!r}; give --study the one they are for"
        )
    if not votes.votes:
        raise UserError(f"votes {path}: holds no vote; leave the file out")
    return Ballot(votes.rater, _checked(votes, study, path), sha256_bytes(content))


def _checked(votes: Votes, study: Study, path: Path) -> dict[Slot, Choice | Grade]:
    """The answers by what they answer, after a look at each."""
    pairs = {pair.id: pair for pair in study.pairs}
    answers: dict[Slot, Choice | Grade] = {}
    for number, vote in enumerate(votes.votes):
        pair = pairs.get(vote.pair)
        answer = vote.choice if study.protocol == "choice" else vote.grade
        if pair is None:
            problem = f"pair {vote.pair!r} is none of the study's"
        elif vote.question not in study.asked:
            problem = f"question {vote.question!r} is none of the study's"
        elif answer is None or (vote.picture is None) != (study.protocol == "choice"):
            problem = f"holds no {ANSWER[study.protocol]}, which this study asks for"
        elif vote.slot in answers:
            problem = f"pair {pair.id!r} was voted on before"
        elif pair.repeats is not None and (pair.repeats, *vote.slot[1:]) not in answers:
            problem = f"pair {pair.id!r} repeats one that was not voted on before"
        elif answer == "tie" and not study.ties:
            problem = "a tie, which this study does not allow"
        else:
            answers[vote.slot] = answer
            continue
        raise UserError(f"votes {path}: votes.{number}: {problem}; give the file as the page saved it")
    return answers
