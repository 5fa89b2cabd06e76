"""The gate before the registry: a report and a policy go in, a decision with its reasons comes out.

What the policy wants *gained* must hold at the low end of the 95 % interval: chance must not publish a model. What it
wants *kept* must hold for the mean: noise on a reward that nobody tuned must not refuse a good one.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from drtune.contracts import Decision, EvaluationReport, Score
from drtune.errors import UserError
from drtune.files import sha256_bytes


class Section(BaseModel):
    """A part of the policy: frozen, with unknown keys refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True)


class RewardRules(Section):
    """What one reward must fulfil, in the units of that reward; equality with a bound passes."""

    min_gain: float | None = None
    """The low end of the gain's interval must reach this."""
    min_win_rate: float | None = Field(default=None, ge=0, le=1)
    """The low end of the win rate's interval must reach this."""
    max_drop: float | None = Field(default=None, ge=0)
    """The mean gain must not lie below minus this."""
    max_drop_in_category: float | None = Field(default=None, ge=0)
    """The same for the mean gain in each category; without categories all prompts count as one."""

    @model_validator(mode="after")
    def _says_something(self) -> Self:
        if not self.model_dump(exclude_none=True):
            raise ValueError(f"holds no rule: give one of {', '.join(type(self).model_fields)}")
        return self


class Policy(Section):
    """When a tuned model may be published."""

    min_prompts: int = Field(ge=1)
    """The report must rest on at least so many prompts."""
    rewards: dict[str, RewardRules] = Field(min_length=1)
    """Rules by the reward's name; a reward that the report lacks fails."""


class Check(NamedTuple):
    """One rule held against one number."""

    passed: bool
    reason: str


def load_policy(path: str | Path) -> Policy:
    """Read a policy from a YAML file.

    Raises:
        UserError: the file cannot be read, or is not a policy.
    """
    try:
        return Policy.model_validate(yaml.safe_load(Path(path).read_text(encoding="utf-8")))
    except OSError as error:
        raise UserError(f"policy {path}: cannot be read ({error.strerror})") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"policy {path}: not valid YAML: {' '.join(str(error).split())}") from None
    except ValidationError as error:
        problems = [
            f"{'.'.join(map(str, problem['loc'])) or 'the file'}: {problem['msg']}" for problem in error.errors()
        ]
        raise UserError(f"policy {path}: {'; '.join(problems)}") from None


def decide(report: EvaluationReport, policy: Policy) -> Decision:
    """Publish when every rule of the policy passes. Pure; a number that is NaN never passes.

    A candidate that is at least as good in every number is never refused where a worse one was published.
    """
    checks = [
        Check(
            report.num_prompts >= policy.min_prompts,
            f"{report.num_prompts} prompts, at least {policy.min_prompts} wanted",
        ),
        *(check for name, rules in policy.rewards.items() for check in _checks(name, rules, report.scores)),
    ]
    failed = [f"failed: {check.reason}" for check in checks if not check.passed]
    passed = [f"passed: {check.reason}" for check in checks if check.passed]
    return Decision(
        publish=not failed,
        reasons=(*failed, *passed),
        report_sha256=sha256_bytes(report.manifest().encode()),
        policy_sha256=sha256_bytes(policy.model_dump_json().encode()),
    )


def _checks(name: str, rules: RewardRules, scores: Sequence[Score]) -> Iterator[Check]:
    """The checks of one reward, in the order of its rules."""
    overall = next((score for score in scores if score.reward == name and score.category is None), None)
    if overall is None:
        yield Check(False, f"{name}: not in the report; add it to evaluation.rewards")
        return
    if (bound := rules.min_gain) is not None:
        interval = f"95 % interval {overall.gain_low:.4f} to {overall.gain_high:.4f}"
        reason = f"{name}: gain {overall.gain:.4f} ({interval}), at least {bound:g} wanted at its low end"
        yield Check(overall.gain_low >= bound, reason)
    if (bound := rules.min_win_rate) is not None:
        interval = f"95 % interval {overall.win_low:.4f} to {overall.win_high:.4f}"
        reason = f"{name}: win rate {overall.win_rate:.4f} ({interval}), at least {bound:g} wanted at its low end"
        yield Check(overall.win_low >= bound, reason)
    if (bound := rules.max_drop) is not None:
        yield Check(overall.gain >= -bound, f"{name}: mean gain {overall.gain:.4f}, at least {-bound:g} wanted")
    if (bound := rules.max_drop_in_category) is not None:
        categories = [score for score in scores if score.reward == name and score.category is not None]
        # NaN is the worst of all, and min() alone would overlook it.
        worst = min(categories or [overall], key=lambda score: (not math.isnan(score.gain), score.gain))
        where = "all prompts" if worst.category is None else f"category {worst.category!r}"
        reason = f"{name}: mean gain {worst.gain:.4f} in {where}, the worst, at least {-bound:g} wanted"
        yield Check(worst.gain >= -bound, reason)
