"""What a run on this machine hangs on: one that was ended goes on only while it is the same."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from components.registry import place_of
from drtune.config import REWARDS, load_config
from drtune.contracts import TunedModel
from drtune.errors import UserError
from drtune.files.given import is_on_s3, is_text_itself, read_place
from drtune.files.local import sha256_bytes, sha256_file, sha256_folder, write_text
from drtune.publishing.registry import Registry
from drtune.rewards.files import file_of

BEGUN = "begun.json"
"""In the folder of a run: what it hung on when it began."""


def state_of(arguments: Mapping[str, Any], out: Path) -> dict[str, Any]:
    """The arguments of a tuning, the digests of the files that they name, and the version that it is compared with."""
    config = load_config(arguments["config"], arguments["overrides"])
    names = set(config.reward_names) - set(REWARDS)
    references = [reference.partition("=")[2] for reference in arguments["references"]]
    given = [arguments[name] for name in ("prompts", "config", "policy") if not is_text_itself(arguments[name])]
    files = [*given, *references, *map(file_of, sorted(names))]
    candidate = None
    with suppress(UserError):  # it is not trained yet
        candidate = TunedModel.load(out / "model")
    registry, name = Registry(place_of(arguments["registry"])), arguments["name"]
    if candidate:
        champion = registry.champion(name, candidate)
    else:
        champion = registry.show(name) if registry.production(name) else None
    return {
        "arguments": dict(arguments),
        "files": {str(path): _digest(Path(path)) for path in files if Path(path).exists()}
        | {path: sha256_bytes(read_place(path)) for path in given if is_on_s3(path)},
        "champion": champion.version if champion else None,
    }


def begin(out: Path, state: Mapping[str, Any]) -> None:
    """Keep what a run hangs on."""
    write_text(out / BEGUN, json.dumps(state, indent=2) + "\n")


def check_same(out: Path, state: Mapping[str, Any]) -> None:
    """Refuse to go on with a run in `out` that hung on something else, if there is one.

    Raises:
        UserError: naming the first difference.
    """
    try:
        begun = json.loads((out / BEGUN).read_bytes())
    except (OSError, ValueError):
        return
    now = _flat(state)
    for part, then in _flat(begun).items():
        if then != now.get(part):
            raise UserError(
                f"output {out}: was begun with another {part} ({then}, now {now.get(part)}); give the same, or start "
                "again with --overwrite instead of --resume"
            )


def _flat(state: Mapping[str, Any]) -> dict[str, Any]:
    return {
        **state["arguments"],
        **{f"content of {path}": digest[:12] for path, digest in state["files"].items()},
        "version in production": state["champion"],
    }


def _digest(path: Path) -> str:
    """Of a file, or of all in a folder."""
    return sha256_bytes(json.dumps(sha256_folder(path)).encode()) if path.is_dir() else sha256_file(path)
