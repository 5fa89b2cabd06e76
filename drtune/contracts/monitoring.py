"""What watching the incoming prompts gives."""

from __future__ import annotations

from typing import Literal

from drtune.contracts.base import Contract

DriftOutcome = Literal["drifted", "stable", "not enough data"]


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
    outcome: DriftOutcome
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
