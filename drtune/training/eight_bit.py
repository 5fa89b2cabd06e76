"""AdamW with moments of 8 bits (Dettmers et al. 2022, arXiv 2110.02861), whose state is saved and read as any other."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from bitsandbytes.optim import AdamW8bit as _AdamW8bit  # an extra

TABLES = {"qmap1": "dynamic", "qmap2": "udynamic"}


class AdamW8bit(_AdamW8bit):  # type: ignore[misc]  # which has no types
    """That of bitsandbytes, with its counter as a tensor and every tensor under its own name."""

    def init_state(self, group: dict[str, Any], p: torch.nn.Parameter, gindex: int, pindex: int) -> None:
        """Give a weight its moments, all zero; a small one has them in 32 bits."""
        super().init_state(group, p, gindex, pindex)
        self.state[p]["step"] = torch.zeros((), dtype=torch.int64)

    def state_dict(self) -> dict[str, Any]:
        """As torch's optimizers, without the tables of numbers that the bits stand for, which all weights share."""
        whole = torch.optim.Optimizer.state_dict(self)
        states = {
            index: {name: value for name, value in state.items() if name not in TABLES}
            for index, state in whole["state"].items()
        }
        return {**whole, "state": states}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """The state as it is: torch's own would cast moments to the type of the weights."""
        weights = [weight for group in self.param_groups for weight in group["params"]]
        for index, state in state_dict["state"].items():
            weight = weights[index]
            in_bits = state["state1"].dtype == torch.uint8
            tables = {name: self.name2qmap[kind].to(weight.device) for name, kind in TABLES.items()} if in_bits else {}
            self.state[weight] = {**state, **tables, "step": state["step"].cpu()}
