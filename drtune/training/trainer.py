"""The tuner: prompts in, a tuned model out."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

from drtune.config import REWARDS, Config
from drtune.contracts import MANIFEST, TunedModel
from drtune.errors import AwayError, InterruptionError, UserError
from drtune.files.local import replacing
from drtune.files.output import base_folder, claimed, mark, resolved
from drtune.files.storage import check_writable, open_storage
from drtune.models.miniature.words import warning_of
from drtune.models.start import read_start
from drtune.models.tuned import open_tuned
from drtune.prompts.prepare import PreparedPrompts, open_prompts
from drtune.rewards.files import file_of
from drtune.training.checkpoint import FOLDER
from drtune.training.checks import base_commit, check_start
from drtune.training.mirror import Mirror
from drtune.training.pictures import pictures_of
from drtune.training.processes import Processes
from drtune.training.run import Trainer


def train(
    config: Config,
    prompts: str | Path,
    out: str | Path,
    *,
    resume: bool = False,
    overwrite: bool = False,
    mirror: str | None = None,
) -> TunedModel:
    """Tune the base model on the training prompts of a PromptSet folder; write a TunedModel folder to `out`.

    Under torchrun every process calls this and takes its share of each batch. With `resume` the run in `out` goes on
    from its newest checkpoint, or starts if there is none, and ends bit for bit as if it had never stopped; a finished
    run is left as it is. A `mirror` is a URI at which `out` is kept too, for nodes that do not share a disk; it implies
    `resume`.

    A base of the hub is loaded by the commit that its revision names when the run begins, in every process, and that is
    the base_revision of the model and of its config.yaml. A local folder and the miniature have none.

    Raises:
        UserError: output that exists already, prompts or a checkpoint that do not fit, a training that diverges.
        InterruptionError: SIGTERM or Ctrl-C came, and the state is saved.

    >>> from drtune.config import load_config
    >>> model = train(load_config("configs/miniature.yaml", ["steps=80"]), "runs/prompts", "runs/model")
    """
    out, _ = resolved(out)
    check_start(config)
    kept = Mirror(out, open_storage(mirror)) if mirror else None
    resume = resume or kept is not None
    processes = Processes()
    with processes.failing_as_one(), ExitStack() as held:
        if resume and overwrite:
            raise UserError("resume keeps what stands at the output, overwrite replaces it; give one of them")
        prepared = open_prompts(prompts)
        if processes.is_main:
            inputs = [prepared.folder, mirror, *_files_read(config, overwrite=overwrite)]
            held.enter_context(claimed(out, "TrainingRun", overwrite=overwrite or resume, inputs=inputs))
        if kept:
            _take_up(kept, processes)
        # One decides for all: another may read while something is written, or have another commit in its cache.
        [revision, *_] = processes.exchange(base_commit(config, out if resume else None) if processes.is_main else None)
        config = config.model_copy(update={"base_revision": revision})
        if resume:
            [model, *_] = processes.exchange(_finished(out, config, prepared) if processes.is_main else None)
            if model:
                return model
        if processes.is_main and resume and (out / MANIFEST).exists() and not any((out / FOLDER).glob("step-*")):
            raise UserError(f"output {out}: holds a model, and no checkpoint to go on from; give another place")
        if processes.is_main:
            _tell(config, prepared)
        return _run(Trainer(config, prepared, out, processes, kept), resume=resume)


def _files_read(config: Config, *, overwrite: bool) -> Iterator[str | Path | None]:
    """What the configuration names, of which the output must be none; None where it names nothing."""
    yield from (base_folder(config.base_model), config.start, config.method.pictures)
    if overwrite:  # a run that goes on may be given what it keeps itself
        yield from (file_of(name) for name in config.reward_names if name not in REWARDS)


def _run(trainer: Trainer, *, resume: bool) -> TunedModel:
    """Run it where it goes on, or aside, so that what stands there is replaced with the first update alone."""
    processes, kept = trainer.processes, trainer.mirror
    with ExitStack() as aside:
        place = trainer.out
        if processes.is_main:
            if not resume:
                place = aside.enter_context(replacing(trainer.out))
            place.mkdir(exist_ok=True)
            mark(place, "TrainingRun")
            if kept:
                kept.announce()
        [place, *_] = processes.exchange(place)
        if kept and processes.is_first_here and not processes.is_main:
            kept.join()
        try:
            return trainer.run(place, aside.close)
        except AwayError as error:  # not a mistake of the user: started again, it goes on from what is saved
            raise InterruptionError(str(error), signal.SIGTERM) from None


def _take_up(kept: Mirror, processes: Processes) -> None:
    """Make the folder of every machine and the mirror alike; the one that is further on counts.

    Raises:
        UserError: they are of different runs, or the mirror cannot be written to.
    """
    if processes.is_first_here:
        kept.refuse_another_run()
    processes.wait()
    if processes.is_main:
        check_writable(kept.storage)
    if is_ahead := processes.is_main and kept.is_ahead():
        kept.announce()
        kept.push(must=True)
    processes.wait()
    if processes.is_first_here and not is_ahead:
        kept.fetch()
    processes.wait()


def _tell(config: Config, prepared: PreparedPrompts) -> None:
    """What happens in the silent time before the first update, and what is odd about the prompts."""
    texts = [prompt.text for prompt in (*prepared.train, *prepared.eval)]
    if config.base_model == "miniature" and (warning := warning_of(texts)):
        print(f"train: {warning}", flush=True)
    base = f"{config.base_model} at {config.base_revision}" if config.base_revision else config.base_model
    print(f"train: loading {base} and encoding prompts, which takes a while", flush=True)


def _finished(out: Path, config: Config, prepared: PreparedPrompts) -> TunedModel | None:
    """The model in `out`, if it is what this run would make: of other files under the same names it is not."""
    try:
        model, _ = open_tuned(out)
    except UserError:
        return None  # none, or damaged: the newest checkpoint makes it anew
    if (model.config_sha256, model.prompts) != (config.sha256(), prepared.prompt_set):
        return None
    start, pictures = read_start(config), pictures_of(config, prepared)
    begun_from = (start and start.sha256, pictures and pictures.sha256)
    return model if begun_from == (model.start_sha256, model.pictures_sha256) else None
