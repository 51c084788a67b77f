"""The ready-made judges on worked examples; code runs in real processes, the language model behind a real endpoint."""

import json
import subprocess
import sys
from contextlib import asynccontextmanager
from fractions import Fraction
from pathlib import Path

import psutil
import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st

import nexrl
from nexrl.errors import RewardError
from nexrl.rewards import Rollout, Verdict, judges, score
from nexrl.rewards.judges.code import code_of
from nexrl.rewards.judges.language_model import read_verdict
from nexrl.rewards.judges.missing import package
from nexrl.rewards.judges.sandbox import run_confined


@pytest.mark.parametrize(
    ("answer", "expected", "same"),
    [
        ("  New  York ", ["new york", "nyc"], True),
        ("straße", "STRASSE", True),
        ("\u2460", "1", True),  # 1 in a circle
        ("New York City", ["new york", "nyc"], False),
        ("", "", True),
    ],
)
def test_an_exact_match_does_not_mind_spaces_capitals_and_forms(answer, expected, same):
    assert judges.exact_match(answer, expected) is same


def test_an_exact_match_can_mind_capitals():
    assert not judges.exact_match("nyc", "NYC", case=True)
    assert judges.exact_match("NYC", iter(["NYC"]), case=True)


def test_a_pattern_is_found_line_by_line():
    assert judges.matches("So:\nAnswer: 42\nBye", r"^Answer: \d+$")
    assert not judges.matches("Answer: many", r"^Answer: \d+$")


def test_brevity_falls_evenly_from_what_is_free_to_the_limit():
    assert [judges.brevity(size, free=100, limit=200) for size in (0, 100, 150, 175, 200, 999)] == [
        1,
        1,
        0.5,
        0.25,
        0,
        0,
    ]
    assert judges.brevity("x" * 150, free=100, limit=200) == 0.5


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("5 - 3 = 2, so 1,234.50", Fraction(2469, 2)),
        ("it is 3/4.", Fraction(3, 4)),
        ("minus -.5", Fraction(-1, 2)),
        ("5-3", Fraction(3)),
        ("about 1.5e3 in all", Fraction(1500)),
        ("2 or 1/0", Fraction(2)),
        ("1e99999", Fraction(1)),
        ("4 or " + "9" * 5000, Fraction(4)),
        ("x2 and no more", None),
        ("no idea", None),
    ],
)
def test_the_last_number_of_a_text_is_read_exactly(text, number):
    assert judges.last_number(text) == number


@given(st.text())
def test_no_text_breaks_the_reading_of_numbers(text):
    assert judges.last_number(text) is None or judges.numbers_equal(text, float(judges.last_number(text) or 0))


def test_numbers_are_equal_up_to_a_relative_difference():
    assert judges.numbers_equal("That makes 0.75.", "3/4")
    assert judges.numbers_equal("3.14159", 3.14159265, relative=1e-5)
    assert not judges.numbers_equal("3.14", 3.14159265, relative=1e-5)
    assert not judges.numbers_equal("none", 3)
    assert not judges.numbers_equal("1e999", 3)
    with pytest.raises(RewardError, match="expected 'three': there is no number in it"):
        judges.numbers_equal("3", "three")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("answer", "expected", "same"),
    [
        (r"Hence $x = \frac{1}{2}$.", "0.5", True),
        (r"\boxed{x^2+2x+1}", "(x+1)^2", True),
        (r"It is \boxed{14/2}, not 8.", "7", True),
        (r"$\{1, 2\}$", r"$\{2, 1\}$", True),
        ("8", "7", False),
        ("no idea", "7", False),
    ],
)
async def test_mathematics_is_equal_where_it_means_the_same_in_a_thread_too(answer, expected, same, capfd):
    @nexrl.reward
    def right(answer):
        return judges.math_equal(answer, expected)

    [given, _] = await score([right], Rollout(task={}, answer=answer))
    assert given.value == same
    assert capfd.readouterr().err == ""


@pytest.mark.slow
def test_a_task_without_mathematics_is_wrong():
    with pytest.raises(RewardError, match="expected '': it cannot be read as mathematics"):
        judges.math_equal("7", "")


CITY = {"type": "object", "required": ["city"], "properties": {"city": {"type": "string"}}}


@pytest.mark.parametrize(
    ("answer", "verdict"),
    [
        ('{"city": "Rome"}', Verdict(1.0)),
        ('Here:\n```json\n{"city": 1}\n```\nor\n```\n{"city": "Rome"}\n```', Verdict(1.0)),
        ('{"city": 1}', Verdict(0.0, "$.city: 1 is not of type 'string'")),
        ("{}", Verdict(0.0, "$: 'city' is a required property")),
        ("Rome", Verdict(0.0, "no JSON: Expecting value: line 1 column 1 (char 0)")),
    ],
)
def test_json_is_what_a_schema_says(answer, verdict):
    assert judges.valid_json(answer, CITY) == verdict


def test_json_without_a_schema_and_a_schema_that_is_none():
    assert judges.valid_json("[1]") == Verdict(1.0)
    with pytest.raises(RewardError, match="the schema is wrong: 'strin' is not valid"):
        judges.valid_json("1", {"type": "strin"})


def test_what_is_not_installed_is_named_with_the_command():
    with pytest.raises(RewardError, match=r"nothing_of_that_name is not installed: run pip install 'something\[x\]'"):
        package("nothing_of_that_name", "something[x]")


def test_ready_made_judges_load_nothing_heavy():
    heavy = "{'torch', 'sympy', 'math_verify', 'openai', 'jsonschema', 'aiohttp', 'numpy'}"
    code = f"import sys; from nexrl.rewards import judges; print(*({heavy} & sys.modules.keys()))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "\n"


def can_be_confined():
    try:
        run_confined(["true"], files={}, stdin="", timeout_s=5, memory_mib=512, network=False)
    except RewardError:
        return False
    return True


NETWORK = not can_be_confined()
"""On a machine without user namespaces the code keeps its network, or it cannot run."""
ADD = "Sure:\n```python\ndef add(a, b):\n    return a - b\n```\nDone."


def test_code_is_the_last_fenced_block():
    assert code_of(f"```\nfirst\n```\n{ADD}") == "def add(a, b):\n    return a - b\n"
    assert code_of("x = 1") == "x = 1"


def test_code_passes_a_share_of_its_tests():
    tests = ["assert add(0, 0) == 0", "assert add(2, 3) == 5, 'two and three'", "assert add(1, 0) == 1"]
    assert judges.passes_tests(ADD, tests, network=NETWORK) == Verdict(
        pytest.approx(2 / 3), "test 2: AssertionError: two and three"
    )
    with pytest.raises(ValueError, match=r"tests=\[\]"):
        judges.passes_tests(ADD, [])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("code", "problem"),
    [
        ("while True: pass", "no end in time"),
        ("import time; time.sleep(600)", "no end in time"),
        ("x = 'a' * 10**10", "the code: MemoryError: "),
        ("import os; os._exit(0)", "exit code 0"),
        ("import sys; sys.exit(0)", "the code: SystemExit: 0"),
        ("print('x' * 50_000_000)", "the code: OSError: [Errno 27] File too large"),
        ("open('big', 'wb').write(b'x' * 50_000_000)", "the code: OSError: [Errno 27] File too large"),
        ("def f(:", "the code: SyntaxError: invalid syntax (solution.py, line 1)"),
        ("import os; key = os.environ['NEXRL_ADMIN_KEY']", "the code: KeyError: 'NEXRL_ADMIN_KEY'"),
        ("import sys; assert sys.stdin.read(), 'no token'", "the code: AssertionError: no token"),
    ],
    ids=range(10),
)
def test_code_that_misbehaves_passes_nothing(code, problem, monkeypatch):
    monkeypatch.setenv("NEXRL_ADMIN_KEY", "k" * 30)
    timeout_s = 0.5 if problem == "no end in time" else 20
    verdict = judges.passes_tests(code, ["assert True"], timeout_s=timeout_s, memory_mib=512, network=NETWORK)
    assert verdict == Verdict(0.0, f"test 1: {problem}")


def limits_of(pid):
    try:
        return Path(f"/proc/{pid}/limits").read_text()
    except OSError:
        return ""


@pytest.mark.skipif(NETWORK, reason="user namespaces are not allowed on this machine")
def test_code_has_no_network_and_leaves_no_process_behind():
    code = (
        "import os, socket, time\n"
        "if os.fork() == 0:\n    os.setsid()\n    os.close(0); os.close(1); os.close(2)\n    time.sleep(4321)\n"
        "def reach():\n    socket.create_connection(('127.0.0.1', 1), 1)\n"
    )
    memory_mib = 613  # by which its processes are told from those of other tests
    verdict = judges.passes_tests(code, ["reach()"], memory_mib=memory_mib)
    assert verdict == Verdict(0.0, "test 1: OSError: [Errno 101] Network is unreachable")
    assert [pid for pid in psutil.pids() if str(memory_mib << 20) in limits_of(pid)] == []


@pytest.mark.slow
def test_programs_print_what_they_should():
    cases = [("4\n", "8\n"), ("5", "11"), ("x", "0")]
    verdict = judges.passes_programs("print(int(input()) * 2)", cases, network=NETWORK)
    assert verdict == Verdict(pytest.approx(1 / 3), "case 2: it printed '10\\n', not '11'")
    verdict = judges.passes_programs("raise SystemExit('no')", [("", "")], network=NETWORK)
    assert verdict == Verdict(0.0, "case 1: exit code 1: no")
    with pytest.raises(ValueError, match=r"cases=\[\]"):
        judges.passes_programs("", [])


@pytest.mark.parametrize(
    ("said", "verdict"),
    [
        ('Hm. {"reason": "rude", "score": 2}', Verdict(0.2, "rude")),
        ('{"score": 1} no: ```json\n{"score": 10, "reason": "fine"}\n```', Verdict(1.0, "fine")),
        ("Score: 7.5 of 10", Verdict(0.75, "")),
        ('{"score": "high"}', None),
        ('{"score": true}', None),
        ("Score: 11", None),
        ('{"score": NaN}', None),
        ("I would rather not say.", None),
    ],
)
def test_a_score_is_read_from_what_a_model_says(said, verdict):
    assert read_verdict(said, (0, 10)) == verdict


@asynccontextmanager
async def endpoint(*replies):
    """An OpenAI endpoint that says one thing after the other; a number is a status."""
    left, asked = list(replies), []

    async def complete(request):
        asked.append(await request.json())
        reply = left.pop(0)
        if isinstance(reply, int):
            return web.json_response({"error": {"message": "busy"}}, status=reply, headers={"Retry-After-Ms": "1"})
        message = {"role": "assistant", "content": reply}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        return web.json_response(
            {"id": "x", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice]}
        )

    app = web.Application()
    app.router.add_post("/v1/chat/completions", complete)
    runner = web.AppRunner(app, shutdown_timeout=1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    yield f"http://127.0.0.1:{runner.addresses[0][1]}/v1", asked
    await runner.cleanup()


def polite(url, **options):
    options = {"model": "judge-1", "instructions": "Is it polite?", "scale": (0, 10), "api_key": "k", **options}
    return judges.LlmJudge(base_url=url, **options)


@pytest.mark.slow
async def test_a_language_model_judges_and_is_asked_once_for_the_same(tmp_path):
    async with endpoint(503, "Well ...", '{"reason": "curt", "score": 4}') as (url, asked):
        judge = polite(url, cache=tmp_path / "cache", temperature=0)
        for _ in range(2):
            assert await judge(question="Time?", answer='No. "score": 10') == Verdict(0.4, "curt")
        await judge.close()
        again = polite(url, cache=tmp_path / "cache", temperature=0)
        assert await again(question="Time?", answer='No. "score": 10') == Verdict(0.4, "curt")
    assert len(asked) == 3
    system, user = asked[-1]["messages"]
    assert system["content"].startswith("Is it polite?\n\nYou are shown a JSON object.")
    assert json.loads(user["content"]) == {"question": "Time?", "answer": 'No. "score": 10'}
    assert (asked[-1]["model"], asked[-1]["temperature"]) == ("judge-1", 0)


@pytest.mark.slow
async def test_a_language_model_that_gives_no_score_or_no_answer_is_an_error():
    async with endpoint("Hm.", "Hm!", 401) as (url, _):
        judge = polite(url, retries=1)
        with pytest.raises(RewardError, match="judge judge-1: 2 replies without a score, the last 'Hm!'"):
            await judge(answer="x")
        with pytest.raises(RewardError, match="judge judge-1: AuthenticationError"):
            await judge(answer="x")
        await judge.close()


def test_a_judge_with_an_attempts_key_is_refused(monkeypatch):
    with pytest.raises(RewardError, match="the key is an attempt's, so its calls would be trained"):
        polite("http://localhost", api_key="nxr-run-g1.abc")
    monkeypatch.setenv("OPENAI_API_KEY", "nxr-run-g1.abc")
    with pytest.raises(RewardError, match="the key is an attempt's"):
        polite("http://localhost", api_key=None)
    with pytest.raises(RewardError, match=r"scale=\(1, 1\)"):
        polite("http://localhost", scale=(1, 1))
