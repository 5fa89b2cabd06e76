"""Votes from anywhere: taken whole, or refused in one line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from drtune.contracts import Study, StudyPair
from drtune.errors import UserError
from drtune.evaluation.study.votes import MAX_FILE_BYTES, read_ballots
from drtune.files.local import sha256_file
from tests.studies import prefer, votes_of, write_votes


def pair(identity: str, repeats: str | None = None) -> StudyPair:
    return StudyPair(id=identity, prompt="p", category="", picture=0, left="candidate", right="base", repeats=repeats)


STUDY = Study(
    id="0123456789abcdef",
    question="?",
    ties=True,
    seed=0,
    contestants=("candidate", "base"),
    pairs=(pair("one"), pair("two"), pair("again", repeats="one")),
    report_sha256="5e0f",
)


def changed(change: Callable[[dict[str, Any]], object]) -> dict[str, Any]:
    votes = votes_of(STUDY, prefer("candidate"))
    change(votes)
    return votes


def test_votes_are_read_with_their_rater_and_digest(tmp_path: Path) -> None:
    path = write_votes(tmp_path / "ann.json", votes_of(STUDY, prefer("base")))
    part = write_votes(
        tmp_path / "bob.json", changed(lambda votes: votes.update(rater="bob", votes=votes["votes"][:1]))
    )
    ann, bob = read_ballots([path, part], STUDY)
    assert (ann.rater, ann.answers) == ("ann", {(name, None, None): "right" for name in ("one", "two", "again")})
    assert (bob.rater, bob.answers) == ("bob", {("one", None, None): "left"})
    assert ann.sha256 == sha256_file(path)


@pytest.mark.parametrize(
    ("votes", "message"),
    [
        (
            changed(lambda votes: votes.update(study="ffff")),
            "are for study 'ffff', not '0123456789abcdef'; give --study",
        ),
        (changed(lambda votes: votes["votes"][1].update(pair="no")), r"votes\.1: pair 'no' is none of the study's"),
        (changed(lambda votes: votes["votes"].append(votes["votes"][0])), r"votes\.3: pair 'one' was voted on before"),
        (changed(lambda votes: votes["votes"].pop(0)), r"votes\.1: pair 'again' repeats one that was not voted on"),
        (changed(lambda votes: votes["votes"][0].update(choice="up")), r"votes\.0\.choice: Input should be 'left', "),
        (changed(lambda votes: votes["votes"][0].pop("choice")), r"votes\.0: holds no choice, which this study asks"),
        (changed(lambda votes: votes["votes"][0].update(question="look")), "question 'look' is none of the study's"),
        (changed(lambda votes: votes["votes"][0].update(picture="left")), r"votes\.0: holds no choice, which"),
        (changed(lambda votes: votes.update(votes=[])), "holds no vote; leave the file out"),
        (changed(lambda votes: votes.update(rater="")), "rater: String should have at least 1"),
        (changed(lambda votes: votes.update(rater="a\nb")), "rater: .* not one line of text"),
        (changed(lambda votes: votes.update(rater="\ud800")), "Invalid JSON"),
        (changed(lambda votes: votes.update(kind="Study/1")), "kind: Input should be 'StudyVotes/1'"),
        (changed(lambda votes: votes.update(more=1)), "more: Extra inputs"),
        (changed(lambda votes: votes.update(seed=-1)), "seed: "),
        ([], "the file: "),
        (None, "the file: "),
    ],
)
def test_a_damaged_file_is_refused_by_name_in_one_line(tmp_path: Path, votes: object, message: str) -> None:
    path = write_votes(tmp_path / "ann.json", votes)
    with pytest.raises(UserError, match=message) as raised:
        read_ballots([path], STUDY)
    assert str(raised.value).startswith(f"votes {path}: ")
    assert "\n" not in str(raised.value)


def test_a_tie_is_refused_where_the_study_has_none(tmp_path: Path) -> None:
    path = write_votes(tmp_path / "ann.json", votes_of(STUDY, lambda _: "tie"))
    assert read_ballots([path], STUDY)[0].answers["one", None, None] == "tie"
    with pytest.raises(UserError, match=r"votes\.0: a tie, which this study does not allow"):
        read_ballots([path], STUDY.model_copy(update={"ties": False}))


@pytest.mark.parametrize("name", ["ann", "ANN", "\N{FULLWIDTH LATIN SMALL LETTER A}nn"])
def test_a_rater_who_comes_twice_is_refused_with_both_files(tmp_path: Path, name: str) -> None:
    one = write_votes(tmp_path / "one.json", votes_of(STUDY, prefer("base")))
    two = write_votes(tmp_path / "two.json", votes_of(STUDY, prefer("base"), rater=name))
    with pytest.raises(UserError, match=r"two\.json: rater .* is also that of .*one\.json; leave out one"):
        read_ballots([one, two], STUDY)


def test_files_that_are_none_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no file given"):
        read_ballots([], STUDY)
    with pytest.raises(UserError, match=r"none\.json: cannot be read \(No such file"):
        read_ballots([tmp_path / "none.json"], STUDY)
    with pytest.raises(UserError, match=r"cannot be read \(Is a directory"):
        read_ballots([tmp_path], STUDY)
    huge = tmp_path / "huge.json"
    with huge.open("wb") as file:
        file.truncate(2 * MAX_FILE_BYTES)
    with pytest.raises(UserError, match=r"huge\.json: cannot be read \(has 20 MiB, at most 10 are read\)"):
        read_ballots([huge], STUDY)


scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
identities = st.sampled_from(["one", "two", "again", "none"]) | scalars
vote = st.fixed_dictionaries({"pair": identities, "choice": st.sampled_from(["left", "right", "tie", "up"]) | scalars})
near = st.fixed_dictionaries(
    {
        "kind": st.just("StudyVotes/1") | scalars,
        "study": st.just(STUDY.id) | scalars,
        "rater": st.text(min_size=1, max_size=8) | scalars,
        "seed": st.integers(0, 2**32 - 1) | scalars,
        "votes": st.lists(vote | scalars, max_size=4) | scalars,
    }
)
right = st.builds(
    lambda rater, choices: votes_of(STUDY, lambda pair: choices[pair.id], rater=rater),
    st.text(max_size=8),
    st.fixed_dictionaries({pair.id: st.sampled_from(["left", "right", "tie"]) for pair in STUDY.pairs}),
)
anything = st.recursive(
    scalars, lambda inner: st.lists(inner) | st.dictionaries(st.text(max_size=5), inner), max_leaves=8
)


@settings(deadline=None, max_examples=300)
@given(st.binary() | (near | right | anything).map(lambda value: json.dumps(value).encode()) | st.just(b"[" * 10_000))
def test_any_file_is_read_whole_or_refused_in_one_line(
    tmp_path_factory: pytest.TempPathFactory, content: bytes
) -> None:
    path = tmp_path_factory.getbasetemp() / "any.json"
    path.write_bytes(content)
    try:
        [ballot] = read_ballots([path], STUDY)
    except UserError as error:
        refusal: str | None = str(error)
    else:
        refusal = None
    if refusal is not None:
        assert refusal.startswith(f"votes {path}: ")
        assert "\n" not in refusal
    else:
        votes = json.loads(content)
        assert ballot.answers == {(vote["pair"], None, None): vote["choice"] for vote in votes["votes"]}
        assert len(ballot.answers) == len(votes["votes"]) > 0
        assert ballot.rater == votes["rater"]
