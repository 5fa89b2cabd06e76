"""The paper's claims as questions to the records, each answered by a number with its interval."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from science.design import BOTH_KINDS, METHODS, alphas, methods, windows
from science.results import ENDED, NEAR, Results
from science.statistics import Estimate, Floats, estimate

SHALLOW = ("ReFL", "DRaFT-1", "DRaFT-LV")
"""Methods that train the last step, or one of the last, alone."""
LOW_LEVEL = ("symmetry", "compressibility", "left half")
MARGIN = 0.02
"""A loss or a difference in reward that does not matter; symmetry and preference are at most 1."""


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
        Claim("Deep supervision wins on low-level rewards.", tuple(_depth(results, low_level))),
        Claim("The early steps are crucial for low-level rewards.", tuple(_early(results, low_level))),
        Claim("Stopping the gradient at the denoiser's input costs no reward.", tuple(_stop(results))),
        Claim("On preference the methods are close.", tuple(_close(results))),
    ]


def _depth(results: Results, rewards: list[str]) -> Iterator[Finding]:
    for reward in rewards:
        for way in (ENDED, NEAR):
            shallow = {
                label: results.gains(methods, label, reward, way)
                for label in results.labels(reward)
                if label in SHALLOW
            }
            best = max(shallow, key=lambda label: float(shallow[label].mean()))
            ours = results.gains(methods, "DRTune", reward, way)
            yield _more(f"{reward}, {way}: DRTune less {best}, the best of the shallow", ours - shallow[best])


def _early(results: Results, rewards: list[str]) -> Iterator[Finding]:
    for reward in rewards:
        for way in (ENDED, NEAR):
            early, late = (results.gains(windows, label, reward, way) for label in ("earliest", "latest"))
            yield _more(f"{reward}, {way}: only the earliest steps less only the latest", early - late)


def _stop(results: Results) -> Iterator[Finding]:
    for reward in BOTH_KINDS:
        for method in ("DRTune", "full"):
            stopped, passed = (results.gains(alphas, f"{method}, alpha = {alpha}", reward, ENDED) for alpha in (0, 1))
            found = estimate(stopped - passed)
            verdict = _verdict(holds=found.low > -MARGIN, fails=found.high < -MARGIN)
            yield Finding(f"{reward}, {method}: alpha = 0 less alpha = 1", found, verdict)


def _close(results: Results) -> Iterator[Finding]:
    ours = results.gains(methods, "DRTune", "preference", ENDED)
    for label in METHODS:
        if label != "DRTune":
            found = estimate(ours - results.gains(methods, label, "preference", ENDED))
            verdict = _verdict(
                holds=found.low > -MARGIN and found.high < MARGIN, fails=found.low > MARGIN or found.high < -MARGIN
            )
            yield Finding(f"DRTune less {label}, {ENDED}", found, verdict)


def _more(what: str, values: Floats) -> Finding:
    """That the values are above 0."""
    found = estimate(values)
    return Finding(what, found, _verdict(holds=found.sign > 0, fails=found.sign < 0))


def _verdict(*, holds: bool, fails: bool) -> str:
    return "holds" if holds else "does not hold" if fails else "undecided"
