"""Random settings, really trained for an update: each run ends well or is refused in one line, never in a traceback.

python -m benchmarks.settings [count]
"""

from __future__ import annotations

import json
import random
import sys
import tempfile
import traceback
from collections import Counter
from pathlib import Path
from typing import get_args

from drtune.config import MethodConfig, load_config
from drtune.errors import UserError
from drtune.files.images import to_pil
from drtune.models.miniature.world import draw, scenes
from drtune.prompts.prepare import prepare
from drtune.training.trainer import train

METHODS = get_args(MethodConfig.model_fields["name"].annotation)
PICTURES = "PICTURES"
"""Stands for a folder of them."""
CHOICES: dict[str, tuple[object, ...]] = {
    "method.name": METHODS,
    "method.trained_steps": (1, 2, 3, 5),
    "method.early_stop": (1, 2, 4),
    "method.alpha": ("null", 0, 0.3, 1),
    "method.renoised": (1, 3),
    "method.placement": ("prefix", "prefix", "chain"),
    "method.rescale": ("null", 0, 2),
    "method.tau": ("null", 0, 0.5),
    "method.rho": (0, 0, 0.1),
    "method.weight_rho": (0, 0, 0.05),
    "method.recoveries": (1, 2),
    "method.discount": (1, 0.5),
    "method.praise_surplus": ("[0, 0]", "[0.1, 0.2]"),
    "method.blame_surplus": ("[0, 0]", "[0.3, 0.01]"),
    "method.pictures": ("null", "null", PICTURES),
    "method.weighting": ("chain", "chain", "uniform", "signal"),
    "sampler.steps": (1, 2, 4),
    "sampler.name": ("null", "ddim", "euler", "flow_euler"),
    "sampler.eta": (0, 0, 0.5, 1),
    "sampler.guidance_scale": (1, 1, 3),
    "sampler.guidance_rescale": (0, 0, 0.7),
    "sampler.guidance_gradient": ("both", "conditional"),
    "sampler.negative_prompt": ('""', "a red circle"),
    "weights": ("lora", "lora", "full"),
    "lora.rank": (1, 8),
    "lora.alpha": (1, 16),
    "lora.init": ("zeros", "gaussian"),
    "lora.targets": ("null", "[to_q, to_v]", "[nothing]"),
    "base_penalty": (0, 0, 0.1),
    "height": ("null", "null", 24, 30),
    "width": ("null", "null", 40),
    "other_sizes": ("[]", "[24x40]", "[30x8]", "[0x0]"),
    "ema_decay": (0, 0.9),
    "optimizer.learning_rate": (1e-4, 1e3),
    "optimizer.schedule": ("constant", "cosine"),
    "optimizer.eight_bit": ("false", "false", "true"),
    "optimizer.warmup_steps": (0, 1, 5),
    "compute.precision": ("fp32", "fp32", "bf16", "fp16"),
    "compute.quantization": ("null", "null", "nf4", "int8", "fp8"),
    "compute.micro_batch_size": ("null", 1, 2, 5),
    "compute.rollout_batch_size": ("null", "null", 1, 2),
    "compute.decode_batch_size": ("null", 1, 3),
    "compute.replay_batch": (1, 3),
    "compute.keep_graphs": (0, 2),
    "compute.gradient_checkpointing": ("false", "true"),
    "rewards.symmetry": (1, "{weight: 2, hinge: 0.5}", "{target: 0.7}", "{praise: a red, blame: a blue}"),
    "rewards.brightness": (0, -1),
    "evaluation.sampler.base_steps": (0, 0, 1),
    "held_out": ("null", "null", "{reward: preference, max_drop: 0.0}"),
}


def main() -> None:
    """Try them; end with exit code 1 if one run ended in a traceback."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 100
    outcomes: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        draw_pictures(folder / "pictures")
        prepare(folder / "pictures" / "metadata.jsonl", folder / "prompts")
        for seed in range(count):
            chance = random.Random(seed)
            chosen = chance.sample(sorted(CHOICES), k=8)
            overrides = [
                f"{key}={chance.choice(CHOICES[key])}".replace(PICTURES, f"{folder}/pictures") for key in chosen
            ]
            outcomes[attempt(seed, overrides, folder)] += 1
    print(", ".join(f"{number} {outcome}" for outcome, number in outcomes.items()))
    raise SystemExit(outcomes["failed"] > 0)


def draw_pictures(folder: Path) -> None:
    """Pictures of the miniature's world with their captions, which are the prompts too."""
    folder.mkdir()
    drawn = scenes(seed=7, count=60)
    for index, picture in enumerate(to_pil(draw(drawn, seed=1))):
        picture.save(folder / f"{index}.png")
    lines = (json.dumps({"file_name": f"{index}.png", "text": scene.caption}) for index, scene in enumerate(drawn))
    (folder / "metadata.jsonl").write_text("\n".join(lines), encoding="utf-8")


def attempt(seed: int, overrides: list[str], folder: Path) -> str:
    """Train for one update with some settings; what became of it."""
    small = ["steps=1", "batch_size=2", "sampler.steps=4", "method.trained_steps=2", "evaluation.sampler.steps=1"]
    try:
        train(load_config(None, [*small, *overrides]), folder / "prompts", folder / str(seed))
    except UserError as error:
        print(f"{seed}: refused: {error}")
        return "refused" if len(str(error).splitlines()) == 1 else "failed"
    except Exception:
        print(f"{seed}: FAILED with {' '.join(overrides)}")
        traceback.print_exc(limit=-3)
        return "failed"
    print(f"{seed}: trained with {' '.join(overrides)}")
    return "trained"


if __name__ == "__main__":
    main()
