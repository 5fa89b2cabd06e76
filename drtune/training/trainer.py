"""The tuner: prompts in, a tuned model out."""

from __future__ import annotations

import shutil
import signal
from pathlib import Path

from drtune.config import Config
from drtune.contracts import TunedModel
from drtune.errors import AwayError, InterruptionError, UserError
from drtune.files.local import claim
from drtune.files.storage import check_writable, open_storage
from drtune.models.tuned import open_tuned
from drtune.prompts.prepare import PreparedPrompts, open_prompts
from drtune.training.checks import check_start
from drtune.training.mirror import Mirror
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

    Raises:
        UserError: output that exists already, prompts or a checkpoint that do not fit, a training that diverges.
        InterruptionError: SIGTERM or Ctrl-C came, and the state is saved.

    >>> from drtune.config import load_config
    >>> model = train(load_config("configs/miniature.yaml", ["steps=80"]), "runs/prompts", "runs/model")
    """
    out = Path(out).resolve() if Path(out).is_symlink() else Path(out)
    check_start(config)
    kept = Mirror(out, open_storage(mirror)) if mirror else None
    resume = resume or kept is not None
    processes = Processes()
    with processes.failing_as_one():
        if resume and overwrite:
            raise UserError("resume keeps what stands at the output, overwrite replaces it; give one of them")
        prepared = open_prompts(prompts)
        # Asked here, so any caller is refused before anything heavy; again below, because loading takes a while, in
        # which another run may come. `drtune train` asks too, before it prepares prompts and starts processes.
        if processes.is_main:
            _claim(out, prepared, overwrite=overwrite or resume)
        if kept:
            if processes.is_first_here:
                kept.fetch()
            if processes.is_main:
                check_writable(kept.storage)
            processes.wait()
        if resume and (model := _finished(out, config, prepared)):
            return model
        trainer = Trainer(config, prepared, out, processes, kept)
        if processes.is_main:
            _claim(out, prepared, overwrite=overwrite or resume)
            if out.exists() and not resume:
                shutil.rmtree(out)
            out.mkdir(parents=True, exist_ok=True)
        processes.wait()
        try:
            return trainer.run()
        except AwayError as error:  # not a mistake of the user: started again, it goes on from what is saved
            raise InterruptionError(str(error), signal.SIGTERM) from None


def _claim(out: Path, prepared: PreparedPrompts, *, overwrite: bool) -> None:
    if claim(out, overwrite=overwrite, inputs=[prepared.folder]).is_file():
        raise UserError(f"output {out}: is a file, and a model is a folder; give another place")


def _finished(out: Path, config: Config, prepared: PreparedPrompts) -> TunedModel | None:
    """The model in `out`, if it is what this run would make."""
    try:
        model, _ = open_tuned(out)
    except UserError:
        return None  # none, or damaged: the newest checkpoint makes it anew
    same = model.config_sha256 == config.sha256() and model.prompts == prepared.prompt_set
    return model if same else None
