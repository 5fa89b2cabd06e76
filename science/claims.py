"""The paper's claims as questions to the records, each answered by a number with its interval."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from science.design import METHODS, STEPS, alphas, methods, windows
from science.results import ENDED, NEAR, Results
from science.statistics import Estimate, Floats, estimate

SHALLOW = ("ReFL", "DRaFT-1", "DRaFT-LV")
"""Methods that train the last step, or one of the last, alone."""
LOW_LEVEL = ("symmetry", "compressibility", "left half")
CLOSE = 0.02
"""Methods whose preference differs by less are close: a fiftieth of the reward's range."""


@dataclass(frozen=True)
class Finding:
    """One number that bears on a claim."""

    what: str
    estimate: Estimate
    verdict: str


@dataclass(frozen=True)
class Claim:
    """What the paper says, and what was found."""

    text: str
    findings: tuple[Finding, ...]


def claims(results: Results) -> list[Claim]:
    """All of them, in the order of the page."""
    low_level = [reward for reward in LOW_LEVEL if reward in results.scale.rewards]
    return [
        Claim(
            "Deep supervision wins on low-level rewards, where shallow methods fail.", tuple(_depth(results, low_level))
        ),
        Claim("The early steps are crucial for low-level rewards.", tuple(_early(results, low_level))),
        Claim(
            "Stopping the gradient at the denoiser's input makes depth cheap, and costs no reward.",
            tuple(_stop(results)),
        ),
        Claim("On preference the methods are close.", tuple(_close(results))),
    ]


def _depth(results: Results, rewards: list[str]) -> Iterator[Finding]:
    for reward in rewards:
        shallow = [label for label in SHALLOW if results.trainings(methods, label, 0, reward)]
        for way in (ENDED, NEAR):
            best = np.max([results.gains(methods, label, reward, way) for label in shallow], axis=0)
            ours = results.gains(methods, "DRTune", reward, way)
            yield _signed(f"{reward}, {way}: DRTune less the best of {', '.join(shallow)}", ours - best)


def _early(results: Results, rewards: list[str]) -> Iterator[Finding]:
    for reward in rewards:
        for way in (ENDED, NEAR):
            early, late = (results.gains(windows, label, reward, way) for label in ("earliest", "latest"))
            yield _signed(f"{reward}, {way}: only the earliest steps less only the latest", early - late)


def _stop(results: Results) -> Iterator[Finding]:
    """That there is no loss holds as long as none is seen, and fails where one is."""
    costs = results.costs(STEPS)
    for method, without, through in (("DRTune", "DRTune", "DRTune, alpha = 1"), ("full", "full, alpha = 0", "full")):
        seconds = np.array(costs[through]["seconds"]) - np.array(costs[without]["seconds"])
        yield _signed(f"seconds per update, {method}: alpha = 1 less alpha = 0", seconds)
    for reward in results.scale.rewards:
        for method in ("DRTune", "full"):
            labels = [f"{method}, alpha = {alpha}" for alpha in (0, 1)]
            if results.trainings(alphas, labels[0], 0, reward):
                stopped, passed = (results.gains(alphas, label, reward, ENDED) for label in labels)
                found = estimate(stopped - passed)
                verdict = {1: "holds, and more", 0: "no loss seen", -1: "does not hold"}[found.sign]
                yield Finding(f"{reward}, {method}: alpha = 0 less alpha = 1", found, verdict)


def _close(results: Results) -> Iterator[Finding]:
    ours = results.gains(methods, "DRTune", "preference", ENDED)
    for label in METHODS:
        if label != "DRTune":
            found = estimate(ours - results.gains(methods, label, "preference", ENDED))
            close = found.low > -CLOSE and found.high < CLOSE
            verdict = "holds" if close else "does not hold" if abs(found.mean) > CLOSE and found.sign else "undecided"
            yield Finding(f"DRTune less {label}, {ENDED}", found, verdict)


def _signed(what: str, values: Floats) -> Finding:
    found = estimate(values)
    return Finding(what, found, {1: "holds", 0: "undecided", -1: "does not hold"}[found.sign])
