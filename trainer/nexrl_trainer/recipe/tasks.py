"""The `tasks` part of a recipe: where tasks come from, how sources are mixed, and in which order they are drawn."""

import re
from typing import Annotated, Any, Literal

from msgspec import Meta, field

from nexrl_trainer.recipe.part import Part, Positive

Kind = Literal["jsonl", "json", "csv", "parquet", "dataset", "reasoning_gym", "python"]
Operator = Literal["==", "!=", "<", "<=", ">", ">=", "in", "not in", "contains", "matches"]


class Condition(Part, frozen=True, kw_only=True):
    field: str
    """A field of the row as it stands in the source."""
    op: Operator
    """`contains`: the field holds the value, a part of its text or one of its items. `matches`: the value, a regular
    expression, is found in the field's text. The others are Python's."""
    value: Any
    """A list for `in` and `not in`."""

    def __post_init__(self) -> None:
        if self.op in {"in", "not in"} and not isinstance(self.value, list):
            raise ValueError(f"{self.field} {self.op} {self.value!r}: write the value as a list")
        if self.op == "matches" and (problem := _no_pattern(self.value)):
            raise ValueError(f"{self.field} matches {self.value!r}: no regular expression: {problem}")


def _no_pattern(value: Any) -> str | None:
    if not isinstance(value, str):
        return f"a {type(value).__name__}"
    try:
        re.compile(value)
    except re.error as error:
        return str(error)
    return None


class Source(Part, frozen=True, kw_only=True):
    path: str
    """A .jsonl, .json, .csv, .tsv or .parquet file; a directory of Hugging Face datasets; `reasoning_gym:NAME`, a
    generator of that package; or `file.py:function`, a function that returns rows."""
    kind: Kind | None = None
    """What the path is, where its name does not say so. `dataset` is a directory of Hugging Face datasets."""
    name: str | None = None
    """What the source is called; rows without an id are numbered under it. None: the name of the file."""
    split: str | None = None
    """Split of a dataset that has several."""
    options: dict[str, Any] = field(default_factory=dict[str, Any])
    """What the generator or the function is called with."""
    where: list[Condition] = field(default_factory=list[Condition])
    """Only rows that fulfil all of these."""
    keep: str | None = None
    """Only rows for which a function says so: `file.py:function`, called with the row, a dict."""
    fields: dict[str, str] = field(default_factory=dict[str, str])
    """Fields that are written anew, each from a text in which `{name}` stands for the row's field of that name."""
    id: str | None = None
    """The task's id, a text of the same sort. None: the row's `id`, or the source's name and the row's number."""
    limit: Positive | None = None
    """Only the first so many of the rows that are kept."""
    repeat: Positive = 1
    """How often each task stands in an epoch. In `tasks.heldout`: how often each is evaluated."""
    weight: Annotated[float, Meta(gt=0)] | None = None
    """Share of groups that are about this source, in proportion to the weights of the others."""


class Curriculum(Part, frozen=True, kw_only=True):
    floor: Annotated[float, Meta(ge=0.001, le=1)] = 0.05
    """Added to every task's p(1-p), so that what always or never succeeds is still tried again."""
    pace: Annotated[float, Meta(gt=0, le=1)] = 0.5
    """How far p goes from where it was, 0.5 at first, to the share of a group's rollouts that succeeded."""


class Tasks(Part, frozen=True, kw_only=True):
    train: str | Annotated[list[Source], Meta(min_length=1)] | None = None
    """The path of one source, or a list of sources. None only where the run learns from `sessions`."""
    heldout: str | float | Annotated[list[Source], Meta(min_length=1)] | None = None
    """Tasks that are never trained on: a path, a list of sources, or a share of `train`, between 0 and 1, that is held
    out by its ids."""
    order: Literal["shuffled", "listed", "curriculum"] = "shuffled"
    """Epochs over all tasks, shuffled anew each time by `seed`, or as they are listed; or tasks that succeed now and
    then before those that always or never do, drawn by what rollouts of each came to."""
    curriculum: Curriculum = Curriculum()

    def __post_init__(self) -> None:
        if self.order != "curriculum" and (named := self.curriculum.changed()):
            raise ValueError(f"tasks.curriculum.{named[0]}: tasks.order is {self.order}; set it to curriculum")
        weighted = [source.weight is not None for source in self.sources]
        if any(weighted) and not all(weighted):
            nameless = self.sources[weighted.index(False)]
            raise ValueError(
                f"tasks.train: {nameless.path} has no weight, others have one; give one to all, or to none"
            )
        if isinstance(self.heldout, float) and not 0 < self.heldout < 1:
            raise ValueError(
                f"tasks.heldout={self.heldout:g}: a number is a share of tasks.train, between 0 and 1, and no count; "
                "write 0.1 for a tenth, or name a file; evaluation.limit says how many are evaluated"
            )
        if isinstance(self.heldout, list):
            for source in self.heldout:
                if source.weight is not None:
                    raise ValueError(
                        f"tasks.heldout: {source.path} has a weight; each of them is evaluated once: remove it"
                    )

    @property
    def sources(self) -> list[Source]:
        """What is trained on."""
        if isinstance(self.train, list):
            return self.train
        return [Source(path=self.train)] if self.train else []

    @property
    def heldout_sources(self) -> list[Source]:
        """What is never trained on, where that has sources of its own."""
        if isinstance(self.heldout, list):
            return self.heldout
        return [Source(path=self.heldout)] if isinstance(self.heldout, str) else []
