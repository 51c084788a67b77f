"""What /generate answers: the model's own tokens and logprobs, whatever else runs at the time."""

import asyncio
import random
import socket

import msgspec
import pytest
import torch
import typer
from embedded_world import EOS, VOCABULARY, logprobs_of, reference, save_llama, serve, true_logprobs
from tokenizers import Tokenizer
from tokenizers.models import WordLevel

from nexrl.errors import ConfigError
from nexrl_trainer.engines.embedded.__main__ import main
from nexrl_trainer.engines.embedded.model import load


def prompts(count, *, seed, low=1, high=90):
    generator = random.Random(seed)
    return [[generator.randrange(3, VOCABULARY) for _ in range(generator.randint(low, high))] for _ in range(count)]


async def test_greedy_decoding_is_that_of_transformers(client, weights):
    for prompt in prompts(4, seed=1):
        expected = reference(weights[0]).generate(torch.tensor([prompt]), max_new_tokens=40, do_sample=False)
        reply = await client.generate(prompt, max_new_tokens=40, temperature=0)
        assert reply["output_ids"] == expected[0, len(prompt) :].tolist()
        assert logprobs_of(reply) == pytest.approx(true_logprobs(weights[0], prompt, reply["output_ids"]), abs=1e-5)


@pytest.mark.parametrize(("slots", "step_tokens"), [(5, 1024), (16, 40)])
async def test_logprobs_are_those_of_a_whole_forward_pass_while_requests_join_and_leave(weights, slots, step_tokens):
    """More requests than slots; with a small step, prompts are computed in chunks between the others' tokens."""
    generator = random.Random(7)

    async def one(client, prompt):
        temperature = generator.choice([0.7, 1.0, 1.3])
        length = generator.randint(1, 60)
        await asyncio.sleep(generator.random() * 0.15)
        reply = await client.generate(prompt, max_new_tokens=length, temperature=temperature)
        expected = true_logprobs(weights[0], prompt, reply["output_ids"], temperature)
        assert logprobs_of(reply) == pytest.approx(expected, abs=1e-5)
        assert len(reply["output_ids"]) == length or reply["output_ids"][-1] == EOS

    async with serve(weights[0], slots=slots, step_tokens=step_tokens) as client:
        await asyncio.gather(*(one(client, prompt) for prompt in prompts(30, seed=2, high=200)))


async def test_a_conversation_reuses_its_slot_and_stays_exact(client, weights):
    prompt, [more, _] = prompts(1, seed=3, low=50)[0], prompts(2, seed=4, low=5)
    first = await client.generate(prompt, max_new_tokens=20, ignore_eos=True)
    longer = prompt + first["output_ids"] + more
    second = await client.generate(longer, max_new_tokens=20)
    assert first["meta_info"]["cached_tokens"] == 0
    # The last sampled token was never computed.
    assert second["meta_info"]["cached_tokens"] == len(prompt) + 19
    assert logprobs_of(second) == pytest.approx(true_logprobs(weights[0], longer, second["output_ids"]), abs=1e-5)


async def test_a_group_computes_its_prompt_once_and_stays_exact(weights):
    [prompt] = prompts(1, seed=5, low=321, high=321)  # ten steps and its last token
    async with serve(weights[0], step_tokens=32) as client:
        replies = await asyncio.gather(*(client.generate(prompt, max_new_tokens=30) for _ in range(8)))
    cached = sorted(reply["meta_info"]["cached_tokens"] for reply in replies)
    assert cached == [0] + 7 * [len(prompt) - 1]
    assert len({tuple(reply["output_ids"]) for reply in replies}) > 1
    for reply in replies:
        assert logprobs_of(reply) == pytest.approx(true_logprobs(weights[0], prompt, reply["output_ids"]), abs=1e-5)


async def test_the_cache_grows_with_the_requests_and_stays_exact(client, weights):
    [prompt] = prompts(1, seed=6, low=700, high=700)
    short, long = await asyncio.gather(
        client.generate([5, 6], max_new_tokens=80, ignore_eos=True), client.generate(prompt, max_new_tokens=60)
    )
    assert logprobs_of(short) == pytest.approx(true_logprobs(weights[0], [5, 6], short["output_ids"]), abs=1e-5)
    assert logprobs_of(long) == pytest.approx(true_logprobs(weights[0], prompt, long["output_ids"]), abs=1e-5)


async def test_logprobs_are_not_renormalised_after_top_k_top_p_and_min_p(client, weights):
    for restriction in ({"top_k": 3}, {"top_p": 0.3}, {"min_p": 0.3}):
        reply = await client.generate([7, 8, 9], max_new_tokens=30, temperature=0.8, **restriction)
        expected = true_logprobs(weights[0], [7, 8, 9], reply["output_ids"], 0.8)
        assert logprobs_of(reply) == pytest.approx(expected, abs=1e-5)


async def test_a_seed_draws_the_same_tokens_in_any_company(client):
    alone = await client.generate([7, 8, 9], max_new_tokens=30, sampling_seed=5)
    together, other, *_ = await asyncio.gather(
        client.generate([7, 8, 9], max_new_tokens=30, sampling_seed=5),
        client.generate([7, 8, 9], max_new_tokens=30, sampling_seed=6),
        *(client.generate(prompt, max_new_tokens=30) for prompt in prompts(5, seed=8)),
    )
    assert together["output_ids"] == alone["output_ids"] != other["output_ids"]


async def test_streaming_equals_not_streaming(client):
    whole = await client.generate([7, 8, 9], rid="same", max_new_tokens=30, sampling_seed=5)
    events = [event async for event in client.stream([7, 8, 9], rid="same", max_new_tokens=30, sampling_seed=5)]
    last = events[-1]
    assert last["output_ids"] == whole["output_ids"]
    assert logprobs_of(last) == pytest.approx(logprobs_of(whole), abs=1e-5)
    assert last["meta_info"]["finish_reason"] == whole["meta_info"]["finish_reason"]
    assert len(events) > 1
    for event in events[:-1]:
        assert event["meta_info"]["finish_reason"] is None
        assert event["output_ids"] == last["output_ids"][: len(event["output_ids"])]
        assert logprobs_of(event) == logprobs_of(last)[: len(event["output_ids"])]


async def test_a_token_that_stops_is_the_last_of_the_output(client, weights):
    free = await client.generate([7, 8, 9], max_new_tokens=10, temperature=0, ignore_eos=True)
    stop = free["output_ids"][4]
    reply = await client.generate([7, 8, 9], max_new_tokens=10, temperature=0, stop_token_ids=[stop])
    assert reply["output_ids"] == free["output_ids"][: free["output_ids"].index(stop) + 1]
    assert reply["meta_info"]["finish_reason"] == {"type": "stop", "matched": stop}
    assert len(logprobs_of(reply)) == len(reply["output_ids"])


async def test_the_models_own_end_token_stops_unless_ignored(client):
    biased = [await client.generate([7, 8], max_new_tokens=4000, sampling_seed=seed) for seed in range(2)]
    assert [reply["meta_info"]["finish_reason"] for reply in biased] == 2 * [{"type": "stop", "matched": EOS}]
    ignored = await client.generate(
        [7, 8], max_new_tokens=len(biased[0]["output_ids"]) + 1, sampling_seed=0, ignore_eos=True
    )
    assert ignored["output_ids"][:-1] == biased[0]["output_ids"]


async def test_before_the_least_length_the_end_token_is_not_there_to_be_drawn(client, weights):
    free = await client.generate([7, 8], max_new_tokens=4000, sampling_seed=0)
    least = len(free["output_ids"])
    reply = await client.generate([7, 8], max_new_tokens=4000, min_new_tokens=least, sampling_seed=0)
    assert EOS not in reply["output_ids"][:least]
    ends = torch.tensor(true_logprobs(weights[0], [7, 8], [EOS]))
    first, *_ = true_logprobs(weights[0], [7, 8], reply["output_ids"])
    assert logprobs_of(reply)[0] == pytest.approx(first - float(torch.log1p(-ends.exp())), abs=1e-5)
    assert logprobs_of(reply)[least:] == pytest.approx(
        true_logprobs(weights[0], [7, 8], reply["output_ids"])[least:], abs=1e-5
    )


async def test_a_completion_ends_where_the_model_has_no_more_positions(weights):
    async with serve(weights[0], max_length=32) as client:
        reply = await client.generate(list(range(3, 23)), max_new_tokens=1000, ignore_eos=True)
    assert reply["meta_info"]["finish_reason"] == {"type": "length", "length": 12}


async def test_a_stop_string_is_found_across_tokens(tmp_path):
    directory = save_llama(tmp_path, seed=0)
    tokenizer = Tokenizer(WordLevel({f"w{index}": index for index in range(VOCABULARY)}, unk_token="w0"))
    tokenizer.save(str(directory / "tokenizer.json"))
    async with serve(directory) as client:
        free = await client.generate([7, 8, 9], max_new_tokens=10, temperature=0)
        third, fourth = free["output_ids"][2:4]
        stop = f"w{third} w{fourth}"
        reply = await client.generate([7, 8, 9], max_new_tokens=10, temperature=0, stop=["absent", stop])
    assert reply["output_ids"] == free["output_ids"][:4]
    assert reply["meta_info"]["finish_reason"] == {"type": "stop", "matched": stop}


@pytest.mark.parametrize(
    ("body", "complaint"),
    [
        ({}, "input_ids"),
        ({"input_ids": []}, "input_ids is empty"),
        ({"input_ids": [VOCABULARY]}, "input_ids holds 300: the vocabulary has ids 0 to 299"),
        ({"input_ids": [4, -1]}, "input_ids holds -1"),
        ({"input_ids": ["4"]}, "`$.input_ids[0]`"),
        ({"input_ids": [4] * 4096}, "the prompt has 4096 tokens"),
        ({"input_ids": [4], "text": "hello"}, "`text`"),
        (
            {"input_ids": [4], "top_logprobs_num": 2},
            "the embedded engine has no `top_logprobs_num`; use SGLang or vLLM for it",
        ),
        (
            {"input_ids": [4], "sampling_params": {"json_schema": "{}"}},
            "the embedded engine has no `json_schema`; use SGLang or vLLM for it",
        ),
        ({"input_ids": [4], "sampling_params": {"n": 2}}, "`n` - at `$.sampling_params`"),
        ({"input_ids": [4], "sampling_params": {"temperature": -1}}, "temperature=-1.0: use 0 (greedy) or more"),
        ({"input_ids": [4], "sampling_params": {"top_p": 0}}, "top_p=0"),
        ({"input_ids": [4], "sampling_params": {"top_k": 0}}, "top_k=0"),
        ({"input_ids": [4], "sampling_params": {"min_p": 2}}, "min_p=2"),
        ({"input_ids": [4], "sampling_params": {"max_new_tokens": 0}}, "max_new_tokens=0: use 1 or more"),
        ({"input_ids": [4], "sampling_params": {"presence_penalty": 1}}, "presence_penalty=1.0: the embedded engine"),
        ({"input_ids": [4], "sampling_params": {"stop": "x"}}, "stop needs tokenizer.json"),
    ],
)
async def test_bad_input_is_answered_with_what_is_wrong(client, body, complaint):
    answer = await client.post("/generate", body, status=400)
    assert answer["error"]["type"] == "invalid_request_error"
    assert complaint in answer["error"]["message"]


async def test_a_body_that_is_no_json_and_a_route_that_is_none_are_the_clients_errors(client):
    async with client.http.post("/generate", data=b"{") as response:
        assert response.status == 400
        assert "the body is not JSON" in (await response.json())["error"]["message"]
    async with client.http.get("/nowhere") as response:
        assert response.status == 404
        assert "/nowhere" in (await response.json())["error"]["message"]


async def test_a_request_id_under_way_cannot_be_taken_twice(client):
    async for _ in client.stream([7, 8, 9], rid="one", max_new_tokens=400, ignore_eos=True):
        answer = await client.generate([7], rid="one", status=400)
        assert "'one' is under way" in answer["error"]["message"]
        break


async def test_logprobs_are_left_out_unless_asked_for(client):
    reply = await client.generate([7, 8, 9], logprobs=False, max_new_tokens=2)
    assert "output_token_logprobs" not in reply["meta_info"]


async def test_logprobs_come_as_the_float32_values_they_are(client):
    reply = await client.generate([7, 8, 9], max_new_tokens=20)
    exact = [torch.tensor(value, dtype=torch.float32).item() for value in logprobs_of(reply)]
    assert logprobs_of(reply) == exact
    assert msgspec.json.decode(msgspec.json.encode(exact)) == exact


def test_a_model_whose_attention_slides_is_refused_with_a_remedy(tmp_path):
    from transformers import MistralConfig, MistralForCausalLM

    sizes = {"vocab_size": 99, "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 8, "max_position_embeddings": 64}
    MistralForCausalLM(MistralConfig(**sizes, **heads, sliding_window=16)).save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match=r"slides over 16 tokens: use --max-length 16"):
        load(tmp_path, slots=1, max_length=None, device="cpu", dtype="float32")
    assert load(tmp_path, slots=1, max_length=16, device="cpu", dtype="float32").limits.max_length == 16


def test_a_port_in_use_ends_the_command_with_one_line(weights, capsys):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(typer.Exit) as ended:
            main(model=weights[0], port=port)
    assert ended.value.exit_code == 2
    said = capsys.readouterr().err
    assert said.startswith(f"cannot listen on 127.0.0.1:{port}: ")
    assert said.endswith("; use another --port, or 0 for a free one\n")
    assert said.count("\n") == 1
