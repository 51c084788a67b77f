"""reasoning-gym: tasks made by one of its generators, the same ones for the same options and seed.

`nexrl.rewards.judges.reasoning_gym_score` gives a task's answer the generator's own score.
"""

from collections.abc import Iterator

from nexrl.errors import ConfigError
from nexrl_trainer.data.optional import package
from nexrl_trainer.data.rows import Place, Row

DEFAULTS = {"seed": 0, "size": 500}
"""A generator without a seed would make others at every start; the size is reasoning-gym's own."""


def read(place: Place) -> Iterator[Row]:
    """Yield `question`, `answer` (None where there is no one right answer) and `generator`, what it takes to score.

    The generator's metadata is left out: some of it does not survive being stored, and scoring makes it anew.
    """
    factory = package("reasoning_gym.factory", "reasoning")
    if place.member not in factory.DATASETS:
        raise ConfigError(
            f"reasoning_gym:{place.member}: it has no such generator; it has {', '.join(factory.DATASETS)}"
        )
    options = {**DEFAULTS, **place.options}
    try:
        dataset = factory.create_dataset(place.member, **options)
    except (TypeError, ValueError, AssertionError) as error:
        raise ConfigError(f"reasoning_gym:{place.member} does not take options={options}: {error}") from error
    for index in range(len(dataset)):
        made = dataset[index]
        generator = {"name": place.member, "options": options, "index": index}
        fields = {"question": made["question"], "answer": made["answer"], "generator": generator}
        yield Row(number=index + 1, place=f"reasoning_gym:{place.member}, row {index + 1}", fields=fields)
