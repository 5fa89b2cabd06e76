"""A method is a plan for the sweep: where sampling stops, which steps train, what the gradient passes through.

docs/method.md has the table of all methods with their papers and costs.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from drtune.config import MethodConfig


@dataclass(frozen=True)
class Plan:
    """What one update does. Steps count from 0, the noisiest, to T - 1.

    >>> Plan(stop=10, trained=(1, 4, 7, 10), alpha=0.0)
    """

    stop: int
    """The last step that runs; before T - 1, the clean latents are predicted from there in one jump."""
    trained: tuple[int, ...]
    """Steps whose output carries gradient to the weights, in rising order, none beyond `stop`."""
    alpha: float
    """How much of the gradient passes through the network's input: 0 detaches it, 1 is full back-propagation."""
    start: int = 0
    """The first step that runs."""
    bridges: tuple[int, ...] | None = None
    """Trained steps whose input is not detached; None: each but the first, before which nothing trains."""
    leaps: tuple[tuple[int, ...], ...] = ()
    """The gradient goes back in leaps instead of steps: each from its first step to the next leap's, the last to the
    clean end, with the outputs of all its steps."""
    gains: tuple[float, ...] = ()
    """Factors on what each trained output is owed; empty: 1."""
    rescale: float = 0.0
    """How far trained outputs stand in for all that the way has: 0 not at all, 1 for the whole of their weights."""
    tau: float = 0.0
    """Pictures whose leaps miss the real latents count less: by 1 / (miss at the middle + miss at the end), each at
    least tau; 0: all count alike."""
    surpluses: tuple[tuple[float, float], ...] = ()
    """How far above 1 the praised prompt counts at each trained step, and the blamed one in the step back (SRPO)."""

    @property
    def gain_of(self) -> dict[int, float]:
        """The factor on what each trained output is owed."""
        return dict(zip(self.trained, self.gains or [1.0] * len(self.trained), strict=True))

    @property
    def attached(self) -> tuple[int, ...]:
        """Trained steps whose input the gradient passes."""
        bridges = self.trained[1:] if self.bridges is None else self.bridges
        return bridges if self.alpha else ()


def draw_plan(method: MethodConfig, num_steps: int, generator: torch.Generator) -> Plan:
    """The plan of one update: `num_steps` is T, the randomness comes from `generator` alone."""
    last = num_steps - 1
    match method.name:
        case "drtune":
            executed = num_steps - _draw(method.early_stop, generator)
            return Plan(executed - 1, _spread(method, num_steps, executed, generator), _alpha(method, 0.0))
        case "refl":
            # Xu et al. 2023 (arXiv 2304.05977), algorithm 1: one step of a late range, and the jump from there.
            stop = last - _draw(method.early_stop, generator)
            return Plan(stop, (stop,), _alpha(method, 0.0))
        case "draft_k":
            # Clark et al. 2023 (arXiv 2309.17400), section 3: truncated to the last K steps.
            return Plan(last, _last(method.trained_steps, num_steps), _alpha(method, 1.0))
        case "draft_lv":
            return Plan(last, (last,), _alpha(method, 1.0))
        case "alignprop":
            # Prabhudesai et al. 2023 (arXiv 2310.03739), section 4: truncated at a random depth.
            return Plan(last, _last(1 + _draw(method.trained_steps, generator), num_steps), _alpha(method, 1.0))
        case "full":
            return Plan(last, tuple(range(num_steps)), _alpha(method, 1.0))
        case "leapalign":
            # LeapAlign (arXiv 2604.15311): two random leaps, the gradient that is nested in both scaled down.
            first, second = _pair(num_steps, generator)
            leaps, tau = ((first,), (second,)), _or(method.tau, 0.1)
            return Plan(last, (first, second), _alpha(method, 0.3), leaps=leaps, tau=tau)
        case "flowbp_sparse":
            trained = _late(range(num_steps), method.trained_steps, generator)
            return Plan(last, trained, _alpha(method, 0.0), rescale=_or(method.rescale, 1.0))
        case "flowbp_bridge":
            return _bridge(method, num_steps, generator)
        case "flowbp_lagrange":
            return _lagrange(method, num_steps, generator)
        case "direct_align" | "srpo":
            return _recover(method, num_steps, generator)


def _or(given: float | None, published: float) -> float:
    return published if given is None else given


def _alpha(method: MethodConfig, published: float) -> float:
    return _or(method.alpha, published)


def _spread(method: MethodConfig, num_steps: int, executed: int, generator: torch.Generator) -> tuple[int, ...]:
    """DRTune (Wu et al. 2024, arXiv 2405.00760): K equally spaced steps with a random offset.

    They are placed inside the prefix that runs, so that every update trains K steps however early it stops; with
    `placement` chain as the paper draws them, over all T, of which an early stop may cut some off.
    """
    among = executed if method.placement == "prefix" else num_steps
    stride = among // method.trained_steps
    offset = _draw(among - (method.trained_steps - 1) * stride, generator)
    steps = (offset + index * stride for index in range(method.trained_steps))
    return tuple(step for step in steps if step < executed)


def _last(count: int, num_steps: int) -> tuple[int, ...]:
    return tuple(range(num_steps - count, num_steps))


def _pair(num_steps: int, generator: torch.Generator) -> tuple[int, int]:
    first, second = sorted(torch.randperm(num_steps, generator=generator)[:2].tolist())
    return first, second


def _late(steps: range, count: int, generator: torch.Generator) -> tuple[int, ...]:
    """`count` of some steps, the later ones more often: the n-th, from 1, in proportion to n^2.

    FlowBP-Sparse (Wang et al. 2026, arXiv 2606.11075), as its code draws them.
    """
    weights = torch.arange(1, len(steps) + 1, dtype=torch.float64).square()
    chosen: list[int] = torch.multinomial(weights, count, generator=generator).tolist() if count else []
    return tuple(sorted(steps[index] for index in chosen))


def _bridge(method: MethodConfig, num_steps: int, generator: torch.Generator) -> Plan:
    """FlowBP-Bridge (arXiv 2606.11075): as Sparse, but gradient passes through the input of one drawn step, the bridge.

    The K steps are shared out by the lengths of what lies before the bridge and from it on, at least one to each; the
    bridge trains.
    """
    _, bridge = _pair(num_steps, generator)
    count, after = method.trained_steps, num_steps - bridge
    before = min(max(round(count * bridge / num_steps), 1, count - after), bridge, count - 1)
    early = _late(range(bridge), before, generator)
    late = _late(range(bridge + 1, num_steps), count - before - 1, generator)
    return Plan(
        num_steps - 1,
        (*early, bridge, *late),
        _alpha(method, 0.1),
        bridges=(bridge,),
        rescale=_or(method.rescale, 1.0),
    )


def _lagrange(method: MethodConfig, num_steps: int, generator: torch.Generator) -> Plan:
    """FlowBP-Lagrange (arXiv 2606.11075): two leaps of higher order, each by a polynomial through up to three outputs.

    The first output of each leap trains, and the second by a quarter.
    """
    first, second = _stretches(num_steps, generator)
    leaps = _supports(first, second), _supports(second, num_steps)
    trained = tuple(step for leap in leaps for step in leap[:2])
    gains = tuple(1.0 if step in (first, second) else 0.25 for step in trained)
    return Plan(
        num_steps - 1,
        trained,
        _alpha(method, 0.1),
        bridges=(second,),
        leaps=leaps,
        gains=gains,
        rescale=_or(method.rescale, 0.5),
        tau=_or(method.tau, 0.2),
    )


def _stretches(num_steps: int, generator: torch.Generator) -> tuple[int, int]:
    """Where the two leaps of FlowBP-Lagrange begin, as its code draws them (`_dirichlet_sample`).

    Dirichlet's distribution shares T out to three lengths, each at least 1. The first and one step more is the second
    leap, the next is the first leap, and the last less that step lies before it.
    """
    if num_steps == 2:  # there are no three, but two leaps
        return 0, 1
    shares = np.random.default_rng(_draw(2**31, generator)).dirichlet([2.5, 6.0, 2.0])
    lengths = (num_steps * shares).round().astype(int)
    lengths[shares.argmax()] += num_steps - lengths.sum()
    lengths = lengths.clip(min=1)
    lengths[lengths.argmax()] += num_steps - lengths.sum()
    after, between, _ = lengths.tolist()
    second = num_steps - 1 - after
    return second - between, second


def _supports(start: int, end: int) -> tuple[int, ...]:
    """The first, the middle and the last of the steps from `start` to before `end`, or all of fewer than three."""
    if end - start < 3:
        return tuple(range(start, end))
    return start, start + round((end - 1 - start) / 2), end - 1


def _recover(method: MethodConfig, num_steps: int, generator: torch.Generator) -> Plan:
    """Direct-Align and SRPO (Shen et al. 2025, arXiv 2509.06942): steps in a row, of the m last that can be taken.

    The last step of all ends without noise that could be known, and none is beyond it to step back from. Discounts fall
    geometrically, which is ours: the paper says that they decay. Surpluses run linearly, as in its code.
    """
    m, count, both = method.early_stop, method.recoveries, method.name == "srpo"
    first = num_steps - (2 if both else 1) - m
    places = range(start := _draw(m - count + 1, generator), start + count)
    trained = tuple(first + place for place in places)

    def surplus(ends: tuple[float, float], place: int) -> float:
        late, early = ends
        return late + (early - late) * (m - 1 - place) / max(m - 1, 1)

    praised_blamed = tuple((surplus(method.praise_surplus, at), surplus(method.blame_surplus, at)) for at in places)
    return Plan(
        trained[-1],
        trained,
        _alpha(method, 0.0),
        start=trained[0],
        gains=tuple(method.discount**place for place in places),
        surpluses=praised_blamed if both else (),
    )


def _draw(count: int, generator: torch.Generator) -> int:
    """One of 0 .. count - 1."""
    return int(torch.randint(count, (), generator=generator))
