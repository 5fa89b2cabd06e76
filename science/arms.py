"""What is trained: objectives, ways to train on them, and the cells that the two make with learning rates and seeds."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

LEFT_HALF = "science/layout.py:left_half"
STEPS = 12
"""T, but where an arm says otherwise."""
LONG = 50
"""T of the claims about a longer chain."""


@dataclass(frozen=True)
class Objective:
    """A sum of rewards that is trained on, and the one of them that is asked about."""

    weights: Mapping[str, float]
    judged: str
    margin: float
    """A difference of the judged reward that matters, and no less does."""


KEPT = {"preference": 0.8}
"""Added to a low-level reward, it makes erasing the picture no way to win."""
OBJECTIVES = {
    "symmetry + preference": Objective({"symmetry": 1.0, **KEPT}, "symmetry", 0.05),
    # A grey level of compressibility is worth as much as 0.25 of symmetry: so erasing gains about as much in both.
    "compressibility + preference": Objective({"compressibility": 0.25, **KEPT}, "compressibility", 0.1),
    "left half + preference": Objective({LEFT_HALF: 1.0, **KEPT}, LEFT_HALF, 0.05),
    "symmetry": Objective({"symmetry": 1.0}, "symmetry", 0.05),
    "compressibility": Objective({"compressibility": 1.0}, "compressibility", 0.1),
    "left half": Objective({LEFT_HALF: 1.0}, LEFT_HALF, 0.05),
    "preference": Objective({"preference": 1.0}, "preference", 0.02),
}
"""By the name that they have on the page."""
KEEPING = ("symmetry + preference", "compressibility + preference", "left half + preference")
"""A low-level reward with preference in the sum."""
ALONE = ("symmetry", "compressibility", "left half")
"""The same rewards, each alone."""


@dataclass(frozen=True)
class Way:
    """How the gradient is taken: settings as `--set` takes them, or the steps that alone train."""

    settings: tuple[str, ...]
    window: tuple[int, ...] = ()


def short(reward: str) -> str:
    """A reward's name on the page."""
    return "left half" if reward == LEFT_HALF else reward


DRTUNE = "DRTune"
SHALLOW = ("ReFL", "DRaFT-1", "DRaFT-LV")
"""They train the last step, or one of the last, alone."""
WAYS = {
    DRTUNE: Way(("method.name=drtune",)),
    "ReFL": Way(("method.name=refl",)),
    "DRaFT-1": Way(("method.name=draft_k", "method.trained_steps=1")),
    "DRaFT-LV": Way(("method.name=draft_lv",)),
    "DRaFT-4": Way(("method.name=draft_k", "method.trained_steps=4")),
    "AlignProp": Way(("method.name=alignprop", "method.trained_steps=12")),
    "full": Way(("method.name=full",)),
    "DRTune, input passed": Way(("method.name=drtune", "method.alpha=1")),
    "full, input detached": Way(("method.name=full", "method.alpha=0")),
    "DRTune, RSA": Way(("method.name=drtune", "method.rho=0.05")),
    "LeapAlign": Way(("method.name=leapalign",)),
    "FlowBP-Sparse": Way(("method.name=flowbp_sparse",)),
    "FlowBP-Bridge": Way(("method.name=flowbp_bridge",)),
    "FlowBP-Lagrange": Way(("method.name=flowbp_lagrange",)),
    "Direct-Align": Way(("method.name=direct_align",)),
    "SRPO": Way(("method.name=srpo",)),
    "earliest steps": Way((), window=(0, 1, 2, 3)),
    "latest steps": Way((), window=(8, 9, 10, 11)),
}
"""By the name that they have on the page. AlignProp's depth is drawn from 1 to 12; the windows are of T = 12."""


@dataclass(frozen=True)
class Arm:
    """What is held against others: an objective, a way to train on it, and the length of the chain."""

    objective: str
    """By its name in OBJECTIVES."""
    way: str
    """By its name in WAYS."""
    steps: int = STEPS
    """T, in training and in examination."""

    def __str__(self) -> str:
        """As the page and the log name it."""
        return f"{self.way} on {self.objective}" + (f", T = {self.steps}" if self.steps != STEPS else "")


@dataclass(frozen=True)
class Cell:
    """One training."""

    arm: Arm
    learning_rate: float
    seed: int

    @property
    def name(self) -> str:
        """Of its file."""
        words = f"{self.arm.objective}_{self.arm.way}".replace(" + ", "+").replace(", ", "-").replace(" ", "-")
        return f"{words}_T={self.arm.steps}_{self.learning_rate:g}_{self.seed}"

    @property
    def way(self) -> Way:
        """How its gradient is taken."""
        return WAYS[self.arm.way]

    @property
    def overrides(self) -> list[str]:
        """What it sets of the configuration. The range of early stops is a quarter of the chain, as by default."""
        weights = ", ".join(f"{name}: {weight}" for name, weight in OBJECTIVES[self.arm.objective].weights.items())
        return [
            f"rewards={{{weights}}}",
            f"sampler.steps={self.arm.steps}",
            f"evaluation.sampler.steps={self.arm.steps}",
            f"method.early_stop={self.arm.steps // 4}",
            f"optimizer.learning_rate={self.learning_rate:g}",
            f"seed={self.seed}",
            *self.way.settings,
        ]


@dataclass(frozen=True)
class Scale:
    """How large the study is."""

    updates: int = 100
    checks: tuple[int, ...] = (25, 50, 75, 100)
    """Updates after which the tuned model is examined, the last one included."""
    rates: tuple[float, ...] = (4e-4, 8e-4, 1.6e-3, 3.2e-3, 6.4e-3)
    """Learning rates."""
    seeds: int = 8
    choosing_seeds: int = 2
    """The first so many train at every learning rate; the others at the one that was chosen."""
    prompts: int = 128
    """Held-out prompts of a seed, the same for all its cells: the first half chooses, the second reports."""

    @property
    def choosing(self) -> slice:
        """Prompts that choose a learning rate and when to stop."""
        return slice(self.prompts // 2)

    @property
    def reporting(self) -> slice:
        """Prompts that are reported on."""
        return slice(self.prompts // 2, self.prompts)


FULL = Scale()
QUICK = Scale(updates=24, checks=(8, 16, 24), rates=(1.6e-3, 3.2e-3), seeds=3, choosing_seeds=1, prompts=32)


def choosing_cells(arms: Iterable[Arm], scale: Scale) -> list[Cell]:
    """The cells that choose a learning rate for each arm.

    They are in the order of seed and T, by which cells share what is made once; so an early look sees the whole.
    """
    seeds = range(min(scale.choosing_seeds, scale.seeds))
    return _ordered(Cell(arm, rate, seed) for arm in arms for rate in scale.rates for seed in seeds)


def further_cells(chosen: Iterable[tuple[Arm, float]], scale: Scale) -> list[Cell]:
    """The cells of the other seeds, at the learning rates that were chosen for each arm."""
    seeds = range(scale.choosing_seeds, scale.seeds)
    return _ordered(Cell(arm, rate, seed) for arm, rate in dict.fromkeys(chosen) for seed in seeds)


def _ordered(cells: Iterable[Cell]) -> list[Cell]:
    return sorted(cells, key=lambda cell: (cell.seed, cell.arm.steps))
