"""What deciding and publishing give."""

from __future__ import annotations

from typing import Literal

from drtune.contracts.base import Contract
from drtune.contracts.model import TunedModel


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
    seeds_sha256: str | None = None
    """Digest of the SeedsResult's manifest.json; None: there was none."""

    is_unopposed: bool = False
    """The policy has rules against a champion, and the report has none: it holds while nothing is published."""

    pick: str = ""
    """Which strength of the adapter the policy would pick, in a sentence; empty without a curve."""

    @property
    def reasons(self) -> tuple[str, ...]:
        """The checks as sentences."""
        return tuple(f"{'passed' if check.passed else 'failed'}: {check.reason}" for check in self.checks)


class RegistryEntry(Contract):
    """One immutable version of a published model.

    >>> RegistryEntry(name="miniature-symmetry", version="v3", uri="s3://models/miniature-symmetry/files/5d1c...",
    ...               files={"README.md": "77ab..."}, model=TunedModel(...), decision=Decision(...))
    """

    kind: Literal["RegistryEntry/2"] = "RegistryEntry/2"
    name: str
    version: str
    uri: str
    files: dict[str, str]
    """sha256 of every file of the version, by path."""
    model: TunedModel
    decision: Decision
