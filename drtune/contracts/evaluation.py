"""What the evaluation gives: contestants, measures, comparisons, and the report that holds them."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Self

from pydantic import Field

from drtune.contracts.base import Contract
from drtune.contracts.capability import Capability
from drtune.contracts.model import TunedModel
from drtune.files.local import check_sha256

MIN_PROMPTS = 8
"""On fewer, nothing is said of chance: no interval, effect or p-value. With five, intervals of skewed scores miss the
truth twice as often as they say, and no p-value can fall below 0.06; with eight it reaches 0.008, which outlives the
correction for six comparisons (docs/evaluation.md)."""
SCORES = "scores.parquet"
"""The file of a report with a row for each picture."""
TABLES = (".csv", ".parquet")
"""Suffixes of the tables of scores that are written on request and read."""
DIVERSITY_WITHIN, DIVERSITY_ACROSS = "diversity_within", "diversity_across"
DRIFT, DRIFT_PIXELS, CMMD = "drift", "drift_pixels", "cmmd"
LOOKS = ("luminance", "contrast", "saturation", "sharpness")
BESIDE_REWARDS = frozenset({DIVERSITY_WITHIN, DIVERSITY_ACROSS, DRIFT, DRIFT_PIXELS, CMMD, *LOOKS})
"""Measures of which more is not better; they stand in scores.parquet beside the rewards."""


class Contestant(Contract):
    """One of those that are compared: what its pictures came from, and how many there were.

    >>> Contestant(name="midjourney", role="reference", source="references/midjourney", sha256="ab12...",
    ...            num_pictures=380, problems={"missing": 4})
    """

    name: str
    role: Literal["base", "candidate", "champion", "reference"]
    source: str
    """The base model, with the updates done on it; for a reference the folder or archive as it was given."""
    sha256: str | None
    """Digest of the tuned weights, for a reference of all its pictures; None for a base, which its revision names."""
    num_pictures: int
    problems: dict[str, int] = Field(default={})
    """How many pictures of a reference were not scored, by reason; each stands in `problems.jsonl`."""


class Measure(Contract):
    """A number that every prompt has for every contestant.

    >>> Measure(name="symmetry", kind="trained", provenance="")
    """

    name: str
    kind: Literal["trained", "held_out", "diversity", "drift", "look"]
    """A reward that the candidate was tuned on, one that it was not, or what is told beside the rewards."""
    provenance: str = ""
    """What it hangs on besides the picture and the prompt: digests of weights and files, how images were resized."""

    @property
    def is_reward(self) -> bool:
        """Whether more of it is better."""
        return self.kind in ("trained", "held_out")


class Standing(Contract):
    """One measure of one contestant by itself; the interval is a 95 % one over prompts, None on fewer than MIN_PROMPTS.

    >>> Standing(contestant="base", measure="symmetry", category=None, num_prompts=256, mean=0.56, low=0.54, high=0.58,
    ...          deviation=0.16)
    """

    contestant: str
    measure: str
    category: str | None
    """None: over all prompts."""
    num_prompts: int
    mean: float
    low: float | None
    high: float | None
    deviation: float
    """Standard deviation over the prompts."""


class Score(Contract):
    """One measure of the candidate against an opponent, on the prompts that both have; intervals are 95 %.

    What says how sure it is, intervals, effect and p-value, is None on fewer than MIN_PROMPTS prompts.

    >>> Score(measure="symmetry", opponent="base", category=None, num_prompts=256, opponent_mean=0.56,
    ...       candidate_mean=0.83, gain=0.27, gain_low=0.25, gain_high=0.29, effect=1.7, p_value=0.001,
    ...       win_rate=0.95, win_low=0.92, win_high=0.97)
    """

    measure: str
    opponent: str
    category: str | None
    """None: over all prompts."""
    num_prompts: int
    opponent_mean: float
    candidate_mean: float
    gain: float
    """Mean of candidate minus opponent, paired by prompt."""
    gain_low: float | None
    gain_high: float | None
    effect: float | None
    """The gain in standard deviations of the opponent's prompts: comparable between measures."""
    p_value: float | None
    """Of "no difference", two-sided, after Holm's correction for all comparisons of the same table."""
    win_rate: float
    """Fraction of prompts on which the candidate is higher, a tie counts one half; in [0, 1], Wilson's interval."""
    win_low: float | None
    win_high: float | None


class Agreement(Contract):
    """On which share of the prompts the rewards agree that the candidate rose over an opponent; a tie is no rise.

    >>> Agreement(opponent="base", num_prompts=256, all_rise=0.41, only_trained=0.13)
    """

    opponent: str
    num_prompts: int
    all_rise: float
    """All rewards rose."""
    only_trained: float
    """Those that were tuned on rose, and no other: the more, the more of the gain is the trained judge's own taste."""


class ScalePoint(Contract):
    """The candidate with its adapter at another strength, against the base; over all prompts of the curve.

    >>> ScalePoint(scale=0.75, standings=(Standing(...),), scores=(Score(...),), agreements=(Agreement(...),),
    ...            picture="thumbnails/scale-0.75/0000-0.png")
    """

    scale: float
    """0 is the base, 1 what was trained."""
    standings: tuple[Standing, ...]
    scores: tuple[Score, ...]
    agreements: tuple[Agreement, ...]
    picture: str
    """Path in the report's folder of the first prompt's first picture."""


class ScaleCurve(Contract):
    """What a little less of the tuning does, or a little more: points in the order of their scale.

    >>> ScaleCurve(num_prompts=32, points=(ScalePoint(...),))
    """

    num_prompts: int
    points: tuple[ScalePoint, ...]


class BenchmarkRow(Contract):
    """The Human Preference Score benchmark of one contestant: by style a mean and the deviation of ten group means.

    >>> BenchmarkRow(contestant="base", styles={"anime": (28.1, 0.26)}, average=27.4)
    """

    contestant: str
    styles: dict[str, tuple[float, float]]
    average: float


class Highlight(Contract):
    """A prompt whose pictures a page shows, one of each contestant.

    >>> Highlight(prompt="a red circle", category="", gain=0.4, values={"base": 0.5, "candidate": 0.9},
    ...           thumbnails={"base": "thumbnails/base/0007-0.png", "candidate": "thumbnails/candidate/0007-0.png"})
    """

    prompt: str
    category: str
    gain: float
    """Of candidate over base from the same noise, in the weighted sum of the trained rewards.

    They are bent as in training; of relative ones the reward of the prompt alone counts, as it is.
    """
    values: dict[str, float]
    """That sum by contestant."""
    thumbnails: dict[str, str]
    """Paths in the report's folder, by contestant."""
    doubts: tuple[str, ...] = ()
    """Why a gain is likely a hacked reward: in what the picture contradicts its prompt more than the base's does."""


class EvaluationReport(Contract):
    """All contestants on the same prompts: `scores.parquet` (one row a picture), `images/`, and what a page shows.

    >>> EvaluationReport(model=TunedModel(...), contestants=(Contestant(...),), measures=(Measure(...),),
    ...                  standings=(Standing(...),), scores=(Score(...),), prompts_sha256="1c3e...", num_prompts=256,
    ...                  pictures_per_prompt=2, seed=0, height=1024, width=1024,
    ...                  pipeline="StableDiffusionXLPipeline", scheduler="DDIMScheduler", num_inference_steps=20,
    ...                  guidance_scale=3.0, antialias=True, scores_sha256="ab12...", code_revision="4a1b...",
    ...                  versions={"torch": "2.13.0"})
    """

    kind: Literal["EvaluationReport/3"] = "EvaluationReport/3"
    model: TunedModel
    contestants: tuple[Contestant, ...]
    """The candidate first, then its opponents."""
    measures: tuple[Measure, ...]
    standings: tuple[Standing, ...]
    scores: tuple[Score, ...]
    agreements: tuple[Agreement, ...] = ()
    """By opponent, where there are rewards that were not tuned on."""
    scale_curve: ScaleCurve | None = None
    """Where other strengths of the adapter were drawn."""
    capability: Capability | None = None
    """Where compositional prompts were drawn."""
    notes: tuple[str, ...] = ()
    """What was not measured, why, and what helps."""
    prompts_sha256: str
    """Digest of the prompts.jsonl whose held-out part was used, which need not be that of the model's own prompts."""
    num_prompts: int
    num_truncated: int = 0
    """Prompts that are longer than a text encoder reads."""
    pictures_per_prompt: int
    seed: int
    height: int
    """In pixels, of all pictures that were drawn; likewise the width."""
    width: int
    pipeline: str
    """Class of diffusers that sampled; likewise its scheduler."""
    scheduler: str
    num_inference_steps: int
    guidance_scale: float
    negative_prompt: str = ""
    base_steps: int = 0
    """So many of the first steps were made without the adapter."""
    antialias: bool
    """Whether the rewards that resize in floating point did so with antialias: scores with and without do not compare.
    Each measure's `provenance` says how its pictures were resized."""
    benchmark: tuple[BenchmarkRow, ...] = ()
    """Where the prompts are those of the Human Preference Score's benchmark."""
    gained: tuple[Highlight, ...] = ()
    """The largest gains over the base, the largest first."""
    lost: tuple[Highlight, ...] = ()
    """The largest losses, the largest first."""
    scores_sha256: str
    """Digest of scores.parquet."""
    code_revision: str | None
    """Commit of the code that evaluated; None when it cannot be known."""
    versions: dict[str, str]
    """Of the libraries that the numbers hang on."""

    @classmethod
    def load(cls, folder: str | Path) -> Self:
        """Read `manifest.json` from `folder`, and hold its scores.parquet against it.

        Raises:
            UserError: as for any contract, or the table is missing or another one.
        """
        report = super().load(folder)
        check_sha256(Path(folder) / SCORES, report.scores_sha256, owner="the report", fix="evaluate again")
        return report

    @property
    def rewards(self) -> tuple[str, ...]:
        """Measures of which more is better, tuned on or held out."""
        return tuple(measure.name for measure in self.measures if measure.is_reward)

    @property
    def overall(self) -> tuple[Score, ...]:
        """How the rewards compare over all prompts, with each opponent."""
        rewards = self.rewards
        return tuple(one for one in self.scores if one.category is None and one.measure in rewards)

    @property
    def trained_rewards(self) -> tuple[str, ...]:
        """Rewards that the candidate was tuned on; the others are held out."""
        return tuple(measure.name for measure in self.measures if measure.kind == "trained")

    def score(self, measure: str, opponent: str = "base", category: str | None = None) -> Score | None:
        """The comparison of that name, if it was made."""
        wanted = (measure, opponent, category)
        return next((one for one in self.scores if (one.measure, one.opponent, one.category) == wanted), None)

    def agreement(self, opponent: str = "base") -> Agreement | None:
        """What the rewards agree on against that opponent, if it was counted."""
        return next((one for one in self.agreements if one.opponent == opponent), None)

    def at(self, point: ScalePoint) -> EvaluationReport:
        """The same with the adapter at that strength: on the curve's prompts, and against the base alone."""
        assert self.scale_curve is not None
        return self.model_copy(
            update={
                "num_prompts": self.scale_curve.num_prompts,
                "standings": point.standings,
                "scores": point.scores,
                "agreements": point.agreements,
                "scale_curve": None,
                "capability": None,
            }
        )

    def standing(self, measure: str, contestant: str = "candidate") -> Standing | None:
        """The contestant's number over all prompts, if it was measured."""
        wanted = (measure, contestant, None)
        return next((one for one in self.standings if (one.measure, one.contestant, one.category) == wanted), None)
