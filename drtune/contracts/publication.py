"""What deciding and publishing give."""

from __future__ import annotations

import json
from typing import Any, Literal, Self

from drtune.contracts.base import Contract
from drtune.contracts.model import TunedModel
from drtune.files.local import sha256_bytes


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

    kind: Literal["RegistryEntry/1", "RegistryEntry/2"] = "RegistryEntry/2"
    name: str
    version: str
    uri: str
    digest: str = ""
    """Digest over all else that stands here; in RegistryEntry/1 over `files` alone. Empty: not sealed yet."""
    files: dict[str, str]
    """sha256 of every file of the version, by path."""
    model: TunedModel
    decision: Decision

    def sealed(self) -> Self:
        """The same with its digest."""
        return self.model_copy(update={"digest": _digest(json.loads(self.manifest()))})

    @classmethod
    def unseal(cls, manifest: bytes) -> Self | None:
        """The entry in the text of a manifest, None if the digest in it is not its own.

        Raises:
            ValidationError: it is none of this version of drtune.
        """
        entry = cls.model_validate_json(manifest)
        # Of the text, not of the value: fields that are added later, with a default, are not in what was sealed before.
        return entry if entry.digest == _digest(json.loads(manifest)) else None


def _digest(entry: dict[str, Any]) -> str:
    """The sha256 of an entry without its digest; in RegistryEntry/1 of what `sha256sum` prints for its files."""
    if entry["kind"] == "RegistryEntry/1":
        covered = "".join(f"{sha256}  {path}\n" for path, sha256 in sorted(entry["files"].items()))
    else:
        covered = json.dumps({**entry, "digest": ""}, sort_keys=True)
    return sha256_bytes(covered.encode())
