"""What a study with people is made from and comes to."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from drtune.contracts.base import Contract

Protocol = Literal["choice", "grades"]
"""What raters do with a pair: choose the better picture, or give each of the two a grade."""
GRADES = ("bad", "fair", "good", "excellent")
"""What a grade from 1 to 4 is called."""


class StudyPair(Contract):
    """One question of a study: two contestants' pictures for one prompt, and who stands on which side.

    >>> StudyPair(id="5f0c2a91d3b7", prompt="a red circle", category="shapes", picture=0, left="base",
    ...           right="candidate")
    """

    id: str
    """All that the page and the votes know of it."""
    prompt: str
    category: str
    picture: int
    """Which of the prompt's pictures, as in the report's scores.parquet."""
    left: str
    right: str
    repeats: str | None = None
    """The id of the pair that is asked here once more with the sides swapped, if so."""
    scores: dict[str, tuple[float, float]] = Field(default_factory=dict)
    """What each reward of the report gave the left picture and the right one, for its agreement with the raters."""


class Study(Contract):
    """A blinded comparison for people: `index.html`, which goes to the raters, and this key, which does not.

    >>> Study(id="9d41c07be2f8a635", question="Which picture is better?", ties=True, seed=0,
    ...       contestants=("candidate", "base"), pairs=(StudyPair(...),), report_sha256="5e0f...",
    ...       page_sha256="c210...")
    """

    kind: Literal["Study/1"] = "Study/1"
    id: str
    """Digest over the other fields but the page's; votes carry it."""
    question: str
    """What is asked of every pair first."""
    further: dict[str, str] = Field(default_factory=dict)
    """What is asked of it besides, by name."""
    protocol: Protocol = "choice"
    ties: bool
    """Whether "no difference" is an answer to a choice."""
    seed: int
    contestants: tuple[str, ...]
    """Every two of them are compared."""
    pairs: tuple[StudyPair, ...]
    """In the order of the page, before each rater's own shuffling."""
    report_sha256: str
    """Digest of the manifest.json of the report that the pictures are from."""
    page_sha256: str = ""
    """Digest of index.html."""

    @property
    def asked(self) -> dict[str | None, str]:
        """The questions in their order, by the names that votes give them; the first one has none."""
        return dict(zip([None, *self.further], [self.question, *self.further.values()], strict=True))


class Preference(Contract):
    """How often people preferred one contestant to another; the interval is `drtune.evaluation.study.measures`' own.

    >>> Preference(contestant="candidate", opponent="base", num_votes=180, num_prompts=60, num_raters=3,
    ...            win_rate=0.68, win_low=0.56, win_high=0.79)
    """

    contestant: str
    opponent: str
    num_votes: int
    num_prompts: int
    num_raters: int
    win_rate: float
    """Share of the votes for the contestant; a tie counts one half. In [0, 1]."""
    win_low: float
    win_high: float


class RaterResult(Contract):
    """What one rater said, and how often she said the same again.

    >>> RaterResult(rater="ann", num_votes=60, num_repeats=6, self_consistency=0.83, preferences=(Preference(...),))
    """

    rater: str
    num_votes: int
    """Without repeats."""
    num_repeats: int
    self_consistency: float | None
    """Share of the repeats that were answered as the first time; None without repeats. In [0, 1]."""
    preferences: tuple[Preference, ...]


class Strength(Contract):
    """A contestant's log-strength by Bradley and Terry; one that is d stronger wins with chance 1 / (1 + exp(-d)).

    >>> Strength(contestant="candidate", strength=0.41, low=0.05, high=0.77)
    """

    contestant: str
    strength: float
    """Those of all contestants add up to 0."""
    low: float
    high: float


class GradeGain(Contract):
    """How much better people graded one contestant than another, from 1 (bad) to 4 (excellent).

    >>> GradeGain(contestant="candidate", opponent="base", num_prompts=60, mean=3.1, opponent_mean=2.7, gain=0.4,
    ...           low=0.2, high=0.6)
    """

    contestant: str
    opponent: str
    num_prompts: int
    mean: float
    """Over prompts, each by the mean of its grades."""
    opponent_mean: float
    gain: float
    low: float | None
    """Ends of the 95 % interval of the gain over prompts; None on fewer than MIN_PROMPTS."""
    high: float | None


class JudgeAgreement(Contract):
    """On which share of the pairs a judge is of the raters' opinion, with a 95 % interval as that of a win rate.

    >>> JudgeAgreement(judge="preference", num_pairs=54, rate=0.71, low=0.58, high=0.82)
    """

    judge: str
    """A reward of the report, or who stands in its place."""
    num_pairs: int
    """Those on which more raters were for one side than for the other."""
    rate: float
    """In [0, 1]; a pair that the judge calls a tie counts one half."""
    low: float
    high: float


class QuestionResult(Contract):
    """What people answered to one question of a study; intervals are 95 %.

    >>> QuestionResult(question="Which picture fits the text better?", num_votes=60, num_repeats=6, num_prompts=60,
    ...                num_raters=1, preferences=(Preference(...),), raters=(RaterResult(...),), self_consistency=0.83,
    ...                agreement=None, alpha=None, strengths=())
    """

    question: str
    """As it was asked."""
    num_votes: int
    """Without repeats, which count for self-consistency alone."""
    num_repeats: int
    num_prompts: int
    num_raters: int
    preferences: tuple[Preference, ...]
    """Every two contestants that got a vote between them, the one that the study names first against the other."""
    raters: tuple[RaterResult, ...]
    self_consistency: float | None
    """Over the repeats of all raters."""
    agreement: float | None
    """Chance that two raters answer one question alike; None when no question was answered twice. In [0, 1]."""
    alpha: float | None
    """Krippendorff's alpha: the same beyond chance, 1 for full agreement and 0 for none; None likewise."""
    strengths: tuple[Strength, ...]
    """The strongest first; empty when there are only two contestants."""
    grades: tuple[GradeGain, ...] = ()
    """Where grades were asked for; the preferences are then of the pictures with the higher grade."""
    judges: tuple[JudgeAgreement, ...] = ()
    """How far each reward of the report agrees with most of the raters; empty for a study that has no scores."""
    human: JudgeAgreement | None = None
    """How far one rater agrees with most of the others: the ceiling of a judge that is as good as a rater. None when no
    two raters answered the same question."""

    def preference(self, contestant: str, opponent: str) -> Preference | None:
        """How `contestant` did against `opponent`, whichever the study names first; None if nobody compared them."""
        for found in self.preferences:
            if (found.contestant, found.opponent) == (contestant, opponent):
                return found
            if (found.contestant, found.opponent) == (opponent, contestant):
                turned = {
                    "contestant": contestant,
                    "opponent": opponent,
                    "win_rate": 1 - found.win_rate,
                    "win_low": 1 - found.win_high,
                    "win_high": 1 - found.win_low,
                }
                return found.model_copy(update=turned)
        return None


class StudyResult(QuestionResult):
    """What people preferred, in answer to the first question of a study. `result.md` tells it in words.

    >>> StudyResult(study_sha256="77ab...", report_sha256="5e0f...", votes_sha256={"ann": "0b1d..."}, num_votes=60,
    ...             num_repeats=6, num_prompts=60, num_raters=1, preferences=(Preference(...),),
    ...             raters=(RaterResult(...),), self_consistency=0.83, agreement=None, alpha=None, strengths=())
    """

    kind: Literal["StudyResult/1"] = "StudyResult/1"
    study_sha256: str
    """Digest of the study's manifest.json; likewise that of the report that the study was made from."""
    report_sha256: str
    votes_sha256: dict[str, str]
    """Digest of each file of votes, by rater."""
    further: dict[str, QuestionResult] = Field(default_factory=dict)
    """What they answered to the other questions, by name."""

    @property
    def answers(self) -> tuple[QuestionResult, ...]:
        """To each question, in the order in which they were asked."""
        return (self, *self.further.values())
