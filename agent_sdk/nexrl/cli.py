"""The `nexrl` command. Rooms bring their own subcommands through the entry point group `nexrl.commands`.

So the core imports no room, and a light installation still says what a missing command needs.
"""

import contextlib
import sys
from collections.abc import Generator
from importlib.metadata import EntryPoint, entry_points, version
from typing import Annotated

import typer

from nexrl.errors import ConfigError, NexrlError
from nexrl.keys import admin_key, attempt_key, read_key, reward_grant, trainer_key

GROUP = "nexrl.commands"
ANY_ARGUMENTS = {"allow_extra_args": True, "ignore_unknown_options": True}
"""What a command that is not installed takes: the remedy is told, not what its arguments would have been."""


def key(
    attempt: Annotated[str | None, typer.Argument(help="Attempt id, as it will stand in sessions.")] = None,
    *,
    reward: Annotated[str | None, typer.Option(help="A grant to give rewards to this one session.")] = None,
    trainer: Annotated[bool, typer.Option("--trainer", help="A key that plans, leases, judges and reads.")] = False,
    read_only: Annotated[bool, typer.Option("--read-only", help="A key that reads everything.")] = False,
) -> None:
    """Print a key derived from the admin key in NEXRL_ADMIN_KEY: an agent's for ATTEMPT, or another kind.

    Examples:
    OPENAI_API_KEY=$(nexrl key my-attempt) python my_agent.py
    curl -H "Authorization: Bearer $(nexrl key --reward my-attempt)" -d '{"name": "thumb", "value": 1}'
    http://127.0.0.1:4318/api/sessions/my-attempt/rewards
    """
    if sum(map(bool, (attempt, reward, trainer, read_only))) != 1:
        raise ConfigError("nexrl key: give one of ATTEMPT, --reward SESSION, --trainer and --read-only")
    admin = admin_key(None)
    if attempt:
        made = attempt_key(attempt, admin)
    elif reward:
        made = reward_grant(reward, admin)
    else:
        made = trainer_key(admin) if trainer else read_key(admin)
    typer.echo(made)


def _tell_version(asked: bool) -> None:
    if asked:
        typer.echo(f"nexrl {version('nexrl')}")
        raise typer.Exit


Version = Annotated[
    bool, typer.Option("--version", callback=_tell_version, is_eager=True, help="Print the version of NexRL.")
]


def build(arguments: list[str]) -> typer.Typer:
    """Return the application; where the first argument names a command, only that room is imported."""
    app = typer.Typer(
        name="nexrl",
        help="Train the agents you already have. To train, see `nexrl-train --help`.",
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        add_completion=False,
    )
    # A typer application with a single command drops the command's name; a callback keeps it.
    app.callback()(_whole)
    found = {point.name: point for point in entry_points(group=GROUP)}
    chosen = found.keys() & set(arguments[:1]) or found.keys()
    for name in sorted(chosen):
        _add(app, found[name])
    return app


def _whole(*, version: Version = False) -> None:
    """Take the options that are no command's."""


def run(app: typer.Typer, arguments: list[str]) -> None:
    """Run an application; errors people can act on are one line on standard error and exit code 1."""
    try:
        app(arguments)
    except NexrlError as error:
        sys.stderr.write(f"error: {error}\n")
        sys.exit(1)


@contextlib.contextmanager
def needing(command: str, extra: str) -> Generator[None]:
    """Import in here what only an extra of nexrl installs: raises NexrlError, with the remedy, where it is missing."""
    try:
        yield
    except ImportError as error:
        missing = error.name or str(error)
        raise NexrlError(f"{command} needs {missing}, which is not installed: {remedy(extra)}") from error


def remedy(extra: str) -> str:
    """Return the command that installs an extra of nexrl."""
    return f"pip install 'nexrl[{extra}]'"


def main() -> None:
    """Entry point of the console script."""
    run(build(sys.argv[1:]), sys.argv[1:])


def _add(app: typer.Typer, point: EntryPoint) -> None:
    try:
        with needing(f"nexrl {point.name}", "serve"):
            command = point.load()
    except NexrlError as error:
        explanation = error

        def command() -> None:
            raise explanation

        # `[serve]` is a name here, no markup.
        told = f"(not installed: {remedy('serve')})".replace("[", r"\[")
        app.command(point.name, help=told, context_settings=ANY_ARGUMENTS)(command)
    else:
        app.command(point.name)(command)


if __name__ == "__main__":
    main()
