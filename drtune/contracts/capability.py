"""What base and candidate can draw of what compositional prompts ask for, and whether the candidate can do less."""

from __future__ import annotations

from drtune.contracts.base import Contract

ANSWERS = "capability/answers.jsonl"
"""In the folder of a report, a line a picture: whether it is right, and for each thing that its prompt asks for the
probability that it shows this."""


class CapabilityScore(Contract):
    """On which share of the prompts the one picture of each is right in everything that its prompt asks for.

    >>> CapabilityScore(category="counting", num_prompts=16, base=0.94, candidate=0.88, gained=0, lost=1,
    ...                 difference=-0.06, low=-0.24, high=0.13)
    """

    category: str | None
    """None: over all prompts."""
    num_prompts: int
    base: float
    """Share of the prompts whose picture by the base is right; likewise the candidate's."""
    candidate: float
    gained: int
    """Prompts that the candidate alone got right."""
    lost: int
    """Prompts that the base alone got right."""
    difference: float
    """Candidate minus base."""
    low: float | None
    """Ends of its 95 % interval; None on fewer than MIN_PROMPTS prompts."""
    high: float | None


class LostPrompt(Contract):
    """A prompt that the base alone got right.

    >>> LostPrompt(prompt="a red ring on the left, on a white background", category="position",
    ...            missing=("in its place",), thumbnails={"base": "capability/thumbnails/base/0007-0.png"})
    """

    prompt: str
    category: str
    missing: tuple[str, ...]
    """What the candidate's picture does not show."""
    thumbnails: dict[str, str]
    """Paths in the report's folder, by contestant."""


class Capability(Contract):
    """Base and candidate on compositional prompts from the same noise, a picture each.

    >>> Capability(judge="vqascore", provenance="Qwen/...", scores=(CapabilityScore(...),), lost=(LostPrompt(...),))
    """

    judge: str
    provenance: str
    """What its answers hang on besides picture and question: digests of its weights."""
    scores: tuple[CapabilityScore, ...]
    """Over all prompts, then by category."""
    lost: tuple[LostPrompt, ...]
    """Some that the base alone got right, for a page to show."""
