"""The way from Python: lists, a function and a pipeline object in; pictures, numbers, a report and a version out."""

from __future__ import annotations

import linecache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionXLPipeline

import drtune
from drtune.contracts import Decision
from drtune.errors import UserError
from drtune.files.local import sha256_file
from drtune.files.output import locked
from drtune.models.miniature import CHECKPOINT
from drtune.rewards.own import OwnReward

PROMPTS = [f"a {colour} circle, on a white background" for colour in ("red", "blue", "green", "yellow")]
HELD_OUT = [f"a {colour} square, on a black background" for colour in ("red", "blue", "green", "yellow")] * 2
HELD_OUT = [f"{prompt}{', small' * (index // 4)}" for index, prompt in enumerate(HELD_OUT)]
SHORT: dict[str, Any] = {
    "steps": 2,
    "batch_size": 2,
    "sampler": {"steps": 3},
    "method": {"trained_steps": 2, "early_stop": 2},
    "optimizer": {"learning_rate": 2e-3},
    "evaluation": {"sampler": {"steps": 3}, "rewards": ["brightness"], "pictures_per_prompt": 1, "features": "none"},
}
CELL = """
import torch
from torch.nn import functional as F
WEIGHT = 2.0

def warmth(images):
    red, _green, blue = images.unbind(1)
    return F.relu(red - blue) * WEIGHT

@torch.enable_grad()
def warm(images: torch.Tensor, prompts):
    return warmth(images).mean((1, 2))

def needy(images, prompts):
    return NETWORK(images)
"""


def cell(source: str, **beside: Any) -> dict[str, Any]:
    """What a notebook has after a cell: IPython, too, tells linecache its source (compilerop.py, `cache`)."""
    name, names = f"<cell {len(linecache.cache)}>", {"__name__": "__main__", **beside}
    linecache.cache[name] = (len(source), None, source.splitlines(keepends=True), name)
    exec(compile(source, name, "exec"), names)
    return names


@pytest.fixture(scope="module")
def pipe() -> StableDiffusionXLPipeline:
    return StableDiffusionXLPipeline.from_pretrained(CHECKPOINT, dtype=torch.float32)


@pytest.fixture(scope="module")
def result(pipe: StableDiffusionXLPipeline) -> drtune.Result:
    reward = {cell(CELL)["warm"]: 1.0, "brightness": {"weight": 0.5, "target": 0.4}}
    return drtune.tune(pipe, prompts=PROMPTS, reward=reward, eval_prompts=HELD_OUT, **SHORT)


def plain(pipe: StableDiffusionXLPipeline, prompt: str) -> np.ndarray:
    drawn = pipe(
        prompt,
        num_inference_steps=3,
        guidance_scale=3.0,
        generator=torch.Generator().manual_seed(0),
        height=32,
        width=32,
    )
    return np.asarray(drawn.images[0], dtype=float)


def test_what_is_refused_late_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="height=30: give a multiple of"):
        drtune.tune(
            "miniature",
            prompts=PROMPTS,
            reward=cell(CELL)["warm"],
            eval_prompts=HELD_OUT,
            out=tmp_path / "run",
            height=30,
            **SHORT,
        )
    assert list(tmp_path.iterdir()) == []


def test_while_another_run_is_at_the_place_nothing_beside_it_is_touched(tmp_path: Path) -> None:
    rewards = tmp_path / "run.rewards"
    rewards.mkdir()
    before = rewards.stat()
    (tmp_path / "run").mkdir()
    with locked(tmp_path / "run"), pytest.raises(UserError, match="is being written by process"):
        drtune.tune("miniature", prompts=PROMPTS, reward=cell(CELL)["warm"], out=tmp_path / "run", overwrite=True)
    assert (rewards.stat().st_ino, rewards.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_pictures_are_those_that_plain_diffusers_draws_before_and_after(result: drtune.Result) -> None:
    pipe = StableDiffusionXLPipeline.from_pretrained(CHECKPOINT, dtype=torch.float32)
    pipe.set_progress_bar_config(disable=True)
    assert result.shown == HELD_OUT
    before = [plain(pipe, prompt) for prompt in HELD_OUT[:2]]
    pipe.load_lora_weights(result.folder / "adapter")
    after = [plain(pipe, prompt) for prompt in HELD_OUT[:2]]
    for mine, theirs in zip([*result.before[:2], *result.after[:2]], [*before, *after], strict=True):
        assert np.abs(np.asarray(mine, dtype=float) - theirs).max() <= 1
    assert np.abs(before[0] - after[0]).max() > 2
    assert np.abs(plain(result.pipe, HELD_OUT[0]) - after[0]).max() <= 1


def test_the_pipeline_of_a_run_in_fp16_draws_as_it_is(tmp_path: Path) -> None:
    settings = SHORT | {"compute": {"precision": "fp16"}, "steps": 1}
    out = tmp_path / "run"
    result = drtune.tune("miniature", prompts=PROMPTS, reward="brightness", eval_prompts=HELD_OUT, out=out, **settings)
    drawn = plain(result.pipe, result.shown[0])
    assert np.abs(drawn - np.asarray(result.after[0], dtype=float)).max() <= 4
    assert drawn.std() > 10
    assert {part.dtype for part in result.pipe.components.values() if isinstance(part, torch.nn.Module)} == {
        torch.float16
    }


def test_numbers_and_the_function_that_made_them_are_kept(result: drtune.Result) -> None:
    assert list(result.metrics.index) == [1, 2]
    wanted = result.metrics["warm"] - 0.5 * (result.metrics["brightness"] - 0.4).abs()
    assert abs(result.metrics["reward"] - wanted).max() < 0.1  # the mean of distances is not that of the means
    assert [prompt.text for prompt in result.prompts.train] == PROMPTS
    assert result.model.base_model == "miniature"
    [(path, digest)] = result.model.reward_files.items()
    kept = result.folder / path
    assert (path, sha256_file(kept)) == ("rewards/warm.py", digest)
    images = torch.rand(2, 3, 4, 4)
    again = OwnReward("warm.py:warm", kept, differentiable=True)
    assert torch.equal(again(images, ["", ""]), cell(CELL)["warm"](images, []))


def test_a_notebook_shows_pairs_and_the_curve(result: drtune.Result) -> None:
    page = result._repr_html_()
    assert page.count("data:image/png;base64,") == 2 * len(HELD_OUT)
    points = len(result.curve)
    assert page.count("<circle") == len(result.metrics) + points * len(result.curve[0].rewards)
    assert all(f">{name}</text>" in page for name in ("reward while tuning", "warm", "brightness"))


def test_it_is_saved_evaluated_and_published(result: drtune.Result, tmp_path: Path) -> None:
    saved = result.save(f"{tmp_path / 'saved'}/")
    assert saved.model == drtune.Result(f"{saved.folder}/").model == result.model
    assert sorted(path.name for path in tmp_path.iterdir()) == ["saved", "saved.prompts"]
    summary = (saved.folder / "summary.md").read_text(encoding="utf-8")
    assert (f"`{saved.folder}/adapter" in summary, f"`{result.folder}" in summary) == (True, False)
    with pytest.raises(UserError, match=r"exists already; give overwrite=True to replace it"):
        result.save(tmp_path / "saved")
    report = saved.evaluate(max_prompts=8)
    assert report.num_prompts == 8
    policy = {"min_prompts": 8, "against": {"base": {"brightness": {"max_drop": 1.0}}}}
    entry = saved.publish("warm", policy=policy, registry=str(tmp_path / "registry"))
    assert (entry.name, entry.version, entry.model) == ("warm", "v1", result.model)
    strict = {"min_prompts": 8, "against": {"base": {"brightness": {"min_gain": 0.9}}}}
    with pytest.raises(UserError, match="against publishing: "):
        saved.publish("warm", policy=strict, registry=str(tmp_path / "registry"))
    assert not Decision.load(f"{saved.folder}.decision").publish


def test_an_evaluation_finds_weights_elsewhere_than_the_training(result: drtune.Result, tmp_path: Path) -> None:
    for name, said in (
        ("aesthetic", r"checkpoint .*mine\.pth is not there; give a file, or a folder"),
        ("symmetry", "'symmetry' takes no checkpoint"),
    ):
        given = {name: tmp_path / "mine.pth"}
        with pytest.raises(UserError, match=said):
            result.evaluate(tmp_path / "report", rewards=[name], reward_checkpoints=given)
    assert not (tmp_path / "report").exists()


def test_a_run_goes_on_where_it_is(tmp_path: Path) -> None:
    settings = SHORT | {"prompts": PROMPTS, "eval_prompts": HELD_OUT, "out": tmp_path / "run"}
    warm = cell(CELL)["warm"]
    drtune.tune("miniature", reward=warm, **settings)
    with pytest.raises(UserError, match="overwrite=True"):
        drtune.tune("miniature", reward=warm, **settings)
    more = drtune.tune("miniature", reward=warm, resume=True, **settings | {"steps": 3})
    assert list(more.metrics.index) == [1, 2, 3]
    before = {path: sha256_file(path) for path in tmp_path.rglob("*") if path.is_file()}
    for other, said in [
        ({"reward": cell(CELL.replace("2.0", "3.0"))["warm"]}, r"run\.rewards/warm\.py: not what the run began with"),
        ({"prompts": [*PROMPTS, "a pink ring"]}, r"run\.prompts\.jsonl: not what the run began with; give the same"),
        ({"overwrite": True, "prompts": ["a pink ring"]}, "resume=True keeps what stands at the output, overwrite"),
    ]:
        with pytest.raises(UserError, match=said):
            drtune.tune("miniature", resume=True, **settings | {"reward": warm} | other)
    assert {path: sha256_file(path) for path in tmp_path.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"step": 3}, "step: no such key; did you mean steps?"),
        ({"steps": "many"}, "steps=many: "),
        ({"processes": 2}, "processes=2: drtune.tune is one"),
        ({"reward": lambda images, _: images}, "reward <lambda>: is no function with a name"),
        ({"reward": cell(CELL)["needy"].__class__}, "reward function: is no function with a name"),
        ({"reward": cell(CELL, NETWORK=torch.nn.Identity())["needy"]}, "needy: uses NETWORK, a Identity; write the"),
        ({"eval_prompts": None, "prompts": ["a red circle"]}, "is for eval; .*; or give eval_prompts"),
        ({"prompts": "nothing.txt"}, "eval_prompts: go with a list of prompts"),
    ],
)
def test_a_mistake_is_told_in_words_of_python(given: dict[str, Any], said: str, tmp_path: Path) -> None:
    settings = {"prompts": PROMPTS, "eval_prompts": HELD_OUT, "out": tmp_path / "run"} | given
    with pytest.raises(UserError, match=said) as caught:
        drtune.tune("miniature", **settings)
    assert "--" not in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_a_pipeline_that_was_changed_is_refused(pipe: StableDiffusionXLPipeline) -> None:
    changed = StableDiffusionXLPipeline(**pipe.components)
    with pytest.raises(UserError, match="was not loaded from anywhere"):
        drtune.tune(changed, prompts=PROMPTS)
    weight = next(pipe.unet.parameters())
    kept = weight.detach().clone()
    with torch.no_grad():
        weight.add_(1)
    with pytest.raises(UserError, match="the unet of this pipeline is not that of miniature; save it"):
        drtune.tune(pipe, prompts=PROMPTS)
    with torch.no_grad():
        weight.copy_(kept)
