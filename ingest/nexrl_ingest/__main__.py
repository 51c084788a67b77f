"""`python -m nexrl_ingest ingest|sessions|trajectories|export|replay`: this room's commands without the others."""

import sys

import typer

from nexrl.errors import NexrlError
from nexrl_ingest.commands.exporting import export
from nexrl_ingest.commands.replaying import replay
from nexrl_ingest.commands.serve import ingest
from nexrl_ingest.commands.show import sessions, trajectories


def main() -> None:
    """Run a command; what goes wrong for a reason outside our code is one line on standard error."""
    app = typer.Typer(add_completion=False, no_args_is_help=True)
    for command in (ingest, sessions, trajectories, export, replay):
        app.command(command.__name__)(command)
    try:
        app()
    except NexrlError as error:
        sys.stderr.write(f"error: {error}\n")
        sys.exit(1)


if __name__ == "__main__":
    main()
