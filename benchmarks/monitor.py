"""False and missed alarms of the drift checks: random halves of one set must be stable, different sets must not.

python -m benchmarks.monitor [another prompts file ...]    needs `dvc pull`
"""

from __future__ import annotations

import itertools
import random
import sys
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import pandas as pd

from components.monitor.compare import compare_prompts, compare_scores
from components.monitor.policy import MonitorPolicy
from components.monitor.sources import read_prompts
from components.monitor.verdict import outcome_of
from drtune.contracts import DriftCheck
from drtune.prompts.prepare import Prompt

ROOT = Path(__file__).parents[1]
POLICY = MonitorPolicy.read(ROOT / "configs/monitor.yaml")
SPLITS = 100


def judge(reference: list[Prompt], incoming: list[Prompt]) -> tuple[str, list[DriftCheck]]:
    """The outcome and its checks."""
    checks = [made.check for made in compare_prompts(reference, incoming, POLICY)]
    return outcome_of(checks, POLICY.min_drifted)[0], checks


def same(name: str, prompts: list[Prompt], num_incoming: int) -> None:
    """Split one set at random, again and again."""
    outcomes: Counter[str] = Counter()
    values = defaultdict(list)
    for seed in range(SPLITS):
        mixed = random.Random(seed).sample(prompts, len(prompts))
        outcome, checks = judge(mixed[num_incoming:], mixed[:num_incoming])
        outcomes[outcome] += 1
        for check in checks:
            if check.value is not None:
                values[f"{check.name} ({check.threshold:g})"].append(check.value)
    worst = ", ".join(f"{check} {np.quantile(each, 0.95):.3f} {max(each):.3f}" for check, each in values.items())
    print(f"{name}: {len(prompts) - num_incoming} against {num_incoming}: stable in {outcomes['stable']} of {SPLITS}")
    print(f"  check (threshold), 95th and largest value: {worst}", flush=True)


def same_scores(num_rewards: int = 5) -> None:
    """Draw the scores of both sides from one normal distribution, as few as are compared."""
    outcomes: Counter[str] = Counter()
    largest = []
    for seed in range(SPLITS):
        draw = np.random.default_rng(seed)
        release, now = (pd.DataFrame(draw.normal(size=(POLICY.min_scores, num_rewards))) for _ in range(2))
        checks = [made.check for made in compare_scores(release, now, POLICY)]
        outcomes[outcome_of(checks, POLICY.min_drifted)[0]] += 1
        largest.append(max(check.value or 0.0 for check in checks))
    print(f"{num_rewards} rewards, {POLICY.min_scores} scores each: stable in {outcomes['stable']} of {SPLITS}")
    print(f"  largest of them: 95th {np.quantile(largest, 0.95):.3f}, of all {max(largest):.3f}", flush=True)


def mixed(first: str, second: str, reference: list[Prompt], foreign: list[Prompt], percent: int) -> None:
    """Put a share of another set among prompts of the reference's own."""
    draw = random.Random(0)
    own = draw.sample(reference, len(reference))
    half = len(own) // 2
    num_foreign = half * percent // 100
    different(
        f"{percent} % {second} in {first}", own[half:], own[: half - num_foreign] + draw.sample(foreign, num_foreign)
    )


def different(name: str, reference: list[Prompt], incoming: list[Prompt]) -> None:
    """Compare two sets once."""
    outcome, checks = judge(reference, incoming)
    values = ", ".join(f"{check.name} {'-' if check.value is None else f'{check.value:.2f}'}" for check in checks)
    print(f"{name}: {outcome}; {values}", flush=True)


def main(paths: list[str]) -> None:
    """Print both kinds of alarm for each set, and for each pair of sets."""
    sets = {Path(path).stem: read_prompts("incoming", path).prompts for path in paths}
    for name, prompts in sets.items():
        for num_incoming in (len(prompts) // 2, POLICY.min_prompts):
            same(name, prompts, num_incoming)
    same_scores()
    for first, second in itertools.permutations(sets, 2):
        different(f"{second} after {first}", sets[first], sets[second])
        for percent in (5, 10, 20, 50):
            mixed(first, second, sets[first], sets[second], percent)
    for name, prompts in sets.items():
        counts = Counter(prompt.category for prompt in prompts)
        for category in [each for each, count in counts.items() if POLICY.min_prompts <= count < len(prompts)]:
            chosen = [prompt for prompt in prompts if prompt.category == category]
            different(f"{category!r} alone after {name}", prompts, chosen)


if __name__ == "__main__":
    main([str(ROOT / "data/sdxl.jsonl"), str(ROOT / "data/miniature.jsonl"), *sys.argv[1:]])
