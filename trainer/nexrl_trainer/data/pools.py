"""All tasks of a recipe: what is trained on, in pools that groups are shared out among, and what is held out."""

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path

from msgspec import Struct

from nexrl.errors import ConfigError
from nexrl.records import Task
from nexrl_trainer.data.reading import read_source
from nexrl_trainer.recipe.tasks import Source, Tasks


class Pool(Struct, frozen=True, kw_only=True):
    """Tasks that are drawn from together: all of them, or those of one source where sources have weights."""

    name: str
    weight: float
    tasks: list[Task]
    """As an epoch has them: one that is repeated stands here several times."""


class Pools(Struct, frozen=True, kw_only=True):
    train: list[Pool]
    heldout: list[Task]
    places: dict[str, str]
    """Where each task stands, by its id: for errors."""


def read_pools(tasks: Tasks, resolve: Callable[[str], Path]) -> Pools:
    """Read everything that the recipe's `tasks` name.

    Raises ConfigError naming what is wrong: a row, an id that stands twice (ids are one namespace, so that nothing is
    trained on that is held out), a source of which nothing is left.
    """
    seen: dict[str, str] = {}
    found = [_read(source, named, resolve, seen) for named, source in _named("tasks.train", tasks.train, tasks.sources)]
    if isinstance(share := tasks.heldout, float):
        heldout = [task for one in found for task in one if held_out(task.id, share)]
        found = [[task for task in one if not held_out(task.id, share)] for one in found]
        _refuse_an_empty_side(tasks.sources, found, heldout, share)
    else:
        others = _named("tasks.heldout", tasks.heldout, tasks.heldout_sources)
        heldout = [task for named, one in others for task in _read(one, named, resolve, seen) * one.repeat]
    return Pools(train=_pools(tasks.sources, found), heldout=heldout, places=seen)


def held_out(task: str, share: float) -> bool:
    """Whether a task of that id is held out: by its id alone, so whatever else the recipe or the source holds.

    The first 8 bytes of the id's BLAKE2b hash, as a number in [0, 1), are less than the share.
    """
    digest = hashlib.blake2b(task.encode(), digest_size=8).digest()
    return int.from_bytes(digest) < share * 2**64


def _named(setting: str, value: object, sources: Sequence[Source]) -> list[tuple[str, Source]]:
    """Return each source with the setting that says where it is."""
    if isinstance(value, list):
        return [(f"{setting}[{index}].path", source) for index, source in enumerate(sources)]
    return [(setting, source) for source in sources]


def _read(source: Source, named: str, resolve: Callable[[str], Path], seen: dict[str, str]) -> list[Task]:
    """Read one source; `seen` says where each id stands, and learns of these."""
    tasks: list[Task] = []
    for found in read_source(source, named, resolve):
        name = found.task.id
        if name in seen:
            raise ConfigError(
                f"{found.place}: id {name!r} stands already at {seen[name]}; ids must differ, also from held-out ones: "
                "give the source a name, or an id like 'mine-{id}'"
            )
        seen[name] = found.place
        tasks.append(found.task)
    if not tasks:
        why = "no row is kept by where and keep" if source.where or source.keep else "it is empty"
        raise ConfigError(f"{named}={source.path}: no tasks: {why}")
    return tasks


def _refuse_an_empty_side(
    sources: Sequence[Source], found: Sequence[list[Task]], heldout: Sequence[Task], share: float
) -> None:
    if not heldout:
        raise ConfigError(
            f"tasks.heldout={share}: of {sum(map(len, found))} tasks none is held out; set a larger share"
        )
    for source, tasks in zip(sources, found, strict=True):
        if not tasks:
            raise ConfigError(f"tasks.heldout={share}: all of {source.path} is held out; set a smaller share")


def _pools(sources: Sequence[Source], found: Sequence[list[Task]]) -> list[Pool]:
    repeated = [tasks * source.repeat for source, tasks in zip(sources, found, strict=True)]
    if not sources:
        return []
    if sources[0].weight is None:
        return [Pool(name="train", weight=1.0, tasks=[task for tasks in repeated for task in tasks])]
    return [
        Pool(name=source.name or source.path, weight=source.weight or 0.0, tasks=tasks)
        for source, tasks in zip(sources, repeated, strict=True)
    ]
