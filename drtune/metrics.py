"""What a training run says while it goes on: metrics.jsonl, TensorBoard, and a line with the time left."""

from __future__ import annotations

import json
from collections import deque
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self

from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from drtune.files import write_text

WINDOW = 10
"""Updates over which the running reward is averaged."""


@dataclass(frozen=True)
class UpdateMetrics:
    """One optimizer update."""

    step: int
    """Updates done, this one included."""
    reward: float
    """Mean over the batch of the weighted sum that is maximised."""
    rewards: dict[str, float]
    """Mean of each part, before its weight."""
    grad_norm: float
    """Before clipping."""
    stop: int
    """The last sampler step that ran, from 0."""
    trained: tuple[int, ...]
    seconds: float


class MetricLog:
    """Writes each update; on resume, forgets what was logged after the checkpoint."""

    def __init__(self, folder: Path, start: int, total: int) -> None:
        path = folder / "metrics.jsonl"
        kept = _first_lines(path, start)
        write_text(path, "".join(kept))
        self.file = path.open("a", encoding="utf-8")
        self.window = deque((json.loads(line)["reward"] for line in kept[-WINDOW:]), maxlen=WINDOW)
        self.board = SummaryWriter(str(folder / "tensorboard"), purge_step=start + 1)
        self.progress = tqdm(total=total, initial=start, desc="train", unit="update", mininterval=1.0)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.file.close()
        self.board.close()
        self.progress.close()

    @property
    def running_reward(self) -> float:
        """Mean reward of the last updates; not a number before the first."""
        return sum(self.window) / len(self.window) if self.window else float("nan")

    def write(self, metrics: UpdateMetrics) -> None:
        """Log one update everywhere."""
        self.window.append(metrics.reward)
        self.file.write(json.dumps(asdict(metrics)) + "\n")
        self.file.flush()
        self.board.add_scalar("train/reward", metrics.reward, metrics.step)
        self.board.add_scalar("train/grad_norm", metrics.grad_norm, metrics.step)
        for name, value in metrics.rewards.items():
            self.board.add_scalar(f"reward/{name}", value, metrics.step)
        self.progress.set_postfix(reward=f"{self.running_reward:.3f}", refresh=False)
        self.progress.update()


def _first_lines(path: Path, count: int) -> list[str]:
    if not path.exists():
        return []
    with path.open(encoding="utf-8") as file:
        return [line for line in file if line.endswith("\n")][:count]
