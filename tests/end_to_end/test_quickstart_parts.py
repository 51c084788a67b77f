"""The quick start's parts, each alone: its rows, its agent, its reward, its model. The whole run has its own test."""

import asyncio
import importlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from nexrl.rewards import Rollout, load_rewards

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]
RECIPE = ROOT / "recipes" / "quickstart"
AGENT = ROOT / "examples" / "agents" / "openai_calculator" / "agent.py"


def makes_a_model(test):
    """Mark a test as slow, and keep such tests in one process: they share a model."""
    return pytest.mark.slow(pytest.mark.xdist_group("quickstart model")(test))


@pytest.fixture(scope="module")
def recipe_modules():
    """Import the recipe's files as its scripts do: from their own folder."""
    names = ("problems", "dialogues", "tokens", "make_model")
    sys.path.insert(0, str(RECIPE))
    try:
        yield {name: importlib.import_module(name) for name in names}
    finally:
        sys.path.remove(str(RECIPE))
        for name in names:
            sys.modules.pop(name, None)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    out = tmp_path_factory.mktemp("model") / "tiny"
    done = run_make_model(out, "--steps", "2")
    assert done.returncode == 0, done.stderr
    return out


def run_make_model(out: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, RECIPE / "make_model.py", "--out", out, *options]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "TERM": "dumb", "NO_COLOR": "1"}
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120, check=False)


def rows(split: str) -> list[dict[str, str]]:
    return [json.loads(line) for line in (RECIPE / f"{split}.jsonl").read_text().splitlines()]


def value_of(question: str) -> int:
    """Compute a question's value by other means than the recipe's."""
    expression = question.removeprefix("What is ").removesuffix("?")
    assert re.fullmatch(r"[\d ()*+-]+", expression)
    return eval(expression)


@pytest.mark.parametrize(("split", "count"), [("train", 256), ("heldout", 64)])
def test_every_rows_answer_is_right_and_its_id_its_own(split, count):
    found = rows(split)
    assert [row["answer"] for row in found] == [str(value_of(row["question"])) for row in found]
    assert len({row["id"] for row in found}) == len(found) == count


def test_no_question_is_asked_twice_in_or_across_the_splits():
    questions = [row["question"] for row in rows("train") + rows("heldout")]
    assert len(set(questions)) == len(questions)


def test_the_rows_checked_in_are_those_the_recipe_writes(recipe_modules):
    assert recipe_modules["problems"].rows() == (rows("train"), rows("heldout"))


@pytest.mark.parametrize(
    ("answer", "value"),
    [
        ("The answer is 95.", 1.0),
        ("95", 1.0),
        ("The answer is 94.", 0.0),
        ("The answer is 9.5.", 0.0),
        ("The answer is -95.", 0.0),
        ("95 or 96", 0.0),
        ("", 0.0),
    ],
)
async def test_the_reward_is_one_for_the_right_number_alone(answer, value):
    [function] = load_rewards(RECIPE / "reward.py")
    [[given]] = await function.judge([Rollout(task={"answer": "95"}, answer=answer)])
    assert (given.name, given.value) == ("correct", value)


class ScriptedModel:
    """An OpenAI-compatible endpoint that gives the next reply of its script and keeps what it was sent."""

    def __init__(self, *replies: dict[str, Any]) -> None:
        self.replies = list(replies)
        self.requests: list[dict[str, Any]] = []

    async def complete(self, request: web.Request) -> web.Response:
        assert request.headers["authorization"] == "Bearer nxr-key"
        self.requests.append(await request.json())
        message = {"role": "assistant", "content": None} | self.replies[len(self.requests) - 1]
        reason = "tool_calls" if "tool_calls" in message else "stop"
        choice = {"index": 0, "message": message, "finish_reason": reason}
        return web.json_response(
            {"id": "1", "object": "chat.completion", "created": 0, "model": "default", "choices": [choice]}
        )

    async def ask(self, question: str, *, by_stdin: bool = False) -> str:
        """Run the agent against this endpoint and return what it printed."""
        app = web.Application()
        app.router.add_post("/v1/chat/completions", self.complete)
        runner = web.AppRunner(app)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        environment = {name: value for name, value in os.environ.items() if not name.startswith("OPENAI_")}
        environment |= {"OPENAI_BASE_URL": f"http://127.0.0.1:{runner.addresses[0][1]}/v1", "OPENAI_API_KEY": "nxr-key"}
        try:
            return await run_agent(environment, question, by_stdin=by_stdin)
        finally:
            await runner.cleanup()


async def run_agent(environment: dict[str, str], question: str, *, by_stdin: bool) -> str:
    arguments = [] if by_stdin else [question]
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(
        sys.executable, AGENT, *arguments, env=environment, stdin=pipe, stdout=pipe, stderr=pipe
    )
    out, err = await asyncio.wait_for(process.communicate(question.encode() if by_stdin else b""), 30)
    assert process.returncode == 0, err.decode()
    return out.decode().strip()


def tool_call(arguments: str, name: str = "calculator") -> dict[str, Any]:
    function = {"name": name, "arguments": arguments}
    return {"tool_calls": [{"id": "call_1", "type": "function", "function": function}]}


SUM = tool_call('{"a": 37, "operator": "+", "b": 58}')
SAID = {"content": "The answer is 95."}


async def test_the_agent_calls_its_tool_and_prints_the_answer(recipe_modules):
    model = ScriptedModel(SUM, SAID)
    assert await model.ask("What is 37 + 58?") == "The answer is 95."
    first, second = model.requests
    assert [message["content"] for message in first["messages"]] == [
        recipe_modules["dialogues"].SYSTEM,
        "What is 37 + 58?",
    ]
    assert first["tools"] == second["tools"] == recipe_modules["dialogues"].TOOLS
    assert "temperature" not in first
    assert second["messages"][:2] == first["messages"]
    assert second["messages"][2]["tool_calls"] == SUM["tool_calls"]
    assert second["messages"][3] == {"role": "tool", "tool_call_id": "call_1", "content": "95"}


async def test_the_agent_takes_its_question_from_standard_input_too():
    model = ScriptedModel(SAID)
    assert await model.ask("What is 37 + 58?", by_stdin=True) == "The answer is 95."
    assert model.requests[0]["messages"][1]["content"] == "What is 37 + 58?"


async def test_a_tool_call_that_cannot_run_is_answered_with_the_error_and_the_turns_are_bounded():
    wrong = [
        tool_call("{}", name="browser"),
        tool_call("not json"),
        tool_call('{"a": 1, "operator": "/", "b": 2}'),
        tool_call("[]"),
    ]
    model = ScriptedModel(*wrong)
    assert await model.ask("What is 37 + 58?") == ""
    results = [message["content"] for message in model.requests[-1]["messages"] if message["role"] == "tool"]
    assert len(results) == 3
    assert all(result.startswith("error: ") for result in results)


def test_the_agent_imports_no_nexrl():
    program = f"import runpy, sys; runpy.run_path({str(AGENT)!r}); print('nexrl' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


@makes_a_model
def test_the_model_loads_by_its_directory_alone_and_its_template_renders_tools(made, recipe_modules):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(made)
    model = AutoModelForCausalLM.from_pretrained(made)
    text = tokenizer.apply_chat_template(
        [{"role": "user", "content": "hi"}, SUM | {"role": "assistant"}, {"role": "tool", "content": "95"}],
        tools=recipe_modules["dialogues"].TOOLS,
        tokenize=False,
        add_generation_prompt=True,
    )
    assert '<|im_start|>system\n\n\n<tools>\n{"type": "function", "function": {"name": "calculator"' in text
    assert text.endswith(
        "<|im_start|>user\nhi<|im_end|>\n"
        '<|im_start|>assistant\n<tool_call>\n{"name": "calculator", "arguments": {"a": 37, "operator": "+", "b": 58}}\n'
        "</tool_call><|im_end|>\n<|im_start|>user\n<tool_response>\n95\n</tool_response><|im_end|>\n"
        "<|im_start|>assistant\n"
    )
    assert (
        model.generation_config.eos_token_id == tokenizer.convert_tokens_to_ids("<|im_end|>") == tokenizer.eos_token_id
    )
    assert 1e6 < model.num_parameters() < 5e6
    assert tokenizer.decode(tokenizer("Grüße, 你好 42", add_special_tokens=False).input_ids) == "Grüße, 你好 42"


@makes_a_model
def test_a_grown_conversation_has_the_tokens_of_a_rendered_one(made, recipe_modules):
    import random

    from transformers import AutoTokenizer

    tokenizer, tokens = AutoTokenizer.from_pretrained(made), recipe_modules["tokens"]
    rng = random.Random(3)
    for _ in range(50):
        messages = recipe_modules["dialogues"].demonstrate(recipe_modules["problems"].draw(rng), rng)
        example = tokens.encode(tokenizer, messages)
        whole = tokenizer(tokens.render(tokenizer, messages).removesuffix("\n"), add_special_tokens=False).input_ids
        assert example.ids == whole
        assert len(whole) < 80
        said = [piece for piece, by_assistant in tokens.pieces(tokens.render(tokenizer, messages)) if by_assistant]
        learned = [token for token, is_learned in zip(example.ids, example.learned, strict=True) if is_learned]
        assert tokenizer.decode(learned) == "".join(said)
        assert len(said) == sum(message["role"] == "assistant" for message in messages)


@makes_a_model
def test_the_same_seed_makes_the_same_model(made, tmp_path):
    run_make_model(tmp_path / "again", "--steps", "2")
    for name in ("model.safetensors", "tokenizer.json"):
        assert (tmp_path / "again" / name).read_bytes() == (made / name).read_bytes()


@makes_a_model
def test_a_model_that_stands_is_left_alone_and_another_is_not_overwritten(made):
    before = {path.name: path.stat().st_mtime_ns for path in made.iterdir()}
    assert "already made" in run_make_model(made, "--steps", "2").stderr
    refused = run_make_model(made, "--steps", "3")
    assert refused.returncode == 2
    assert "delete it or choose another directory" in " ".join(refused.stderr.replace("│", " ").split())
    assert {path.name: path.stat().st_mtime_ns for path in made.iterdir()} == before
    assert [path.name for path in made.parent.iterdir()] == [made.name]


def test_the_demonstrators_dialogues_ask_no_held_out_question(recipe_modules):
    heldout = {row["question"] for row in rows("heldout")}
    asked = [problem.question for problem in recipe_modules["make_model"].unseen_problems(0, 30_000)]
    assert len(asked) == 30_000
    assert not heldout.intersection(asked)
