"""What an update costs in floating-point operations: a count, that no other work on the machine can change."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch.utils.flop_counter import FlopCounterMode

from benchmarks.workbench import Workbench
from drtune.methods.draws import generator_of
from drtune.methods.plans import Plan, draw_plan
from drtune.methods.supervision import supervise
from science.arms import Arm, Cell
from science.costs import Measurement


@dataclass(frozen=True)
class Flops(Measurement):
    """Operations of an arm's update, its optimizer's step left out."""

    objective: str
    way: str
    steps: int
    updates: int = 2
    """Each with a plan of its own, over which operations are averaged. To count takes many times as long as to run."""

    @classmethod
    def of(cls, arm: Arm) -> Flops:
        """Those of an arm."""
        return cls(arm.objective, arm.way, arm.steps)

    @property
    def name(self) -> str:
        """Of its file."""
        return Cell(Arm(self.objective, self.way, self.steps), 0, 0).name.removesuffix("_0_0") + "_flops"

    def measure(self) -> dict[str, Any]:
        """The mean over some updates."""
        cell = Cell(Arm(self.objective, self.way, self.steps), 1e-3, 0)
        bench = Workbench([*cell.overrides, f"compute.keep_graphs={self.steps}"])
        last = self.steps - 1
        with FlopCounterMode(display=False) as counter:
            for step in range(1, self.updates + 1):
                plan = (
                    Plan(stop=last, trained=cell.way.window, alpha=0.0)
                    if cell.way.window
                    else draw_plan(bench.config.method, self.steps, generator_of(0, "plan", step))
                )
                supervise(bench.task(), bench.config.method, plan)
                bench.optimizer.zero_grad()
        return {"flops": counter.get_total_flops() / self.updates}
