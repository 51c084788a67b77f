"""New weights: all of them between two steps, or none; and every token says which weights drew it."""

import asyncio

import pytest
import safetensors.torch
import torch
from embedded_world import logprobs_of, reference, save_llama, serve, true_logprobs, until


def copy_of(directory, target, change):
    """Save the weights of `directory` to `target`, changed."""
    tensors = safetensors.torch.load_file(directory / "model.safetensors")
    change(tensors)
    target.mkdir()
    safetensors.torch.save_file(tensors, target / "model.safetensors")
    return target


def assert_true(weights, prompt, reply, temperature=1.0):
    """Compare each token's logprob with a whole forward pass of the weights that it says drew it."""
    spans = reply["meta_info"]["weight_versions"]
    assert [span["start"] for span in spans] == [0] + [span["end"] for span in spans[:-1]]
    assert spans[-1]["end"] == len(reply["output_ids"])
    assert reply["meta_info"]["weight_version"] == spans[-1]["version"]
    for span in spans:
        part = slice(span["start"], span["end"])
        expected = true_logprobs(weights[int(span["version"])], prompt, reply["output_ids"], temperature)[part]
        assert logprobs_of(reply)[part] == pytest.approx(expected, abs=1e-5)
    return [int(span["version"]) for span in spans]


@pytest.mark.parametrize("step_tokens", [1024, 50])
async def test_tokens_before_and_after_an_update_are_those_of_their_weights(weights, step_tokens):
    prompts = [list(range(3, 3 + length)) for length in (5, 60, 120)]

    async def one(client, prompt, temperature):
        reply = await client.generate(prompt, max_new_tokens=600, ignore_eos=True, temperature=temperature)
        return assert_true(weights, prompt, reply, temperature)

    async with serve(weights[0], step_tokens=step_tokens) as client:
        running = [asyncio.create_task(one(client, prompt, 0.8)) for prompt in prompts]
        for version in (1, 2):
            await asyncio.sleep(0.15)
            await client.update(weights[version], version)
        for versions in await asyncio.gather(*running):
            assert versions == [0, 1, 2]


async def test_what_old_weights_left_in_the_slots_is_forgotten(client, weights):
    prompt = list(range(3, 50))
    await client.generate(prompt, max_new_tokens=5)
    await client.update(weights[1], 1)
    reply = await client.generate(prompt, max_new_tokens=5)
    assert reply["meta_info"]["cached_tokens"] == 0
    assert assert_true(weights, prompt, reply) == [1]
    assert await client.info() == {"model_path": str(weights[1]), "weight_version": "1"}


async def test_a_request_that_ran_through_an_update_leaves_rows_of_the_new_weights(client, weights):
    prompt = list(range(3, 50))
    running = asyncio.create_task(client.generate(prompt, max_new_tokens=200, ignore_eos=True))
    await asyncio.sleep(0.05)
    await client.update(weights[1], 1)
    first = await running
    assert assert_true(weights, prompt, first) == [0, 1]
    longer = prompt + first["output_ids"]
    second = await client.generate(longer, max_new_tokens=5)
    assert second["meta_info"]["cached_tokens"] == len(longer) - 1
    assert assert_true(weights, longer, second) == [1]


def drop(tensors):
    del tensors["model.norm.weight"]


def add(tensors):
    tensors["model.extra"] = torch.zeros(1)


def reshape(tensors):
    tensors["model.norm.weight"] = torch.ones(31)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (drop, "missing model.norm.weight"),
        (add, "unexpected model.extra"),
        (reshape, "model.norm.weight is [31], the model's is [32]"),
    ],
)
async def test_a_checkpoint_that_does_not_fit_leaves_the_old_weights(client, weights, tmp_path, change, complaint):
    def all_other(tensors):
        for name in tensors:
            tensors[name] = tensors[name] + 1
        change(tensors)

    directory = copy_of(weights[0], tmp_path / "changed", all_other)
    answer = await client.update(directory, 1, status=400)
    assert answer["success"] is False
    assert complaint in answer["message"]
    reply = await client.generate([7, 8, 9], max_new_tokens=10)
    assert assert_true(weights, [7, 8, 9], reply) == [0]
    assert await client.info() == {"model_path": str(weights[0]), "weight_version": "0"}


async def test_an_update_that_cannot_be_read_or_has_no_version_is_refused(client, weights, tmp_path):
    assert "no *.safetensors" in (await client.update(tmp_path, 1, status=400))["message"]
    (tmp_path / "model.safetensors").write_bytes(b"cut off")
    assert "model.safetensors" in (await client.update(tmp_path, 1, status=400))["message"]
    for version in ("", "main", "-1", "1.0"):
        assert "weight_version=" in (await client.update(weights[1], version, status=400))["message"]
    assert (await client.info())["weight_version"] == "0"


async def test_a_publisher_may_overwrite_its_files_once_the_update_is_answered(client, weights, tmp_path):
    directory = copy_of(weights[1], tmp_path / "published", lambda _: None)
    await client.update(directory, 1)
    (directory / "model.safetensors").write_bytes(b"")
    assert assert_true(weights, [7, 8], await client.generate([7, 8], max_new_tokens=10)) == [1]


async def test_tied_weights_are_updated_by_any_of_their_names_and_must_agree(tmp_path):
    old, new = (save_llama(tmp_path / str(seed), seed=seed, tie_word_embeddings=True) for seed in (0, 1))
    embedding, head = "model.embed_tokens.weight", "lm_head.weight"
    assert head not in safetensors.torch.load_file(new / "model.safetensors")

    def both(tensors):
        tensors[head] = tensors[embedding].clone()

    def only_head(tensors):
        tensors[head] = tensors.pop(embedding)

    def disagreeing(tensors):
        tensors[head] = tensors[embedding] + 1

    async with serve(old) as client:
        for version, change in enumerate((both, only_head), start=1):
            await client.update(old, 0)
            await client.update(copy_of(new, tmp_path / change.__name__, change), version)
            reply = await client.generate([7, 8, 9], max_new_tokens=10)
            assert logprobs_of(reply) == pytest.approx(true_logprobs(new, [7, 8, 9], reply["output_ids"]), abs=1e-5)
        answer = await client.update(copy_of(new, tmp_path / "disagreeing", disagreeing), 3, status=400)
    assert f"{head} differs from {embedding}" in answer["message"]


async def test_weights_that_are_not_finite_fail_requests_and_poison_nothing_that_follows(weights, tmp_path):
    def spoil(tensors):
        tensors["model.layers.0.self_attn.v_proj.weight"][0, 0] = torch.nan

    spoilt = copy_of(weights[0], tmp_path / "nan", spoil)
    async with serve(weights[0], slots=2) as client:
        await client.update(spoilt, 1)
        long = [list(range(3 + start, 60)) for start in range(2)]
        answers = await asyncio.gather(*(client.generate(prompt, max_new_tokens=10, status=500) for prompt in long))
        for answer in answers:
            assert "logits of weight version 1 are not finite" in answer["error"]["message"]
        await client.update(weights[2], 2)
        prompts = [[7, 8], [9] * 40]
        replies = await asyncio.gather(*(client.generate(p, max_new_tokens=15, ignore_eos=True) for p in prompts))
        for prompt, reply in zip(prompts, replies, strict=True):
            assert assert_true(weights, prompt, reply) == [2]


async def test_updates_and_requests_may_come_all_at_once(client, weights):
    """Nothing is torn: whatever version a token names, its logprob is that version's."""
    done = asyncio.Event()

    async def publish():
        version = 0
        while not done.is_set():
            version = (version + 1) % 3
            await client.update(weights[version], version)
            await asyncio.sleep(0.03)

    publisher = asyncio.create_task(publish())
    prompts = [[5 + i] * (3 * i + 1) for i in range(12)]
    replies = await asyncio.gather(*(client.generate(prompt, max_new_tokens=80) for prompt in prompts))
    done.set()
    await publisher
    seen = [assert_true(weights, prompt, reply) for prompt, reply in zip(prompts, replies, strict=True)]
    assert max(len(versions) for versions in seen) > 1


async def test_an_update_whose_client_leaves_is_carried_through(client, weights):
    leaving = asyncio.create_task(client.update(weights[1], 1))
    await until(lambda: client.engine._updates)
    leaving.cancel()
    await until(lambda: client.engine.model_path == weights[1])
    assert await client.info() == {"model_path": str(weights[1]), "weight_version": "1"}
    reply = await client.generate([7, 8, 9], max_new_tokens=20)
    assert assert_true(weights, [7, 8, 9], reply) == [1]


def test_the_weights_in_these_tests_differ(weights):
    outputs = {tuple(reference(d)(torch.tensor([[5, 6]])).logits[0, -1].topk(5).indices.tolist()) for d in weights}
    assert len(outputs) == 3
