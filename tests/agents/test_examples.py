"""Every example trains as its page says: two steps, without drift, on every token that was sampled and on no other."""

from collections import Counter

import pytest
import ray
from agent_environments import EXAMPLES, InstallError, example_environment, small_model
from agents_exactness import Sampled
from examples_world import ROLLOUTS, completions, conversations, copied, stretches, train

from nexrl.records import Float32s, Int32s
from nexrl_trainer.batches.datums import Datum

NAMES = sorted(recipe.parent.name for recipe in EXAMPLES.glob("*/recipe.yaml"))
WITHOUT_TOOLS = {"smolagents"}
"""Its tool is Python, and one program is one call."""
WITH_SUB_AGENTS = {"nexau"}
"""Each has conversations of its own."""


@pytest.fixture(scope="module")
def model(show):
    return small_model(show)


@pytest.fixture(scope="module")
def examples(tmp_path_factory):
    return copied(EXAMPLES, tmp_path_factory.mktemp("checkout"))


@pytest.fixture(scope="module")
def cluster():
    """One Ray for all examples: its start is half of a short run."""
    ray.init(address="local", num_cpus=4, include_dashboard=False, log_to_driver=False)
    yield ray.get_runtime_context().gcs_address
    ray.shutdown()


@pytest.mark.parametrize("name", NAMES)
def test_an_example_trains_two_steps_without_drift_on_every_sampled_token(
    name, model, examples, cluster, show, tmp_path
):
    try:
        for place, kept in example_environment(name, show).items():
            (examples / name / place).symlink_to(kept)
    except InstallError as error:
        pytest.fail(str(error), pytrace=False)

    run = train(examples / name, model, cluster, tmp_path)

    assert [[line["rollouts"], line["failed"], line["drift"]] for line in run.metrics] == [[ROLLOUTS, 0, 0]] * 2
    assert completions(datum for batch in run.batches for datum in batch) == Counter(run.sampled)
    # One conversation is one sequence, under the weights of its step alone.
    assert sum(map(len, run.batches)) == conversations(run.sampled)
    for version, batch in enumerate(run.batches):
        assert len({datum.session for datum in batch}) == ROLLOUTS
        assert {at for datum in batch for at in datum.weight_versions} == {-1, version}
    assert (max(map(len, run.batches)) > ROLLOUTS) == (name in WITH_SUB_AGENTS)
    turns = [len(list(stretches(datum.loss_mask))) for batch in run.batches for datum in batch]
    assert (max(turns) > 1) == (name not in WITHOUT_TOOLS)
    # The engine's logprobs, recomputed by the trainer under the same weights in float32.
    assert max(line["gap_max"] for line in run.metrics) < 1e-4


FIRST = Sampled((1, 2), (3, 4), (-0.5, -0.25))
SECOND = Sampled((1, 2, 3, 4, 5), (6,), (-1.0,))


def test_conversations_are_counted_by_the_calls_that_open_them():
    other = Sampled((1, 2), (3,), (-0.5,))
    assert conversations([FIRST, SECOND]) == 1
    assert conversations([FIRST, SECOND, FIRST, SECOND]) == 2
    assert conversations([FIRST, other, SECOND]) == 2


def datum(mask):
    zeros = Float32s([0.0] * 6)
    return Datum(
        ids=Int32s([1, 2, 3, 4, 5, 6]),
        loss_mask=Int32s(mask),
        logprobs=Float32s([0.0, 0.0, -0.5, -0.25, 0.0, -1.0]),
        temperatures=zeros,
        weight_versions=Int32s([0] * 6),
        advantages=zeros,
        weights=zeros,
        session="s",
    )


def test_a_batch_is_what_was_sampled_where_every_token_of_it_is_trained_once_and_no_other():
    assert completions([datum([0, 0, 1, 1, 0, 1])]) == Counter([FIRST, SECOND])


@pytest.mark.parametrize(
    "masks",
    [
        pytest.param([], id="lost"),
        pytest.param([[0, 0, 1, 1, 0, 1]] * 2, id="twice"),
        pytest.param([[0, 0, 1, 1, 0, 0]], id="not trained"),
        pytest.param([[0, 0, 0, 1, 0, 1]], id="not trained from its beginning"),
        pytest.param([[0, 0, 1, 1, 1, 1]], id="prompt trained"),
        pytest.param([[0, 1, 1, 1, 0, 1]], id="prompt trained before"),
    ],
)
def test_a_batch_that_trains_something_else_is_noticed(masks):
    assert completions(map(datum, masks)) != Counter([FIRST, SECOND])
