"""The commands `drtune-pipeline schedule`."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from pipelines.cli.options import (
    ARGUMENTS,
    EXPERIMENT,
    INLINE,
    PACKAGE,
    SERVICE_ACCOUNT,
    VERSION,
    Server,
    on_server,
    prepared,
)

if TYPE_CHECKING:
    from pipelines.server.client import Client


class ByName(click.Group):
    """Takes `schedule NAME ...` for `schedule create NAME ...`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Put the command in front unless there is one, or help is wanted."""
        if args and args[0] not in self.commands and args[0] not in ctx.help_option_names:
            args = ["create", *args]
        return super().parse_args(ctx, args)


@click.group(cls=ByName)
def schedule() -> None:
    """Let runs start by themselves. `schedule NAME --cron "0 3 * * 1"` makes or replaces a schedule."""


@schedule.command("create")
@click.argument("name")
@click.option("--cron", required=True, metavar="EXPRESSION", help="When: five fields, or six with the seconds first.")
@PACKAGE
@VERSION
@INLINE
@EXPERIMENT
@SERVICE_ACCOUNT
@click.option(
    "--max-concurrency",
    type=click.IntRange(1, 10),
    default=1,
    show_default=True,
    help="How many of its runs may run at once; others wait.",
)
@click.option("--catch-up", is_flag=True, help="After a pause start all runs that were missed, not only the newest.")
@ARGUMENTS
@on_server
def create_schedule(server: Server, name: str, cron: str, max_concurrency: int, catch_up: bool, **job: Any) -> None:
    """Make the schedule NAME, or replace it. `schedule NAME --cron ...` is the same.

    Kubeflow cannot change a schedule. The new one is made paused, the old one is deleted, then the new one is let go;
    so two never start runs at once. One that was paused stays paused.
    """
    from pipelines.server.schedules import Schedule, is_active, next_starts, replace, six_fields

    if name in schedule.commands:
        raise click.UsageError(f"`schedule {name}` is a command, and its options come after it")
    wanted = Schedule(name, six_fields(cron), max_concurrency, catch_up)
    click.echo(f"cron: {wanted.cron} (second minute hour day-of-month month day-of-week)")
    with prepared(server, **job) as (client, what):
        made = replace(client, wanted, what, click.echo)
        click.echo(f"schedule {name}: {'active' if is_active(made) else 'paused'}, {made.recurring_run_id}")
        click.echo(client.page(f"recurringrun/details/{made.recurring_run_id}"))
    times = ", ".join(f"{start:%a %Y-%m-%d %H:%M}" for start in next_starts(wanted.cron, 3))
    click.echo(f"next, if the server's clock is UTC: {times}")


@schedule.command("list")
@on_server
def list_schedules(server: Server) -> None:
    """Show all schedules."""
    from pipelines.server.schedules import cron_of, every, is_active

    with server() as client:
        known = every(client)
        for one in known:
            state = "active" if is_active(one) else "paused"
            click.echo(f"{state}  {cron_of(one):<18}  {one.recurring_run_id}  {one.display_name}")
        if not known:
            click.echo("no schedules")


@schedule.command("pause")
@click.argument("name")
@on_server
def pause_schedule(server: Server, name: str) -> None:
    """Let a schedule start no more runs; those that run go on."""
    _each(server, name, lambda client: client.disable_recurring_run, "paused")


@schedule.command("resume")
@click.argument("name")
@on_server
def resume_schedule(server: Server, name: str) -> None:
    """Let a paused schedule start runs again."""
    _each(server, name, lambda client: client.enable_recurring_run, "active")


@schedule.command("delete")
@click.argument("name")
@on_server
def delete_schedule(server: Server, name: str) -> None:
    """Delete a schedule; its runs stay."""
    _each(server, name, lambda client: client.delete_recurring_run, "deleted")


def _each(server: Server, name: str, doing: Callable[[Client], Callable[[str], Any]], done: str) -> None:
    from pipelines.server.schedules import find

    with server() as client:
        for one in find(client, name):
            doing(client)(one.recurring_run_id)
            click.echo(f"schedule {name}: {done}, {one.recurring_run_id}")
