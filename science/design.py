"""The design: which trainings are run. A cell is one of them; the same cell may serve several experiments."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from itertools import product
from typing import Any

LEFT_HALF = "science/layout.py:left_half"
REWARDS = {
    "symmetry": "symmetry",
    "compressibility": "compressibility",
    "left half": LEFT_HALF,
    "preference": "preference",
}
"""What is trained on, by the name it has on the page."""

METHODS = {
    "DRTune": ("method.name=drtune",),
    "full": ("method.name=full",),
    "DRaFT-4": ("method.name=draft_k", "method.trained_steps=4"),
    "AlignProp": ("method.name=alignprop", "method.trained_steps=12"),
    "ReFL": ("method.name=refl",),
    "DRaFT-1": ("method.name=draft_k", "method.trained_steps=1"),
    "DRaFT-LV": ("method.name=draft_lv",),
}
"""The methods with their settings, the deep ones first. AlignProp's depth is drawn from 1 to T."""
EVERYWHERE = ("DRTune", "full", "DRaFT-4", "ReFL", "DRaFT-1")
"""Methods that are tried on every reward; the others on `BOTH_KINDS`."""
BOTH_KINDS = ("symmetry", "preference")
"""A low-level reward and the preference."""

STEPS = 12
"""T, but where it is varied."""
WINDOWS = {"earliest": (0, 1, 2, 3), "middle": (4, 5, 6, 7), "latest": (8, 9, 10, 11)}
"""K = 4 steps that alone train, each with its input detached, in a chain that runs to its end."""


@dataclass(frozen=True)
class Scale:
    """How large the study is."""

    updates: int = 20
    checks: tuple[int, ...] = (5, 10, 15, 20)
    """Updates after which the tuned model is examined, the last one included."""
    learning_rates: tuple[float, ...] = (8e-4, 1.6e-3, 3.2e-3)
    middle_rate: float = 1.6e-3
    """Of the experiments that hold the learning rate."""
    seeds: int = 3
    rewards: tuple[str, ...] = tuple(REWARDS)
    prompts: int = 16
    """Held-out prompts of each seed's examination, each seed its own."""
    pictures: int = 2
    """Of each prompt."""
    chains: tuple[int, ...] = (6, 12, 25, 50)
    """T, where costs and gradients are held against it."""
    repeats: int = 4
    """Updates that are timed."""
    batches: int = 6
    """Whose gradients are taken."""


FULL = Scale()
QUICK = Scale(
    updates=8,
    checks=(4, 8),
    learning_rates=(3.2e-3,),
    middle_rate=3.2e-3,
    seeds=2,
    rewards=BOTH_KINDS,
    prompts=8,
    chains=(6, 12, 25),
    repeats=2,
    batches=4,
)


@dataclass(frozen=True)
class Cell:
    """One training."""

    reward: str
    """By its name in REWARDS."""
    settings: tuple[str, ...]
    """Differences from the defaults, as `--set` takes them."""
    learning_rate: float
    seed: int
    window: tuple[int, ...] = ()
    """Sampler steps that train, where no method chooses them."""
    deployed: bool = False
    """Examined with the guidance of deployment too."""

    @property
    def name(self) -> str:
        """Of its file."""
        settings = [setting.rpartition(".")[2].removeprefix("name=") for setting in self.settings]
        window = [f"steps={self.window[0]}-{self.window[-1]}"] if self.window else []
        return "_".join([self.reward.replace(" ", "-"), *settings, *window, f"{self.learning_rate:g}", f"{self.seed}"])

    def as_json(self) -> dict[str, Any]:
        """What identifies it."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}


def cells_of(scale: Scale) -> list[Cell]:
    """All cells, each once; the first seed of every experiment comes first, so that an early look sees the whole."""
    made = dict.fromkeys(
        cell
        for seed in range(scale.seeds)
        for experiment in (methods, windows, alphas, ablations)
        for _, cell in experiment(scale, seed)
    )
    return list(made)


Labelled = Iterator[tuple[str, Cell]]
"""What an experiment holds against each other, and its cells."""
Experiment = Callable[[Scale, int], Labelled]
"""The cells of a scale and seed."""


def methods(scale: Scale, seed: int) -> Labelled:
    """Methods by rewards by learning rates."""
    for reward, (label, settings) in product(scale.rewards, METHODS.items()):
        if label in EVERYWHERE or reward in BOTH_KINDS:
            for rate in scale.learning_rates:
                yield label, Cell(reward, settings, rate, seed, deployed=True)


def windows(scale: Scale, seed: int) -> Labelled:
    """Only the earliest, the middle or the latest steps train, by rewards, at the higher learning rates."""
    for reward, (label, window) in product(scale.rewards, WINDOWS.items()):
        for rate in scale.learning_rates:
            if rate >= scale.middle_rate:
                yield label, Cell(reward, (), rate, seed, window)


def alphas(scale: Scale, seed: int) -> Labelled:
    """How much gradient passes through the network's input: in DRTune, and when all steps train."""
    for reward in BOTH_KINDS:
        for method, alpha in product(("DRTune", "full"), (0, 0.5, 1)):
            published = {"DRTune": 0, "full": 1}[method]
            override = () if alpha == published else (f"method.alpha={alpha}",)
            cell = Cell(reward, METHODS[method] + override, scale.middle_rate, seed, deployed=not override)
            yield f"{method}, alpha = {alpha}", cell


ABLATIONS = {
    "K": ("method.trained_steps", 4, (1, 2, 4, 8)),
    "m": ("method.early_stop", 3, (1, 3, 6)),
    "T": ("sampler.steps", 12, (6, 12, 24)),
}
"""Settings of DRTune: key, default, and the values that are tried, the others at their defaults."""


def ablations(scale: Scale, seed: int) -> Labelled:
    """DRTune on symmetry with one setting varied."""
    for letter, (key, default, values) in ABLATIONS.items():
        for value in values:
            override = () if value == default else (f"{key}={value}",)
            settings = METHODS["DRTune"] + override
            yield f"{letter} = {value}", Cell("symmetry", settings, scale.middle_rate, seed, deployed=not override)
