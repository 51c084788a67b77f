import time

import pytest

import nexrl
from nexrl.errors import RewardError
from nexrl.rewards import Rollout, load_rewards, score

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


@pytest.mark.parametrize("returned", ["yes", None, float("nan"), {"a": "b"}, {3: 1.0}, {"total": 1.0}])
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


@pytest.mark.parametrize("asynchronous", [False, True])
async def test_a_reward_that_hangs_is_given_up(asynchronous):
    def hang(answer):
        time.sleep(0.4)

    async def hang_politely(answer):
        import asyncio

        await asyncio.sleep(30)

    function = nexrl.reward(name="slow", timeout_s=0.05)(hang_politely if asynchronous else hang)
    with pytest.raises(RewardError, match=r"'slow': no answer within 0\.05 s"):
        await score([function], ROLLOUT)


def test_a_parameter_nobody_can_give_is_refused_when_the_function_is_marked():
    with pytest.raises(RewardError, match="asks for 'reply': it can have task, answer"):

        @nexrl.reward
        def wrong(reply):
            return 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "no such file"),
        ("def f(answer): return 1", "no function is marked"),
        ("import nothing_of_that_name", "does not import: ModuleNotFoundError"),
        ("def f(:", "does not import: SyntaxError"),
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
