"""`nexrl-train`: run a recipe, show how it goes, say what came out."""

import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from nexrl.cli import Version, needing
from nexrl.cli import run as run_application

INTERRUPTED = 130

app = typer.Typer(pretty_exceptions_enable=False, add_completion=False)


@app.command()
def train(
    recipe: Annotated[Path, typer.Argument(help="The recipe, a YAML file.")],
    overrides: Annotated[
        list[str] | None, typer.Argument(help="Settings that win over the recipe: train.learning_rate=1e-3 steps=4")
    ] = None,
    run: Annotated[
        Path | None, typer.Option(help="Run directory. An unfinished run in it goes on. Default: runs/NAME")
    ] = None,
    show_tasks: Annotated[
        int | None,
        typer.Option(min=1, metavar="N", help="Start nothing: show the first N tasks as the agent is given them."),
    ] = None,
    version: Version = False,  # noqa: ARG001 - typer's callback has answered it
) -> None:
    """Train an agent by reinforcement learning, as a recipe says.

    Starts Ray, ingest, the engine and the proxy; runs your agent as a fresh process per rollout; trains; publishes
    weights; evaluates; stops everything it started. Ctrl-C stops it, and the same command goes on from there.

    Example: nexrl-train recipes/quickstart/recipe.yaml steps=4 --run runs/short
    """
    # Ray, torch and the rest take seconds to import; --help should not.
    from rich.console import Console

    with needing("nexrl-train", "train"):
        from nexrl_trainer.directory import RunDirectory
        from nexrl_trainer.inputs import read
        from nexrl_trainer.recipe import load_recipe

    loaded = load_recipe(recipe, overrides or [])
    given = read(loaded)
    if show_tasks:
        from nexrl_trainer.preview import preview

        sys.stdout.write(preview(loaded, given, show_tasks))
        return
    loaded.check_models()
    with needing("nexrl-train", "train"):
        from nexrl_trainer.run import run as run_recipe

    directory = RunDirectory((run or Path("runs") / loaded.name).absolute())
    # Most of what is shown others wrote: `:100:` in an agent's error is no emoji.
    console = Console(emoji=False)
    signal.signal(signal.SIGTERM, _as_interrupt)
    try:
        result = run_recipe(loaded, given, directory, console)
    except KeyboardInterrupt:
        console.print(f"\nstopped; nothing is lost: the same command goes on from {directory.path}", soft_wrap=True)
        sys.exit(INTERRUPTED)
    _show(console, result, directory, next_commands(loaded, directory.path, result.steps), list(loaded.policies))


def main() -> None:
    """Entry point of the console script."""
    run_application(app, sys.argv[1:])


def next_commands(recipe: Any, folder: Path, steps: int) -> list[str]:
    """Return what is worth doing after a run; what it captured is looked at where it is, at `ingest.url` if need be."""
    where, model = str(folder), ""
    if recipe.ingest.url:
        where, model = recipe.ingest.url, f" --model {recipe.resolve(recipe.model.path)}"
    return [
        f"nexrl sessions {where}",
        f"nexrl trajectories {where}{model}",
        f"nexrl-train {folder / 'recipe.yaml'} --run {folder} steps={2 * steps}",
    ]


def _as_interrupt(*_: Any) -> None:
    raise KeyboardInterrupt


def _show(console: Any, result: Any, directory: Any, commands: list[str], policies: Sequence[str] = ()) -> None:
    from rich.panel import Panel

    from nexrl_trainer.directory import of_policy
    from nexrl_trainer.measuring import several, why_untrained
    from nexrl_trainer.results import not_the_best

    folder, why = directory.path, why_untrained(directory.metrics())
    before, after = (
        ("not measured" if x is None else f"{x:.2f}") for x in (result.success_before, result.success_after)
    )
    console.print(
        Panel(
            f"held-out success  [bold]{before} -> {after}[/bold]\n"
            f"{several(result.steps, 'step')}, {several(result.trained_tokens, 'trained token')}, "
            f"{several(result.drift, 'drifted call')}, "
            f"{result.wall_s / 60:.1f} min",
            title="done, and nothing was trained" if why else "done",
            expand=False,
        )
    )
    if why:
        console.print(why, style="yellow", soft_wrap=True, highlight=False, markup=False)
    console.print(f"run directory  {folder}", soft_wrap=True, highlight=False)
    console.print(f"reward curve   {folder / 'reward.png'}", soft_wrap=True, highlight=False)
    if model := directory.model:
        console.print(f"trained model  {model}", soft_wrap=True, highlight=False)
        for name in policies:
            console.print(f"{name:<14} {of_policy(model, name)}", soft_wrap=True, highlight=False)
        if said := not_the_best(result):
            console.print(f"               {said}", style="yellow", soft_wrap=True, highlight=False)
    console.print("\nnext:", highlight=False)
    for command in commands:
        console.print(f"  {command}", soft_wrap=True, highlight=False, markup=False)


if __name__ == "__main__":
    main()
