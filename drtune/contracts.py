"""What travels between the steps: small frozen values, each kept as `manifest.json` in the folder of its payload.

    prepare_prompts -> PromptSet -> train -> TunedModel -> evaluate -> EvaluationReport
                    -> decide -> Decision -> publish -> RegistryEntry
    monitor -> DriftVerdict

Every value names the digests of what it came from, so that any published file can be followed back to its prompts.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from drtune.errors import UserError
from drtune.files import write_text

MANIFEST = "manifest.json"
CONFIG = "config.yaml"
ADAPTER = "adapter/pytorch_lora_weights.safetensors"
"""Where a TunedModel keeps a LoRA, under the name by which diffusers finds it."""
NETWORK = "network/diffusion_pytorch_model.safetensors"
"""Where it keeps full weights, likewise; with NETWORK_CONFIG beside them, diffusers loads the folder."""
NETWORK_CONFIG = "network/config.json"


class Contract(BaseModel):
    """A frozen value that is written as JSON and read back equal."""

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="strings")

    def manifest(self) -> str:
        """The text of `manifest.json`; equal values have equal text."""
        return self.model_dump_json(indent=2) + "\n"

    def save(self, folder: str | Path) -> None:
        """Write `manifest.json` into `folder`, whole or not at all."""
        write_text(Path(folder) / MANIFEST, self.manifest())

    @classmethod
    def load(cls, folder: str | Path) -> Self:
        """Read `manifest.json` from `folder`.

        Raises:
            UserError: there is none, or it is not one of this kind and version.
        """
        path = Path(folder) / MANIFEST
        try:
            return cls.model_validate_json(path.read_bytes())
        except OSError as error:
            raise UserError(f"{path}: no {cls.__name__} to read here ({error.strerror})") from None
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"])) or "the file"
            raise UserError(
                f"{path}: not a {cls.__name__} of this version of drtune: {where}: {first['msg']}"
            ) from None


class DataSource(Contract):
    """Where prompts came from.

    >>> DataSource(path="data/sdxl.jsonl", sha256="9f2c...", git_revision="4a1b...", dvc_md5="d751...dir")
    """

    path: str
    sha256: str
    git_revision: str | None = None
    """Commit whose data.dvc was read; None outside of version control."""
    dvc_md5: str | None = None
    """The md5 that data.dvc states and that the files were checked against; None for a file not under DVC."""


class PromptSet(Contract):
    """Prompts, split once and for all: `prompts.jsonl` with one {"text", "category", "split"} a line.

    >>> PromptSet(sha256="1c3e...", num_train=2000, num_eval=400, categories={"anime": 600, "photo": 600},
    ...           problems={"empty": 2}, source=DataSource(path="data/sdxl.jsonl", sha256="9f2c..."))
    """

    kind: Literal["PromptSet/1"] = "PromptSet/1"
    sha256: str
    """Digest of prompts.jsonl."""
    num_train: int
    num_eval: int
    categories: dict[str, int]
    """Number of prompts of each category, train and eval together; prompts without one count as ""."""
    problems: dict[str, int]
    """How many lines of the source were not taken, by reason; each stands in `problems.jsonl`."""
    source: DataSource


class TunedModel(Contract):
    """A LoRA for a base model, or all weights of its network, in diffusers' format, and `config.yaml`.

    >>> TunedModel(weights_sha256="77ab...", base_model="miniature", base_revision=None, step=80,
    ...            config_sha256="0b1d...", prompts=PromptSet(...), code_revision="4a1b...", reward=0.83)
    """

    kind: Literal["TunedModel/1"] = "TunedModel/1"
    weights: Literal["lora", "full"] = "lora"
    weights_sha256: str
    """Digest of the weights' file."""
    base_model: str
    base_revision: str | None
    step: int
    """Optimizer updates done."""
    config_sha256: str
    """Digest of config.yaml."""
    prompts: PromptSet
    code_revision: str | None
    """Commit of the code that tuned; None when it cannot be known."""
    reward: float
    """Mean training reward over the last ten updates."""
    reward_files: dict[str, str] = {}
    """Files of your own rewards that are kept in the folder: sha256 by path."""

    @property
    def weights_file(self) -> str:
        """Path of the safetensors file with the weights, inside the model's folder."""
        return ADAPTER if self.weights == "lora" else NETWORK

    @property
    def files(self) -> tuple[str, ...]:
        """Paths of all files of the model beside its manifest."""
        weights = (ADAPTER,) if self.weights == "lora" else (NETWORK, NETWORK_CONFIG)
        return (CONFIG, *weights, *self.reward_files)


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
    problems: dict[str, int] = {}
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
    """One measure of one contestant by itself; the interval is a 95 % bootstrap over prompts.

    >>> Standing(contestant="base", measure="symmetry", category=None, num_prompts=256, mean=0.56, low=0.54, high=0.58,
    ...          deviation=0.16)
    """

    contestant: str
    measure: str
    category: str | None
    """None: over all prompts."""
    num_prompts: int
    mean: float
    low: float
    high: float
    deviation: float
    """Standard deviation over the prompts."""


class Score(Contract):
    """One measure of the candidate against an opponent, on the prompts that both have; intervals are 95 %.

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
    """Mean of candidate minus opponent, paired by prompt; its interval is a bootstrap over prompts."""
    gain_low: float
    gain_high: float
    effect: float
    """The gain in standard deviations of the opponent's prompts: comparable between measures."""
    p_value: float
    """Of "no difference", two-sided, after Holm's correction for all comparisons of the same table."""
    win_rate: float
    """Fraction of prompts on which the candidate is higher, a tie counts one half; in [0, 1], Wilson's interval."""
    win_low: float
    win_high: float


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
    """Of candidate over base from the same noise, in the weighted sum of the trained rewards."""
    values: dict[str, float]
    """That sum by contestant."""
    thumbnails: dict[str, str]
    """Paths in the report's folder, by contestant."""


class EvaluationReport(Contract):
    """All contestants on the same prompts: `scores.parquet` (one row a picture), `images/`, and what a page shows.

    >>> EvaluationReport(model=TunedModel(...), contestants=(Contestant(...),), measures=(Measure(...),),
    ...                  standings=(Standing(...),), scores=(Score(...),), prompts_sha256="1c3e...", num_prompts=256,
    ...                  pictures_per_prompt=2, seed=0, pipeline="StableDiffusionXLPipeline",
    ...                  scheduler="DDIMScheduler", num_inference_steps=20, guidance_scale=3.0, antialias=True,
    ...                  scores_sha256="ab12...", code_revision="4a1b...", versions={"torch": "2.13.0"})
    """

    kind: Literal["EvaluationReport/2"] = "EvaluationReport/2"
    model: TunedModel
    contestants: tuple[Contestant, ...]
    """The candidate first, then its opponents."""
    measures: tuple[Measure, ...]
    standings: tuple[Standing, ...]
    scores: tuple[Score, ...]
    prompts_sha256: str
    """Digest of the prompts.jsonl whose held-out part was used, which need not be that of the model's own prompts."""
    num_prompts: int
    num_truncated: int = 0
    """Prompts that are longer than a text encoder reads."""
    pictures_per_prompt: int
    seed: int
    pipeline: str
    """Class of diffusers that sampled; likewise its scheduler."""
    scheduler: str
    num_inference_steps: int
    guidance_scale: float
    negative_prompt: str = ""
    antialias: bool
    """Whether rewards resized with antialias: scores with and without do not compare."""
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

    @property
    def trained_rewards(self) -> tuple[str, ...]:
        """Rewards that the candidate was tuned on; the others are held out."""
        return tuple(measure.name for measure in self.measures if measure.kind == "trained")

    def score(self, measure: str, opponent: str = "base", category: str | None = None) -> Score | None:
        """The comparison of that name, if it was made."""
        wanted = (measure, opponent, category)
        return next((one for one in self.scores if (one.measure, one.opponent, one.category) == wanted), None)

    def standing(self, measure: str, contestant: str = "candidate") -> Standing | None:
        """The contestant's number over all prompts, if it was measured."""
        wanted = (measure, contestant, None)
        return next((one for one in self.standings if (one.measure, one.contestant, one.category) == wanted), None)


class Check(Contract):
    """One rule of the policy held against one number.

    >>> Check(passed=True, reason="symmetry: gain 0.27 (95 % interval 0.25 to 0.29), at least 0.10 wanted")
    """

    passed: bool
    reason: str


class Decision(Contract):
    """Whether to publish, and why.

    >>> Decision(publish=True, checks=(Check(...),), report_sha256="5e0f...", policy_sha256="c7aa...",
    ...          study_sha256=None)
    """

    kind: Literal["Decision/2"] = "Decision/2"
    publish: bool
    checks: tuple[Check, ...]
    """One for each rule of the policy, the failed ones first."""
    report_sha256: str
    """Digest of the report's manifest.json."""
    policy_sha256: str
    study_sha256: str | None = None
    """Digest of the human study's manifest.json; None: there was none."""

    @property
    def reasons(self) -> tuple[str, ...]:
        """The checks as sentences."""
        return tuple(f"{'passed' if check.passed else 'failed'}: {check.reason}" for check in self.checks)


class RegistryEntry(Contract):
    """One immutable version of a published model.

    >>> RegistryEntry(name="miniature-symmetry", version="v3", uri="s3://models/miniature-symmetry/files/5d1c...",
    ...               digest="e01c...", files={"README.md": "77ab..."}, model=TunedModel(...), decision=Decision(...))
    """

    kind: Literal["RegistryEntry/1"] = "RegistryEntry/1"
    name: str
    version: str
    uri: str
    digest: str
    """Digest over `files`: equal content has equal digest."""
    files: dict[str, str]
    """sha256 of every file of the version, by path."""
    model: TunedModel
    decision: Decision


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
    ties: bool
    """Whether "no difference" is an answer."""
    seed: int
    contestants: tuple[str, ...]
    """Every two of them are compared."""
    pairs: tuple[StudyPair, ...]
    """In the order of the page, before each rater's own shuffling."""
    report_sha256: str
    """Digest of the manifest.json of the report that the pictures are from."""
    page_sha256: str = ""
    """Digest of index.html."""


class Preference(Contract):
    """How often people preferred one contestant to another; the interval is that of `drtune.study.measures.win_rate`.

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


class StudyResult(Contract):
    """What people preferred; intervals are 95 %. `result.md` tells it in words.

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


class Observed(Contract):
    """One side of a comparison: prompts or scores, where they came from, and how many there are.

    >>> Observed(source="s3://traffic/2026-11", sha256="9f2c...", num_files=30, count=4120, used=2000,
    ...          problems={"duplicate": 118, "empty": 2})
    """

    source: str
    sha256: str
    """Digest of the file; of several files, of their digests by path."""
    num_files: int
    count: int
    """Rows that were taken: different prompts, or pictures with scores."""
    used: int
    """How many of them were compared: all, or a sample of them."""
    problems: dict[str, int]
    """How many records or files were not taken, by reason."""


class DriftCheck(Contract):
    """One property on both sides.

    >>> DriftCheck(name="words", subject="prompts", statistic="Wasserstein distance in standard deviations",
    ...            value=0.84, threshold=0.3, drifted=True, reason="mean 14.1 against 9.2 in the reference")
    """

    name: str
    subject: Literal["prompts", "rewards"]
    statistic: str
    value: float | None
    """None: there was not enough data."""
    threshold: float
    """In the unit of `value`, which drifted when it is at least this."""
    drifted: bool | None
    """None: there was not enough data."""
    reason: str


class DriftVerdict(Contract):
    """Whether what comes in has moved away from what was trained on, and why.

    >>> DriftVerdict(outcome="drifted", reason="2 of 6 checks drifted: words, text domain",
    ...              checks=(DriftCheck(...),), reference=Observed(...), incoming=Observed(...),
    ...              release_scores=None, scores=None, policy_sha256="c7aa...")
    """

    kind: Literal["DriftVerdict/1"] = "DriftVerdict/1"
    outcome: Literal["drifted", "stable", "not enough data"]
    reason: str
    checks: tuple[DriftCheck, ...]
    """Those that drifted first, those without enough data last."""
    reference: Observed
    """The prompts that were trained on."""
    incoming: Observed
    release_scores: Observed | None
    """Scores of pictures at the last release; None when none were given, as `scores`, those of now."""
    scores: Observed | None
    policy_sha256: str

    @property
    def retrain(self) -> bool:
        """Whether a schedule should train anew: only a drift that was seen is a reason to."""
        return self.outcome == "drifted"
