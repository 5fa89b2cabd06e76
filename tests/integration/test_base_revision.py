"""Which commit of the hub a base is of: the first of a run, in all its processes, wherever a branch moves meanwhile."""

from __future__ import annotations

import multiprocessing
import os
import signal
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest
from click.testing import CliRunner

from components.train.request import is_answered
from drtune.cli.main import main
from drtune.config import Config, load_config
from drtune.contracts import CONFIG, MANIFEST, SeedsResult, TunedModel
from drtune.errors import InterruptionError, UserError
from drtune.files.output import mark
from drtune.files.storage import open_storage
from drtune.models.sample_set import SampleSettings, write_sample_set
from drtune.prompts.prepare import open_prompts
from drtune.training.checkpoint import FOLDER
from drtune.training.history import UpdateMetrics
from drtune.training.mirror import MODEL
from drtune.training.processes import Processes
from drtune.training.run import Trainer
from drtune.training.trainer import train
from tests.folders import make_folders
from tests.pipelines import save_pipeline
from tests.together import together_in
from tests.trainings import SHORT, trainer_of

OLD, NEW = "4a1b" * 10, "9c3d" * 10
SMALL = [*SHORT, "evaluation.rewards=[brightness]"]


class Cache:
    """A local cache of the hub with `owner/tiny`, in its layout."""

    def __init__(self, folder: Path, *commits: str) -> None:
        self.folder, self.repository = folder, folder / "models--owner--tiny"
        for commit in commits:
            save_pipeline("sd15", self.snapshot(commit), seed=(OLD, NEW).index(commit))

    def snapshot(self, commit: str) -> Path:
        return self.repository / "snapshots" / commit

    def move_main(self, commit: str) -> None:
        """As the hub's client does when it finds the branch at that commit."""
        (self.repository / "refs").mkdir(exist_ok=True)
        (self.repository / "refs" / "main").write_text(commit)

    def process(self) -> ProcessPoolExecutor:
        """One that has no hub but this: its client reads the environment once, when it is imported."""
        with pytest.MonkeyPatch.context() as environment:
            for name, value in {"HF_HUB_CACHE": str(self.folder), "HF_HUB_OFFLINE": "1"}.items():
                environment.setenv(name, value)
            pool = ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn"))
            pool.submit(os.getpid).result()  # with which it starts
        return pool


def config_of(*overrides: str, base_model: str | Path = "owner/tiny") -> Config:
    return load_config(None, [*SMALL, f"base_model={base_model}", *overrides])


def test_a_run_stays_on_the_commit_with_which_it_began(prompts: Path, tmp_path: Path) -> None:
    cache, out = Cache(tmp_path / "hub", OLD, NEW), tmp_path / "run"
    of_old = train(config_of("steps=2", base_model=cache.snapshot(OLD)), prompts, tmp_path / "old")
    assert of_old.base_revision is None
    with cache.process() as hub:
        cache.move_main(OLD)
        begun = hub.submit(train, config_of("steps=1"), prompts, out).result()
        assert begun.base_revision == load_config(out / CONFIG).base_revision == OLD

        cache.move_main(NEW)
        more = hub.submit(train, config_of("steps=2"), prompts, out, resume=True).result()
        assert (more.step, more.base_revision, more.weights_sha256) == (2, OLD, of_old.weights_sha256)
        assert hub.submit(train, config_of("steps=2"), prompts, out, resume=True).result() == more
        with pytest.raises(UserError, match=rf"base_revision \({NEW} here, {OLD} there\); give the same values"):
            hub.submit(train, config_of("steps=3", f"base_revision={NEW}"), prompts, out, resume=True).result()
        named = hub.submit(train, config_of("steps=3", "base_revision=main"), prompts, out, resume=True).result()
        assert (named.step, named.base_revision) == (3, OLD)
        afresh = hub.submit(train, config_of("steps=1"), prompts, tmp_path / "new").result()
        assert afresh.base_revision == NEW
        assert afresh.weights_sha256 != begun.weights_sha256

        one_step = SampleSettings(steps=1)
        for name, model, base, commit in (("tuned", out, None, OLD), ("alone", None, "owner/tiny", NEW)):
            drawn = hub.submit(
                write_sample_set, ["a star"], tmp_path / name, one_step, model_folder=model, base_model=base
            )
            assert drawn.result().base_revision == commit


def run_drtune(*arguments: str) -> str:
    ran = CliRunner().invoke(main, arguments)
    assert ran.exit_code == 0, ran.output
    return ran.output


def test_a_run_that_goes_on_does_not_look_where_its_branch_is(prompts: Path, tmp_path: Path) -> None:
    cache, out = Cache(tmp_path / "hub", OLD), tmp_path / "run"  # which knows of no branch
    settings = [f"--set={one}" for one in (*SMALL, "base_model=owner/tiny")]
    with cache.process() as hub:
        hub.submit(train, config_of("steps=1", f"base_revision={OLD}"), prompts, out).result()
        command = ["train", f"--prompts={prompts}", f"--out={out}", "--resume", "--set=steps=2", *settings]
        hub.submit(run_drtune, *command).result()
    assert (TunedModel.load(out).step, TunedModel.load(out).base_revision) == (2, OLD)


class EndsEarly(Trainer):
    def update(self, step: int) -> UpdateMetrics:
        raise InterruptionError(f"ended before update {step}", signal.SIGTERM)


def end_before_the_first_update(config: Config, prompts: Path, out: Path) -> None:
    mark(out, "TrainingRun")
    with suppress(InterruptionError):
        EndsEarly(config, open_prompts(prompts), out, Processes()).run()


def test_a_run_that_ended_before_its_first_update_goes_on_with_its_commit(prompts: Path, tmp_path: Path) -> None:
    cache, out = Cache(tmp_path / "hub", OLD, NEW), tmp_path / "run"
    held_out = ["steps=1", "held_out={reward: brightness, max_drop: 1}"]
    cache.move_main(NEW)
    with cache.process() as hub:
        begun = config_of(*held_out, f"base_revision={OLD}")
        hub.submit(end_before_the_first_update, begun, prompts, out).result()
        assert [path.name[:11] for path in (out / FOLDER).iterdir()] == ["step-000000"]
        model = hub.submit(train, config_of(*held_out), prompts, out, resume=True).result()
    assert model.base_revision == OLD


def test_a_folder_has_no_revision(prompts: Path, tmp_path: Path) -> None:
    save_pipeline("sd15", tmp_path / "base", seed=0)
    config = config_of("steps=1", "base_revision=v1", base_model=tmp_path / "base")
    with pytest.raises(UserError, match=r"base_revision='v1' is for a hub id, and base_model='.*' is a folder here"):
        train(config, prompts, tmp_path / "run")


def train_as_before(prompts: Path, out: Path) -> None:
    """A run whose base is known by its name alone, as those of earlier versions."""
    trainer = trainer_of([*SMALL, "base_model=owner/tiny", "steps=1"], prompts, out)
    mark(out, "TrainingRun")
    trainer.run()


@pytest.mark.slow
def test_a_run_that_began_without_a_commit_goes_on_without(prompts: Path, tmp_path: Path) -> None:
    cache = Cache(tmp_path / "hub", OLD)
    cache.move_main(OLD)
    with cache.process() as hub:
        hub.submit(train_as_before, prompts, tmp_path / "run").result()
        more = hub.submit(train, config_of("steps=2"), prompts, tmp_path / "run", resume=True).result()
    assert (more.step, more.base_revision) == (2, None)


@pytest.mark.slow
def test_all_processes_take_the_commit_of_the_first_though_their_caches_differ(prompts: Path, tmp_path: Path) -> None:
    here, there = Cache(tmp_path / "here", OLD), Cache(tmp_path / "there", OLD)
    here.move_main(OLD)
    there.move_main(NEW)  # of which it has no files
    with here.process() as first, there.process() as second:
        models = together_in([first, second], train, config_of("steps=1"), prompts, tmp_path / "run")
    assert [model.base_revision for model in models] == [OLD, OLD]


def test_a_model_on_the_commit_of_what_was_asked_is_the_answer(tmp_path: Path) -> None:
    model = make_folders(tmp_path, base_model="owner/tiny", base_revision=OLD, settings=[f"base_revision={OLD}"]).model
    storage = open_storage(str(tmp_path / "storage"))
    storage.upload(f"{MODEL}/{MANIFEST}", model / MANIFEST)
    TunedModel.load(model).prompts.save(tmp_path)
    asked = load_config(model / CONFIG).model_copy(update={"base_revision": None})
    assert is_answered(storage, asked, tmp_path)
    assert not is_answered(storage, asked.model_copy(update={"seed": 9}), tmp_path)


@pytest.mark.slow
def test_seeds_are_all_trained_on_the_commit_of_the_one_that_was_begun_first(prompts: Path, tmp_path: Path) -> None:
    cache, out = Cache(tmp_path / "hub", OLD, NEW), tmp_path / "seeds"
    settings = ["base_model=owner/tiny", "steps=1", *SMALL]
    settings += ["evaluation={max_prompts: 4, pictures_per_prompt: 1, rewards: [brightness], sampler: {steps: 1}}"]
    cache.move_main(OLD)
    with cache.process() as hub:
        hub.submit(train, load_config(None, [*settings, "seed=0"]), prompts, out / "0" / "model").result()
        cache.move_main(NEW)
        options = [f"--set={one}" for one in settings]
        hub.submit(run_drtune, "seeds", "run", f"--prompts={prompts}", f"--out={out}", "--seeds=1,0", *options).result()
    assert [TunedModel.load(out / seed / "model").base_revision for seed in ("0", "1")] == [OLD, OLD]
    assert len(SeedsResult.load(out / "result").runs) == 2
