"""The paper's claims as inequalities with margins, written down before anything was run to decide them.

An inequality bounds a weighted sum of gains. A gain is the change of a measure from the base, on the prompts that
report, at the learning rate and number of updates that the other prompts chose: those at which the objective that was
trained on had risen most within a budget of drift. It holds where the whole of its simultaneous interval is within
the bounds, does not where the whole is beyond one of them, and is undecided otherwise; a claim holds where all of its
inequalities do.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from science.arms import ALONE, DRTUNE, KEEPING, LONG, OBJECTIVES, SHALLOW, STEPS, Arm

NEAR = 0.1
"""The budget of drift within which deep and shallow are compared: pictures are still much as the base draws them."""
ANY = math.inf
"""No budget of drift."""
PREFERENCE_MARGIN = 0.02
"""A difference of preference that does not matter."""


SYMMETRY = KEEPING[0]
OURS = Arm(SYMMETRY, DRTUNE)


@dataclass(frozen=True)
class Inequality:
    """That a weighted sum of gains lies between two bounds."""

    terms: tuple[tuple[float, Arm], ...]
    above: float = -math.inf
    below: float = math.inf
    budget: float = NEAR
    """Of drift, for each arm."""
    measure: str | None = None
    """Whose gain is meant; None: the reward that each arm's objective is asked about."""

    told: str = ""
    """Its left side in words, where naming the arms would say it badly."""

    def __str__(self) -> str:
        """As the page says it: what is bounded, and by what."""
        parts = (_term(weight, arm, first=not place) for place, (weight, arm) in enumerate(self.terms))
        what = self.told or " ".join(parts)
        if math.isfinite(self.above) and math.isfinite(self.below):
            return f"{what} is between {self.above:+g} and {self.below:+g}"
        side, bound = ("above", self.above) if math.isfinite(self.above) else ("below", self.below)
        return f"{what} is {side} {bound:+g}" if bound else f"{what} is {side} 0"

    @property
    def objective(self) -> str:
        """What its arms were trained on."""
        return self.terms[0][1].objective


@dataclass(frozen=True)
class Hypothesis:
    """One claim."""

    name: str
    """By which `CLAIMS=` asks for it."""
    says: str
    why: str
    """Where the prediction comes from."""
    inequalities: tuple[Inequality, ...]
    change: str
    """What would change our mind."""

    @property
    def budgeted(self) -> list[tuple[Arm, float]]:
        """All arms that it needs, each with its budget of drift."""
        return [(arm, inequality.budget) for inequality in self.inequalities for _, arm in inequality.terms]


def _less(
    first: Arm, second: Arm, above: float = -math.inf, below: float = math.inf, budget: float = NEAR
) -> Inequality:
    return Inequality(((1, first), (-1, second)), above, below, budget)


def _deeper(objective: str, steps: int = STEPS, budget: float = NEAR) -> tuple[Inequality, ...]:
    """That DRTune gains more than each of the shallow by what matters."""
    margin = OBJECTIVES[objective].margin
    ours = Arm(objective, DRTUNE, steps)
    return tuple(_less(ours, Arm(objective, way, steps), above=margin, budget=budget) for way in SHALLOW)


def _wider(way: str) -> Inequality:
    """That DRTune's lead over a shallow method grows with the length of the chain."""
    ours, its = ([Arm(SYMMETRY, name, steps) for steps in (LONG, STEPS)] for name in (DRTUNE, way))
    return Inequality(
        ((1, ours[0]), (-1, its[0]), (-1, ours[1]), (1, its[1])),
        above=0,
        told=f"the lead over {way} at T = {LONG} less that at T = {STEPS}",
    )


NEWER = (
    "LeapAlign",
    "FlowBP-Sparse",
    "FlowBP-Bridge",
    "FlowBP-Lagrange",
    "Direct-Align",
    "SRPO",
    "DRTune, RSA",
    "DRaFT-4",
    "AlignProp",
    "full",
)
"""Methods beside DRTune that reach back along the chain, or came after it."""

HYPOTHESES = (
    Hypothesis(
        "depth",
        f"Within a drift of {NEAR} deep supervision gains more symmetry than each shallow method.",
        "Symmetry is global and early steps settle the layout; a trial of one seed had a lead of 0.14 to 0.19 over "
        "DRaFT-1 after 100 updates.",
        _deeper(SYMMETRY),
        "a lead that is surely below 0.05 over one of them",
    ),
    Hypothesis(
        "failing",
        f"Shallow methods fail on symmetry: within a drift of {NEAR} each gains less than half of what DRTune does.",
        "The paper says that they fail; less than half is what we take that to mean.",
        tuple(Inequality(((1, Arm(SYMMETRY, way)), (-0.5, OURS)), below=0) for way in SHALLOW),
        "one of them surely above half",
    ),
    Hypothesis(
        "elsewhere",
        "So it is on compressibility and on layout.",
        "Both are low-level in the paper's sense; after 20 updates without preference neither showed it.",
        tuple(inequality for objective in KEEPING[1:] for inequality in _deeper(objective)),
        "a lead that is surely below the margin over one of them",
    ),
    Hypothesis(
        "chain",
        "At T = 50 the lead is there too, and larger than at T = 12.",
        "The last step's share of the picture shrinks with T.",
        (*_deeper(SYMMETRY, LONG), *(_wider(way) for way in SHALLOW)),
        "a lead that is surely smaller at T = 50",
    ),
    Hypothesis(
        "alone",
        "Without preference in the sum, and however far it drifts, deep supervision still gains more.",
        "This is the setting of the paper's low-level rewards; after 20 updates it was so on symmetry alone.",
        tuple(inequality for objective in ALONE for inequality in _deeper(objective, budget=ANY)),
        "a lead that is surely below the margin over one of them",
    ),
    Hypothesis(
        "kept",
        "Preference in the sum is what keeps the picture: it falls by less than 0.05 then, else by more than 0.1.",
        "Every low-level reward alone was won by erasing.",
        (
            *(
                Inequality(((1, Arm(objective, DRTUNE)),), -0.05, budget=ANY, measure="preference")
                for objective in KEEPING
            ),
            *(
                Inequality(((1, Arm(objective, DRTUNE)),), below=-0.1, budget=ANY, measure="preference")
                for objective in ALONE
            ),
        ),
        "a sum under which preference falls as much as without it",
    ),
    Hypothesis(
        "early",
        "The early steps are crucial: trained alone, the earliest third gains more than the latest.",
        "Layout is settled early in the chain.",
        tuple(
            _less(Arm(objective, "earliest steps"), Arm(objective, "latest steps"), above=OBJECTIVES[objective].margin)
            for objective in KEEPING
        ),
        "the latest steps surely ahead",
    ),
    Hypothesis(
        "detached",
        "Stopping the gradient at the network's input costs less than 0.02 of symmetry.",
        "The paper detaches to keep the gradient from growing with depth; in the sweep it saves nothing else.",
        (
            _less(OURS, Arm(SYMMETRY, "DRTune, input passed"), above=-0.02),
            _less(Arm(SYMMETRY, "full, input detached"), Arm(SYMMETRY, "full"), above=-0.02),
            _less(Arm(SYMMETRY, DRTUNE, LONG), Arm(SYMMETRY, "DRTune, input passed", LONG), above=-0.02),
        ),
        "a loss that is surely larger",
    ),
    Hypothesis(
        "close",
        "On preference alone the methods are close, however far they drift.",
        "The paper says so of human preference. The miniature's judge is near its ceiling (0.906 of 1): little can "
        "be gained.",
        tuple(
            _less(
                Arm("preference", DRTUNE),
                Arm("preference", way),
                above=-PREFERENCE_MARGIN,
                below=PREFERENCE_MARGIN,
                budget=ANY,
            )
            for way in (*SHALLOW, "DRaFT-4")
        ),
        "a difference that is surely larger",
    ),
    Hypothesis(
        "newer",
        f"Within a drift of {NEAR} no other deep method gains more symmetry than DRTune, by what matters.",
        "None: their papers report gains on other rewards and models.",
        tuple(_less(Arm(SYMMETRY, way), OURS, below=OBJECTIVES[SYMMETRY].margin) for way in NEWER),
        "one that is surely ahead by more",
    ),
)
"""All, in the order in which they are run and told."""


def asked(names: Iterable[str]) -> tuple[Hypothesis, ...]:
    """The hypotheses of some names, all of them for none.

    Raises:
        KeyError: there is none of a name.
    """
    known = {hypothesis.name: hypothesis for hypothesis in HYPOTHESES}
    return tuple(known[name] for name in names) or HYPOTHESES


def arms_of(hypotheses: Iterable[Hypothesis]) -> list[Arm]:
    """The arms of some hypotheses, each once."""
    return list(dict.fromkeys(arm for arm, _ in budgeted(hypotheses)))


def budgeted(hypotheses: Iterable[Hypothesis]) -> list[tuple[Arm, float]]:
    """The arms of some hypotheses with each budget of drift within which they are asked about, each pair once."""
    return list(dict.fromkeys(pair for hypothesis in hypotheses for pair in hypothesis.budgeted))


def _term(weight: float, arm: Arm, *, first: bool) -> str:
    sign = "" if first else "less " if weight < 0 else "and "
    factor = {1: "", 0.5: "half of "}[abs(weight)]
    return f"{sign}{factor}{arm.way}" + (f" at T = {arm.steps}" if arm.steps != STEPS else "")
