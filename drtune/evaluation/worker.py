"""One more process of an evaluation: `python -m drtune.evaluation.worker --model=FOLDER ...`, started by work.py.

It makes its share of the pictures and says nothing: what it does not make, the process that started it does, and meets
what there is to be told.
"""

from __future__ import annotations

from pathlib import Path

import click

from drtune.lifetime import as_command

PATH = click.Path(path_type=Path)


@click.command()
@click.option("--model", "model_folder", type=PATH, required=True, help="The candidate, a TunedModel.")
@click.option("--prompts", "prompts_folder", type=PATH, required=True, help="A prompt set.")
@click.option("--champion", type=PATH, help="The TunedModel that the candidate would replace.")
@click.option("--set", "overrides", multiple=True, help="Differences from the candidate's configuration.")
@click.option("--folder", type=PATH, required=True, help="Where the evaluation works.")
@click.option("--share", type=int, required=True, help="Which share, from 0.")
@click.option("--count", type=int, required=True, help="Of how many.")
def main(
    model_folder: Path,
    prompts_folder: Path,
    champion: Path | None,
    overrides: tuple[str, ...],
    folder: Path,
    share: int,
    count: int,
) -> None:
    """Draw and measure one share of an evaluation."""
    with as_command(with_parent=True):
        from drtune.evaluation.checks import overridden
        from drtune.evaluation.gathering import left
        from drtune.evaluation.work import Work
        from drtune.models.loading import quiet_libraries
        from drtune.models.tuned import open_tuned
        from drtune.prompts.prepare import open_prompts
        from drtune.prompts.shots import choose_prompts

        quiet_libraries()
        model, _ = open_tuned(model_folder)
        config = overridden(model_folder, overrides)
        prompts = choose_prompts(open_prompts(prompts_folder).eval, config.evaluation.max_prompts)
        work = Work(config, model_folder, model, champion, prompts)
        for batch in left(work.batches(folder), share, count):
            batch.make()


if __name__ == "__main__":
    main()
