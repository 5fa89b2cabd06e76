"""The files that raters send back."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError, field_validator

from drtune.contracts import Contract, Study
from drtune.errors import UserError
from drtune.files.local import read_given, sha256_bytes

MAX_FILE_BYTES = 10_000_000
"""A file of 50,000 votes is smaller."""

Choice = Literal["left", "right", "tie"]


class Vote(Contract):
    """The answer to one question: the side of the better picture.

    >>> Vote(pair="5f0c2a91d3b7", choice="left")
    """

    pair: str
    choice: Choice


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
    choices: dict[str, Choice]
    """By the pair's id."""
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
        if path.stat().st_size > MAX_FILE_BYTES:
            raise UserError(
                f"votes {path}: is larger than {MAX_FILE_BYTES // 10**6} MB, as no file with votes is; give a file "
                "that the page saved"
            )
        content = read_given(path)
    except OSError as error:
        raise UserError(f"votes {path}: cannot be read ({error.strerror}); give a file that the page saved") from None
    try:
        votes = Votes.model_validate_json(content)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"])) or "the file"
        reason = " ".join(first["msg"].split())
        raise UserError(f"votes {path}: {where}: {reason}; give the file as the page saved it") from None
    if votes.study != study.id:
        raise UserError(
            f"votes {path}: are for study {votes.study!r}, not {study.id!r}; give --study the one they are for"
        )
    if not votes.votes:
        raise UserError(f"votes {path}: holds no vote; leave the file out")
    return Ballot(votes.rater, _checked(votes, study, path), sha256_bytes(content))


def _checked(votes: Votes, study: Study, path: Path) -> dict[str, Choice]:
    """The choices by pair, after a look at each."""
    pairs = {pair.id: pair for pair in study.pairs}
    choices: dict[str, Choice] = {}
    for number, vote in enumerate(votes.votes):
        pair = pairs.get(vote.pair)
        if pair is None:
            problem = f"pair {vote.pair!r} is none of the study's"
        elif pair.id in choices:
            problem = f"pair {pair.id!r} was voted on before"
        elif pair.repeats is not None and pair.repeats not in choices:
            problem = f"pair {pair.id!r} repeats one that was not voted on before"
        elif vote.choice == "tie" and not study.ties:
            problem = "a tie, which this study does not allow"
        else:
            choices[pair.id] = vote.choice
            continue
        raise UserError(f"votes {path}: votes.{number}: {problem}; give the file as the page saved it")
    return choices
