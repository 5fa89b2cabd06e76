"""What must hold before a tuned model is published: the YAML file of a policy, and whether a run can ever fulfil it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Self

from pydantic import Field, model_validator

from drtune.config import Config
from drtune.config.sections import PolicyFile, Section
from drtune.contracts import MIN_PROMPTS, MIN_SEEDS
from drtune.errors import UserError


class Rules(Section):
    """What one reward must fulfil against one opponent, in its own units; equality with a bound passes."""

    min_gain: float | None = None
    """The low end of the gain's interval must reach this."""
    min_win_rate: float | None = Field(default=None, ge=0, le=1)
    """The low end of the win rate's interval must reach this."""
    max_drop: float | None = Field(default=None, ge=0)
    """The mean gain must not lie below minus this."""
    max_drop_in_category: float | None = Field(default=None, ge=0)
    """The same for the mean gain in each category of enough prompts; without one, all prompts count as one."""

    @model_validator(mode="after")
    def _says_something(self) -> Self:
        if not self.model_dump(exclude_none=True):
            raise ValueError(f"holds no rule: give one of {', '.join(type(self).model_fields)}")
        return self


class Limits(Section):
    """What must be kept whatever was tuned, against the base; these show a reward that is hacked."""

    max_held_out_drop: float | None = Field(default=None, ge=0)
    """No reward that was not tuned on may fall by more, in standard deviations of the base's prompts."""
    min_diversity: float | None = Field(default=None, ge=0)
    """Diversity, within a prompt and across prompts, must keep this share of the base's."""
    max_drift: float | None = Field(default=None, ge=0, le=2)
    """The mean distance from the base's pictures of the same noise, 1 - cosine, must not exceed this."""
    max_cmmd: float | None = Field(default=None, ge=0)
    """The distance of all pictures from all of the base's, CMMD, must not exceed this."""
    min_all_rise: float | None = Field(default=None, ge=0, le=1)
    """On at least this share of the prompts every reward must rise."""
    max_only_trained: float | None = Field(default=None, ge=0, le=1)
    """On at most this share may the rewards that were tuned on rise alone."""
    max_look_change: float | None = Field(default=None, ge=0)
    """Luminance, contrast, saturation and sharpness may move by so many standard deviations of the base's prompts."""


class CapabilityRules(Section):
    """That the candidate can do no less than the base, in what compositional prompts ask for: non-inferiority."""

    margin: float = Field(gt=0, lt=1)
    """The low end of the interval of the difference, candidate minus base, in the share of prompts whose picture is
    right must lie above minus this."""
    without: tuple[str, ...] = ()
    """Categories that do not count: those which the trained reward itself speaks against."""


class StudyRules(Section):
    """What people must have said, in a human study of the same report."""

    opponent: str = "base"
    min_win_rate: float = Field(default=0.5, ge=0, le=1)
    """The low end of the interval of the candidate's win rate must reach this."""
    min_votes: int = Field(default=1, ge=1)
    min_raters: int = Field(default=1, ge=1)


class SeedRules(Section):
    """What the same training must come to with several seeds."""

    candidate: int = Field(default=0, ge=0)
    """Which of the seeds is judged and published: its place in their order, named before they are trained. The best
    of several would look better than the training is."""
    min_seeds: int = Field(default=MIN_SEEDS, ge=MIN_SEEDS)
    min_gain: dict[str, float] = Field(min_length=1)
    """By reward, or `capability`, or `capability CATEGORY`: the low end of the interval of the gain over the base, over
    prompts and seeds, must reach this."""


class Policy(PolicyFile):
    """When a tuned model may be published."""

    min_prompts: int = Field(ge=MIN_PROMPTS)
    """The report must rest on at least so many prompts; on a handful an interval misses the truth more often than it
    says."""
    min_prompts_in_category: int = Field(default=MIN_PROMPTS, ge=MIN_PROMPTS)
    """A category of fewer is not judged by itself, since its mean is noise."""
    against: dict[str, dict[str, Rules]] = Field(min_length=1)
    """Rules by opponent and reward. An opponent or a reward that the report lacks fails; only `champion` may be absent,
    as it is until something is published."""
    limits: Limits = Limits()
    capability: CapabilityRules | None = None
    scales: tuple[Annotated[float, Field(gt=0, le=4)], ...] = ()
    """At these strengths of the adapter, too, must the rules against the base and the limits hold, on the prompts of
    the evaluation's curve, however few: a model should not stand at an edge."""
    study: StudyRules | None = None
    seeds: SeedRules | None = None

    @model_validator(mode="after")
    def _names_a_reward(self) -> Self:
        if "candidate" in self.against:
            raise ValueError("against.candidate: is who is judged; name an opponent, such as base")
        for opponent, rules in self.against.items():
            if not rules:
                raise ValueError(f"against.{opponent}: holds no reward: name one with its rules, or leave it out")
        return self


def refuse_unmeasured(policy: Policy, config: Config, references: Iterable[str] = ()) -> None:
    """Refuse a policy with rules on what the evaluation of this configuration, with these references, will not have.

    Raises:
        UserError: naming one; better before a training than after it.
    """
    measured = set(config.measured_rewards)
    if unknown := policy.against.keys() - {"base", "champion", *references}:
        name = min(unknown)
        raise UserError(
            f"policy: against.{name} is no reference of this run; give it as --reference {name}=PLACE, or give another "
            "policy"
        )
    limits = policy.limits.model_dump(exclude_none=True)
    for limit in ("max_held_out_drop", "min_all_rise", "max_only_trained"):
        if limit in limits and measured == config.rewards.keys():
            raise UserError(
                f"policy: limits.{limit} needs a reward that is not tuned on; add one to evaluation.rewards"
            )
    for limit in ("min_diversity", "max_drift", "max_cmmd"):
        if limit in limits and config.evaluation.features == "none":
            raise UserError(
                f"policy: limits.{limit} is not measured with evaluation.features=none; give other features"
            )
    if "min_diversity" in limits and config.evaluation.pictures_per_prompt == 1:
        raise UserError(
            "policy: limits.min_diversity is of the pictures of one prompt too, and evaluation.pictures_per_prompt=1; "
            "draw 2 or more"
        )
    if policy.capability and not config.capability_prompts:
        raise UserError(
            "policy: capability is not measured, since this run draws no compositional prompts; set "
            "evaluation.capability.prompts"
        )
    drawn = {1.0, *config.evaluation.scale_curve.scales} if config.scale_prompts and config.weights == "lora" else set()
    if missing := set(policy.scales) - drawn:
        raise UserError(
            f"policy: scales holds {min(missing):g}, at which this run will not draw; see evaluation.scale_curve, "
            "which weights=full has not"
        )
    for opponent, rewards in policy.against.items():
        for reward in rewards:
            if reward not in measured:
                raise UserError(
                    f"policy: against.{opponent}.{reward} is not among the rewards of the configuration "
                    f"({', '.join(sorted(measured))}); add it to evaluation.rewards, or give another policy"
                )
