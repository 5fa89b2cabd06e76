"""What a run needs beside its configuration, looked at before anything heavy: this imports no torch."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

from drtune.config import Config
from drtune.errors import UserError
from drtune.rewards.files import check_own


def check_start(config: Config) -> None:
    """Refuse to begin what could not be logged or scored in the end.

    Raises:
        UserError: Weights & Biases is asked for and not installed, or a file of your own rewards cannot be read.
    """
    check_own(config.reward_names)
    if not config.wandb_project:
        return
    try:
        version("wandb")  # the package itself: a folder of its logs could be imported by that name too
    except PackageNotFoundError:
        raise UserError(
            f"wandb_project={config.wandb_project}: Weights & Biases is not installed: pip install wandb"
        ) from None
