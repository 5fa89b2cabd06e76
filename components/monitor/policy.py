"""What counts as drift: the least amount of data, a threshold for each check, and how many must be passed."""

from __future__ import annotations

from typing import Self

from pydantic import Field, model_validator

from drtune.config.sections import PolicyFile, Section


class Thresholds(Section):
    """From where on each property has drifted: sizes of an effect, not p-values; null leaves the check out.

    p-values are of no use here: with many prompts they call every trifle significant.
    """

    characters: float | None = Field(default=None, gt=0)
    """Length of a prompt: Wasserstein distance in standard deviations of the reference."""
    words: float | None = Field(default=None, gt=0)
    """The same for its number of words."""
    new_words: float | None = Field(default=None, gt=0, le=1)
    """Share of a prompt's words that no prompt of the reference has, beyond the share that is usual within it."""
    categories: float | None = Field(default=None, gt=0, lt=0.8325)
    """Jensen-Shannon distance of the shares of categories: 0 for equal shares, 0.8325 when none is common."""
    text_domain: float | None = Field(default=None, gt=0.5, lt=1)
    """ROC AUC of a classifier that tells the two sides apart by their words."""
    embeddings: float | None = Field(default=None, gt=0, lt=2)
    """Squared maximum mean discrepancy of embeddings, with a Gaussian kernel of median width."""
    rewards: float | None = Field(default=None, gt=0)
    """Scores of each reward: Wasserstein distance in standard deviations of the last release."""

    @model_validator(mode="after")
    def _says_something(self) -> Self:
        if not self.model_dump(exclude_none=True):
            raise ValueError(f"holds no threshold: give one of {', '.join(type(self).model_fields)}")
        return self


class MonitorPolicy(PolicyFile):
    """When a schedule should train anew."""

    min_prompts: int = Field(ge=20)
    """Prompts on each side that are needed to compare them."""
    max_prompts: int = Field(ge=20, le=5000)
    """Of more prompts on a side, a sample of this size is compared; memory grows with its square."""
    min_scores: int = Field(ge=20)
    """The same for pictures with a score."""
    max_scores: int = Field(ge=20)
    rewards: tuple[str, ...] = ()
    """Columns of the tables of scores that are rewards of yours; those with a name that drtune knows count anyway."""
    min_drifted: int = Field(ge=1)
    """So many checks must drift; each reward is a check of its own."""
    thresholds: Thresholds

    @model_validator(mode="after")
    def _leaves_room(self) -> Self:
        if self.max_prompts < self.min_prompts:
            raise ValueError(f"max_prompts: {self.max_prompts} is less than min_prompts, {self.min_prompts}")
        if self.max_scores < self.min_scores:
            raise ValueError(f"max_scores: {self.max_scores} is less than min_scores, {self.min_scores}")
        if self.thresholds.rewards is None:  # else only the tables tell how many checks there are
            self.refuse_too_few(len(self.thresholds.model_dump(exclude_none=True)))
        return self

    def refuse_too_few(self, num_checks: int) -> None:
        """Raise ValueError when so few checks could never come to a drift."""
        if num_checks < self.min_drifted:
            checks = "1 check" if num_checks == 1 else f"{num_checks} checks"
            raise ValueError(
                f"min_drifted: {self.min_drifted} can never be reached by {checks}, one for each threshold and for "
                f"rewards one for each reward; lower it, or give more thresholds"
            )
