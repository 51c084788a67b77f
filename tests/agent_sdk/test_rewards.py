import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

import nexrl
from nexrl import PerCall, Verdict
from nexrl.errors import RewardError
from nexrl.records import Call
from nexrl.rewards import Rollout, load_rewards, missing_names, score, total
from nexrl.rewards.returned import rewards_of, rewards_of_group
from nexrl.rewards.rollout import needs, only
from nexrl.rewards.weighing import weighed

ROLLOUT = Rollout(task={"answer": "4"}, answer="4", messages=[{"role": "user"}])


def values(rewards):
    return {item.name: item.value for item in rewards}


async def test_a_reward_gets_what_it_asks_for_by_name():
    @nexrl.reward
    def correct(task, answer):
        return task["answer"] == answer

    @nexrl.reward
    async def polite(rollout, threshold=3):
        return len(rollout.messages) < threshold

    assert values(await score([correct, polite], ROLLOUT)) == {"correct": 1, "polite": 1, "total": 2}


async def test_the_total_is_the_weighted_sum_and_a_dict_names_its_parts():
    @nexrl.reward(weight=0.5)
    def parts(answer):
        return {"a": 1, "b": 3.0}

    @nexrl.reward(name="penalty", weight=-1)
    def some(answer):
        return 0.25

    assert values(await score([parts, some], ROLLOUT)) == {"a": 1, "b": 3, "penalty": 0.25, "total": 1.75}


def test_a_marked_function_can_still_be_called():
    @nexrl.reward
    def correct(answer):
        return float(answer == "4")

    assert correct("4") == 1.0


@pytest.mark.parametrize(
    "returned", ["yes", None, float("nan"), {"a": "b"}, {3: 1.0}, {"": 1.0}, [1.0], Verdict("good"), np.ones(2)]
)
async def test_what_is_no_finite_number_is_refused_by_name(returned):
    @nexrl.reward
    def odd(answer):
        return returned

    with pytest.raises(RewardError, match="'odd'"):
        await score([odd], ROLLOUT)


async def test_an_exception_is_the_rewards_own_and_is_named():
    @nexrl.reward
    def broken(answer):
        return 1 / 0

    with pytest.raises(RewardError, match="'broken': ZeroDivisionError: division by zero"):
        await score([broken], ROLLOUT)


def test_a_parameter_nobody_can_give_is_refused_when_the_function_is_marked():
    with pytest.raises(RewardError, match="'wrong' asks for 'reply': it can have task, answer"):

        @nexrl.reward
        def wrong(reply):
            return 1

    with pytest.raises(RewardError, match="asks for 'answer': it can have task, answers, rollouts"):

        @nexrl.reward(group=True)
        def one_of_many(answer):
            return [1]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "no such file"),
        ("def f(answer): return 1", "nothing is marked"),
        (
            "import nothing_of_that_name",
            r"ModuleNotFoundError: .* \(reward.py:1: import nothing_of_that_name\); .* install it",
        ),
        ("def f(:", "does not import: SyntaxError"),
        ("import sys; sys.exit(1)", "does not import: SystemExit"),
        (
            "import nexrl\nf = nexrl.reward(lambda answer: 1)\ng = nexrl.reward(lambda answer: 2)",
            "two rewards are named '<lambda>'",
        ),
    ],
)
def test_a_reward_file_that_cannot_be_used_says_why(tmp_path, text, message):
    path = tmp_path / "reward.py"
    if text:
        path.write_text(text)
    with pytest.raises(RewardError, match=message):
        load_rewards(path)


def test_a_reward_file_gives_its_functions_in_order(tmp_path):
    path = tmp_path / "reward.py"
    path.write_text("import nexrl\n@nexrl.reward\ndef b(answer): return 1\n@nexrl.reward\ndef a(answer): return 2\n")
    assert [function.name for function in load_rewards(path)] == ["b", "a"]


def test_a_reward_file_can_import_its_neighbours(tmp_path):
    (tmp_path / "neighbour_of_a_reward.py").write_text("VALUE = 3\n")
    path = tmp_path / "reward.py"
    path.write_text(
        "import nexrl\nfrom neighbour_of_a_reward import VALUE\n@nexrl.reward\ndef a(answer): return VALUE\n"
    )
    [function] = load_rewards(path)
    assert function("x") == 3


CALLS = [Call(id="c1", session="s"), Call(id="c2", session="s")]


async def test_calls_are_judged_one_by_one_and_are_no_part_of_the_total():
    @nexrl.reward
    def tools(calls):
        return PerCall({call.id: index for index, call in enumerate(calls)})

    @nexrl.reward
    def both(calls):
        return {"whole": 2, "first": PerCall({calls[0].id: 0.5})}

    rewards = await score([tools, both], Rollout(task={}, answer="", calls=CALLS))
    assert [(item.name, item.call, item.value) for item in rewards] == [
        ("tools", "c1", 0),
        ("tools", "c2", 1),
        ("whole", None, 2),
        ("first", "c1", 0.5),
        ("total", None, 2),
    ]


def test_a_call_that_the_rollout_did_not_make_cannot_be_judged():
    with pytest.raises(RewardError, match="'r' judges call 'c3', which the rollout did not make: ask for `calls`"):
        rewards_of("r", PerCall({"c3": 1.0}), {"c1"})
    with pytest.raises(RewardError, match="'r' returned"):
        rewards_of("r", PerCall({"c1": float("inf")}), {"c1"})


@pytest.mark.parametrize("value", [np.float32(0.5), np.float64(0.5), np.array(0.5), Verdict(np.float16(0.5))])
def test_scalars_of_numpy_are_numbers(value):
    [given] = rewards_of("r", value, ())
    assert given.value == 0.5
    assert type(given.value) is float


def test_a_verdict_says_why():
    [given] = rewards_of("r", {"tests": Verdict(0.5, "test 2: it printed 5")}, ())
    assert (given.name, given.value, given.explanation) == ("tests", 0.5, "test 2: it printed 5")


@pytest.mark.parametrize(("returned", "shown"), [([1.0], "1 values"), (1.0, "1.0"), (None, "None")])
def test_a_group_function_answers_for_every_rollout(returned, shown):
    assert [[item.value for item in one] for one in rewards_of_group("r", [1, {"a": 2}], [(), ()])] == [[1], [2]]
    with pytest.raises(RewardError, match=f"'r' returned {shown} for 2 rollouts: return a list, one for each"):
        rewards_of_group("r", returned, [(), ()])


def test_only_what_is_asked_for_is_fetched_and_sent():
    assert needs(["answer", "task", "stdout"]) == set()
    assert needs(["answer", "calls"]) == {"calls"}
    assert needs(["rollouts"]) == needs(["rollout"]) == {"messages", "calls", "steps"}
    whole = Rollout(task={"a": 1}, answer="x", stdout="x\n", stderr="e", duration_s=2.0, calls=CALLS)
    assert only(["answer", "stderr"], whole) == Rollout(task={"a": 1}, answer="x", stderr="e")
    assert only(["answers"], whole) == Rollout(task={"a": 1}, answer="x")
    assert only(["rollout"], whole) == whole


async def test_a_class_is_made_once_and_keeps_its_state():
    made = []

    @nexrl.reward(name="seen")
    class Seen:
        def __init__(self):
            made.append(self)
            self.answers = set()

        def score(self, answer):
            self.answers.add(answer)
            return len(self.answers)

    for answer, count in (("a", 1), ("b", 2), ("a", 2)):
        [[given]] = await Seen.judge([Rollout(task={}, answer=answer)])
        assert given.value == count
    assert len(made) == 1


async def test_a_class_may_be_called_be_async_or_be_broken():
    @nexrl.reward
    class Called:
        async def __call__(self, answer):
            return len(answer)

    @nexrl.reward
    class Broken:
        def __init__(self):
            raise OSError("no model there")

        def score(self, answer):
            return 1

    assert Called.asynchronous
    assert values(await score([Called], ROLLOUT)) == {"Called": 1, "total": 1}
    with pytest.raises(RewardError, match="'Broken': its __init__: OSError: no model there"):
        await score([Broken], ROLLOUT)
    with pytest.raises(RewardError, match="the class has neither"):
        nexrl.reward(type("Empty", (), {}))


@pytest.mark.parametrize("options", [{"timeout_s": 0}, {"retries": -1}])
def test_an_option_that_makes_no_sense_is_refused(options):
    with pytest.raises(RewardError, match="'f': timeout_s="):
        nexrl.reward(name="f", **options)(lambda answer: 1)


async def test_a_function_that_is_in_no_file_cannot_run_in_a_process():
    with pytest.raises(RewardError, match="run_in='process' needs a function of a reward file"):
        await score([nexrl.reward(name="f", run_in="process")(lambda answer: 1)], ROLLOUT)


async def test_a_function_that_fails_is_tried_again_as_often_as_it_may():
    tries = []

    @nexrl.reward(retries=2)
    def shaky(answer):
        tries.append(answer)
        if len(tries) < 3:
            raise ConnectionError("busy")
        return 1

    assert values(await score([shaky], ROLLOUT))["shaky"] == 1
    tries.clear()
    shaky.retries = 1
    with pytest.raises(RewardError, match="'shaky': ConnectionError: busy"):
        await score([shaky], ROLLOUT)
    assert len(tries) == 2


async def test_all_that_went_wrong_is_said():
    broken = [nexrl.reward(name=name)(lambda answer: 1 / 0) for name in ("a", "b")]
    with pytest.raises(RewardError, match=r"'a': ZeroDivisionError.*; reward 'b': ZeroDivisionError"):
        await score(broken, ROLLOUT)


async def test_a_group_function_sees_all_and_its_rewards_count():
    @nexrl.reward(group=True, weight=0.5)
    def shortest(task, answers, rollouts):
        assert task == {"answer": "4"}
        assert [rollout.answer for rollout in rollouts] == answers
        return [len(answer) == min(map(len, answers)) for answer in answers]

    [[long], [short]] = await shortest.judge(
        [Rollout(task={"answer": "4"}, answer="four"), Rollout(task={"answer": "4"}, answer="4")]
    )
    assert (long.value, short.value) == (0.0, 1.0)
    assert values(await score([shortest], ROLLOUT)) == {"shortest": 1, "total": 0.5}


def gave(function, weight=1.0, weights=None, **rewards):
    items = [nexrl.Reward(name=name, value=value) for name, value in rewards.items()]
    return weighed(function, weight, items, weights or {})


def test_the_recipe_weighs_by_the_rewards_name_or_the_functions_and_else_as_marked():
    weights = {"style": 0.1, "length": 3.0}
    judged = [*gave("tests", 2.0, weights, passed=0.5, style=1.0), *gave("length", 1.0, weights, length=-1.0)]
    assert total(judged, weights, {})[-1] == nexrl.Reward(name="total", value=2.0 * 0.5 + 0.1 - 3.0)


def test_the_recipe_may_count_what_others_gave():
    judged, weights = gave("correct", correct=1.0), {"thumbs": 2.0}
    assert missing_names(judged, weights) == ["thumbs"]
    assert values(total(judged, weights, {"thumbs": 1.0, "unnamed": 9.0})) == {"correct": 1, "total": 3}
    with pytest.raises(RewardError, match="'thumbs': nobody gave it; correct rewards"):
        total(judged, weights, {})
    assert values(total(judged, weights, {}, "zero"))["total"] == 1


def test_a_function_that_was_weighed_and_gave_only_rewards_of_calls_is_refused():
    judged = weighed("tool", 1.0, [nexrl.Reward(name="tool", value=1.0, call="c1")], {"tool": 2.0})
    for missing in ("fail", "zero"):
        with pytest.raises(RewardError, match="'tool' is one of calls"):
            total(judged, {"tool": 2.0}, {}, missing)


def test_a_name_stands_for_one_reward():
    with pytest.raises(RewardError, match="'a' was given 2 times: two functions use the name"):
        total([*gave("f", a=1.0), *gave("g", a=2.0)], {}, {})
    with pytest.raises(RewardError, match="'total': the name is taken"):
        total(gave("f", total=1.0), {}, {})


@given(st.dictionaries(st.sampled_from("abcdef"), st.tuples(st.integers(-5, 5), st.integers(-5, 5))))
def test_the_total_does_not_depend_on_how_functions_share_the_rewards(rewards):
    apart = [item for name, (value, weight) in rewards.items() for item in gave(name, weight, **{name: value})]
    weights = {name: weight for name, (_, weight) in rewards.items()}
    together = gave("f", 1.0, weights, **{name: value for name, (value, _) in rewards.items()})
    expected = sum(value * weight for value, weight in rewards.values())
    assert total(apart, {}, {})[-1].value == total(together, weights, {})[-1].value == expected


@pytest.mark.parametrize("run_in", ["thread", "process"])
async def test_a_function_that_raises_is_told_with_the_line_of_the_reward_file(tmp_path, run_in):
    (tmp_path / "helping.py").write_text("def number(text):\n    return float(text)\n")
    (tmp_path / "reward.py").write_text(
        "import nexrl\nfrom helping import number\n\n"
        f"@nexrl.reward(run_in={run_in!r})\ndef right(answer):\n    return number(answer)\n"
    )
    answered = structs.replace(ROLLOUT, answer="four")
    with pytest.raises(RewardError, match=r"ValueError: .*'four' \(helping.py:2: return float\(text\)\)"):
        await score(load_rewards(tmp_path / "reward.py"), answered)
