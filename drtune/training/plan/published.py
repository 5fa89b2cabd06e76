"""What a plan knows of a base before anything is built: configurations alone, and no torch."""

from __future__ import annotations

import json
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml

from drtune.errors import UserError
from drtune.models.miniature import CHECKPOINT

CONFIG_FILES = {
    "scheduler": "scheduler_config.json",
    "tokenizer": "tokenizer_config.json",
    "processor": "tokenizer_config.json",
}
"""What the configuration of a part is called where it is not config.json; text_encoder_2 is like text_encoder."""
LEFT_OUT = ("safety_checker", "feature_extractor", "image_encoder")


@cache
def published() -> dict[str, dict[str, Any]]:
    """What is known without a download: `models`, for each hub id the configuration of every part, and `parts`."""
    known: dict[str, dict[str, Any]] = yaml.safe_load(
        files("drtune.training.plan").joinpath("architectures.yaml").read_text(encoding="utf-8")
    )
    return known


def configs_of(base_model: str) -> dict[str, Any]:
    """The configuration of each part of a base, and its `model_index`, of a local folder or as published.

    Raises:
        UserError: the architecture is neither known nor in a local folder.
    """
    folder = CHECKPOINT if base_model == "miniature" else Path(base_model)
    if not (folder / "model_index.json").is_file():
        if base_model not in (models := published()["models"]):
            raise UserError(
                f"base_model={base_model!r}: no folder of a pipeline, and its architecture is not known without a "
                f"download; known are {', '.join(models)}"
            )
        known: dict[str, Any] = models[base_model]
        return known
    index = _read(folder / "model_index.json")
    configs = {"model_index": index}
    for name, value in index.items():
        if isinstance(value, list) and (folder / name).is_dir():
            kind = name.rstrip("_0123456789")
            if value != [None, None] and kind not in LEFT_OUT:
                configs[name] = _read(folder / name / CONFIG_FILES.get(kind, "config.json"))
    return configs


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read ({error}); give the folder of a whole pipeline") from None
