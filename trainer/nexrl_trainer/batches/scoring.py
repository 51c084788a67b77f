"""What a step trains on, scored by the other policies it needs: the reference of a KL, the teacher of a distillation.

`selection.py` decides; this module asks the train services, each only for what the recipe uses.
"""

from collections.abc import Sequence

from msgspec import Struct, structs

from nexrl.records import Float32s, TrainingGroup
from nexrl_trainer.batches.datums import Datum
from nexrl_trainer.batches.selection import Selection, lay_out, less_kl, select
from nexrl_trainer.policy.service import Learns
from nexrl_trainer.recipe.algorithm import Algorithm


class Scorers(Struct, frozen=True, kw_only=True):
    """Policies that are asked for logprobs and never trained; None where the recipe has no use for one."""

    reference: Learns | None = None
    teacher: Learns | None = None


async def choose(groups: Sequence[TrainingGroup], algorithm: Algorithm, version: int, scorers: Scorers) -> Selection:
    """Return what the step trains on, whole: advantages, reference and teacher logprobs where they are used."""
    candidates = lay_out(groups, algorithm, version)
    kl = algorithm.kl
    if kl.coefficient and kl.place == "reward" and candidates.datums:
        assert scorers.reference
        candidates = less_kl(candidates, await scorers.reference.forward(candidates.datums), kl.coefficient)
    selection = select(candidates, algorithm)
    datums = selection.datums
    if kl.coefficient and kl.place == "loss" and datums:
        assert scorers.reference
        datums = with_column(datums, "reference", await scorers.reference.forward(datums))
    if algorithm.advantage == "distillation" and datums:
        assert scorers.teacher
        datums = distilled(with_column(datums, "teacher", await scorers.teacher.forward(datums)))
    return structs.replace(selection, datums=datums)


def with_column(datums: Sequence[Datum], name: str, values: Sequence[Float32s]) -> list[Datum]:
    """Return the datums with logprobs float32 [T] each under `name`."""
    return [structs.replace(datum, **{name: column}) for datum, column in zip(datums, values, strict=True)]


def distilled(datums: Sequence[Datum]) -> list[Datum]:
    """Set A_t = teacher_t - behaviour_t: minus the reverse KL of each sampled token.

    On-policy distillation, https://thinkingmachines.ai/blog/on-policy-distillation; arXiv 2306.13649.
    """
    return [structs.replace(datum, advantages=_gap(datum)) for datum in datums]


def _gap(datum: Datum) -> Float32s:
    assert datum.teacher is not None
    columns = zip(datum.loss_mask, datum.teacher, datum.logprobs, strict=True)
    return Float32s(flag * (teacher - behaviour) for flag, teacher, behaviour in columns)
