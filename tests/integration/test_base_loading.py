"""Bases as they are loaded: from folders and hub ids, at any size, and what is refused in one line."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from diffusers import (
    EDMDPMSolverMultistepScheduler,
    EDMEulerScheduler,
    StableDiffusionXLImg2ImgPipeline,
    UniPCMultistepScheduler,
)

from drtune.config import TuningSamplerConfig
from drtune.errors import UserError
from drtune.models.language import LanguageModelBase
from drtune.models.loading import load_base
from drtune.models.sampler import Scheduler
from tests.hub import COMMIT, Hub
from tests.pipelines import SIDE, FolderOf, open_base
from tests.serving import Handler, Serving


@pytest.mark.parametrize(
    ("kind", "settings", "message"),
    [
        ("sd15", {"name": "flow_euler"}, "sampler.name=flow_euler: not for a StableDiffusionPipeline; .* ddim, euler"),
        ("sd3", {"name": "ddim"}, "sampler.name=ddim: not for a StableDiffusion3Pipeline; its samplers are flow_euler"),
        ("flux_dev", {"eta": 0.5}, "sampler.eta=0.5: not for a FluxPipeline"),
        ("sdxl", {"name": "euler", "eta": 0.5}, "sampler.eta=0.5: not for a StableDiffusionXLPipeline"),
    ],
)
def test_a_sampler_that_does_not_fit_is_refused(
    kind: str, settings: dict[str, object], message: str, folder_of: FolderOf
) -> None:
    base = open_base(folder_of(kind))
    with pytest.raises(UserError, match=message):
        base.sampler(TuningSamplerConfig.model_construct(**settings))


@pytest.mark.parametrize(
    ("kind", "theirs", "setting"),
    [
        ("sdxl", EDMEulerScheduler(), "beta_schedule"),
        ("sdxl", EDMDPMSolverMultistepScheduler(), "beta_schedule"),
        ("sd3", UniPCMultistepScheduler(use_flow_sigmas=True, flow_shift=3.0), "shift"),
    ],
)
def test_a_noise_schedule_that_no_sampler_takes_over_is_refused(
    kind: str, theirs: Scheduler, setting: str, folder_of: FolderOf
) -> None:
    base = open_base(folder_of(kind))
    base.pipeline.scheduler = theirs
    message = f"base .*{kind}.*: its {type(theirs).__name__} has no {setting}, so sampler.name={base.samplers[0]} would"
    with pytest.raises(UserError, match=message):
        base.sampler(TuningSamplerConfig())


def test_a_size_that_does_not_fit_is_refused(folder_of: FolderOf) -> None:
    with pytest.raises(UserError, match="height=17: give a multiple of 2 for a StableDiffusionPipeline"):
        open_base(folder_of("sd15"), height=17)
    with pytest.raises(UserError, match="width=18: give a multiple of 4 for a FluxPipeline"):
        open_base(folder_of("flux_dev"), width=18)
    with pytest.raises(UserError, match="other_sizes=16x17: height=17: give a multiple of 2"):
        open_base(folder_of("sd15")).resized("16x17")
    with pytest.raises(UserError, match="width=48: give a multiple of 32 for a QwenImage21Pipeline"):
        open_base(folder_of("qwen_image_21"), width=48)
    with pytest.raises(UserError, match="height=128: this base has positions for at most 64 pixels"):
        open_base(folder_of("sd3"), height=128)


@pytest.mark.parametrize(
    ("kind", "side"),
    [
        ("sdxl", SIDE),
        ("sd3", SIDE),
        ("flux_dev", 256),
        ("z_image", 1024),
        ("flux2_klein", 256),
        ("qwen_image_21", 1024),
    ],
)
def test_without_a_size_images_are_of_the_size_that_the_pipeline_makes(
    kind: str, side: int, folder_of: FolderOf
) -> None:
    base = load_base(str(folder_of(kind)))
    assert (base.height, base.width) == (side, side)


def test_what_is_no_base_is_refused_in_one_line(folder_of: FolderOf, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    parts = open_base(folder_of("sdxl")).pipeline.components
    StableDiffusionXLImg2ImgPipeline(**parts, add_watermarker=False).save_pretrained(tmp_path / "other")
    shutil.copytree(folder_of("sdxl"), tmp_path / "partial")
    shutil.rmtree(tmp_path / "partial" / "unet")
    for name, message in (
        ("empty", "it has no model_index.json, so it is no pipeline of diffusers"),
        ("other", "is a StableDiffusionXLImg2ImgPipeline; one of StableDiffusionPipeline, .*, QwenImage21Pipeline can"),
        ("partial", "cannot be loaded: Error no file named config.json"),
        ("missing", "no such folder, and not a hub id"),
    ):
        with pytest.raises(UserError, match=message) as refusal:
            load_base(str(tmp_path / name))
        assert "\n" not in str(refusal.value)


def test_a_folder_with_half_precision_weights_alone_is_loaded(folder_of: FolderOf, tmp_path: Path) -> None:
    base = open_base(folder_of("sdxl"), precision="fp16")
    base.pipeline.save_pretrained(tmp_path, variant="fp16")
    again = open_base(tmp_path, precision="bf16")
    assert again.network.dtype == torch.bfloat16
    for here, there in zip(again.network.parameters(), base.network.parameters(), strict=True):
        assert torch.equal(here, there.bfloat16())


@pytest.mark.slow
def test_hub_ids_are_found_in_the_local_cache_when_offline(folder_of: FolderOf, tmp_path: Path) -> None:
    commit = "4a1b" * 10
    cached = tmp_path / "models--owner--tiny"
    shutil.copytree(folder_of("sd3_without_t5"), cached / "snapshots" / commit)
    (cached / "refs").mkdir()
    (cached / "refs" / "main").write_text(commit)
    program = """if True:
        import json, sys
        from drtune.models.loading import load_base, quiet_libraries
        from drtune.errors import UserError
        quiet_libraries()
        told = []
        for name, revision in json.loads(sys.argv[1]):
            try:
                told.append(type(load_base(name, revision)).__name__)
            except UserError as error:
                told.append(str(error))
        print(json.dumps(told))
    """
    names = [["owner/tiny", None], ["owner/tiny", commit], ["owner/tiny", "v2"], ["owner/absent", None]]
    done = subprocess.run(
        [sys.executable, "-c", program, json.dumps(names)],
        env={**os.environ, "HF_HUB_CACHE": str(tmp_path), "HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error"},
        check=True,
        capture_output=True,
        text=True,
    )
    found, pinned, no_revision, absent = json.loads(done.stdout)
    assert found == pinned == "StableDiffusion3"
    for name, revision, told in (("owner/tiny", "'v2'", no_revision), ("owner/absent", "None", absent)):
        assert told == (
            f"base_model={name!r}, base_revision={revision}: cannot be loaded: no such folder, HF_HUB_OFFLINE is set, "
            "and the local cache has no copy of it; give the folder of a copy"
        )
    assert done.stderr == ""


@pytest.mark.slow
def test_a_commit_whose_files_are_in_the_cache_is_loaded_without_the_hub(folder_of: FolderOf, tmp_path: Path) -> None:
    program = """if True:
        import sys
        from drtune.models.loading import load_base, quiet_libraries
        quiet_libraries()
        print(load_base("owner/tiny", sys.argv[1]).pipeline.name_or_path)
    """
    asked: list[str] = []

    class HangsUp(Handler):
        def do_HEAD(self) -> None:
            asked.append(self.path)
            self.close_connection = True

        do_GET = do_HEAD

    def load(endpoint: str) -> str:
        environment = {**os.environ, "HF_ENDPOINT": endpoint, "HF_HUB_CACHE": str(tmp_path), "NO_PROXY": "127.0.0.1"}
        environment.pop("HF_HUB_OFFLINE", None)
        ran = subprocess.run(
            [sys.executable, "-c", program, COMMIT], env=environment, capture_output=True, text=True, check=False
        )
        assert ran.returncode == 0, ran.stderr
        return ran.stdout

    folder = folder_of("qwen_image_21")
    with Hub() as hub:
        files = (path for path in folder.rglob("*") if path.is_file())
        hub.repositories["owner/tiny"] = {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}
        assert load(hub.url) == "owner/tiny\n"
    with Serving(HangsUp) as server:
        assert load(server.url) == "owner/tiny\n"
        assert asked == []
        shutil.rmtree(tmp_path / "models--owner--tiny" / "trees")
        assert load(server.url) == "owner/tiny\n"
        assert asked  # which files there are, and the cache has to do


@pytest.mark.parametrize("kind", ["z_image", "flux2_klein", "qwen_image", "qwen_image_21"])
def test_a_language_model_cuts_prompts_with_their_template(kind: str, folder_of: FolderOf) -> None:
    base = open_base(folder_of(kind))
    assert isinstance(base, LanguageModelBase)
    room = base.max_tokens - len(base.tokenizer(base.in_template("a")).input_ids) + 1
    assert base.count_truncated(["a" * length for length in (1, room, room + 1)]) == 1


def test_flux2_klein_refuses_a_negative_prompt_that_its_pipeline_could_not_be_given(folder_of: FolderOf) -> None:
    with pytest.raises(UserError, match="negative_prompt='a star': a Flux2KleinPipeline takes the empty one alone"):
        open_base(folder_of("flux2_klein")).encode_negative("a star")
