"""The torch backend against plain transformers and worked arithmetic, on a tiny Llama in float32."""

import msgspec
import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from nexrl.records import Float32s, Int32s
from nexrl_trainer.algorithms.clip import Clip
from nexrl_trainer.policy.batches import Datum
from nexrl_trainer.policy.service import Optimizer
from nexrl_trainer.policy.torch_backend import TorchBackend
from nexrl_trainer.recipe.tree import Train

CLIP = Clip(low=0.2, high=0.2)
OPTIMIZER = Optimizer(learning_rate=1e-3, betas=(0.9, 0.999), weight_decay=0.0, grad_clip=1.0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    torch.manual_seed(7)
    config = LlamaConfig(
        vocab_size=97,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=128,
        initializer_range=0.3,
    )
    path = tmp_path_factory.mktemp("model")
    LlamaForCausalLM(config).save_pretrained(path)
    return path


def backend(folder, **settings):
    return TorchBackend(folder, Train(device="cpu", **settings))


def datum(seed, length, *, temperature=1.0, advantage=1.0, logprobs=None):
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(0, 97, (length,), generator=generator).tolist()
    mask = [0, 0, *torch.randint(0, 2, (length - 3,), generator=generator).tolist(), 1]
    return Datum(
        ids=Int32s(ids),
        loss_mask=Int32s(mask),
        logprobs=Float32s(logprobs or [0.0] * length),
        temperatures=Float32s([temperature if flag else 1.0 for flag in mask]),
        weight_versions=Int32s([0 if flag else -1 for flag in mask]),
        advantages=Float32s([advantage if flag else 0.0 for flag in mask]),
        session=f"s{seed}",
    )


def on_policy(trainer, items):
    """Give each datum the logprobs the current weights give it."""
    pairs = zip(items, trainer.forward(items), strict=True)
    return [msgspec.structs.replace(item, logprobs=values) for item, values in pairs]


def gradients(trainer):
    return [parameter.grad.clone() for parameter in trainer.model.parameters()]


def test_logprobs_are_those_of_the_temperature_scaled_distribution(folder):
    item = datum(1, 20, temperature=0.7)
    [values] = backend(folder).forward([item])
    plain = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    with torch.no_grad():
        logits = plain(torch.tensor([list(item.ids)])).logits[0]
    expected = torch.log_softmax(logits / 0.7, -1)[:-1].gather(1, torch.tensor(item.ids[1:])[:, None])[:, 0]
    mask = torch.tensor(item.loss_mask[1:])
    assert torch.tensor(values[1:]) == pytest.approx(expected * mask, abs=1e-5)


def test_on_policy_the_first_ratio_is_one_and_nothing_is_clipped(folder):
    trainer = backend(folder)
    items = on_policy(trainer, [datum(seed, 12) for seed in range(3)])
    sums = trainer.forward_backward(items, CLIP, 10)
    assert sums.ratio / sums.tokens == pytest.approx(1.0, abs=1e-5)
    assert sums.clipped == 0
    assert sums.gap_max < 1e-5
    assert sums.loss == pytest.approx(-sums.tokens / 10, abs=1e-5)


def test_packed_sequences_give_the_loss_and_gradient_of_each_alone(folder):
    items = on_policy(backend(folder), [datum(seed, 8 + 5 * seed, advantage=seed - 1.5) for seed in range(4)])
    packed, alone = backend(folder), backend(folder, micro_batch_tokens=1)
    together, apart = packed.forward_backward(items, CLIP, 50), alone.forward_backward(items, CLIP, 50)
    assert msgspec.structs.astuple(together) == pytest.approx(msgspec.structs.astuple(apart), abs=1e-4)
    for one, other in zip(gradients(packed), gradients(alone), strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)


def test_the_loss_is_the_mean_over_all_trained_tokens_however_they_are_split(folder):
    items = on_policy(backend(folder), [datum(seed, 10) for seed in range(4)])
    tokens = sum(item.trained_tokens for item in items)
    whole, parts = backend(folder), backend(folder)
    whole.forward_backward(items, CLIP, tokens)
    for item in items:
        parts.forward_backward([item], CLIP, tokens)
    for one, other in zip(gradients(whole), gradients(parts), strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)


def test_untrained_tokens_have_no_influence_on_the_gradient(folder):
    item = on_policy(backend(folder), [datum(3, 12)])[0]
    wild = [value if flag else 1e6 for value, flag in zip(item.advantages, item.loss_mask, strict=True)]
    calm, disturbed = backend(folder), backend(folder)
    calm.forward_backward([item], CLIP, 5)
    disturbed.forward_backward([msgspec.structs.replace(item, advantages=Float32s(wild))], CLIP, 5)
    for one, other in zip(gradients(calm), gradients(disturbed), strict=True):
        assert torch.equal(one, other)


def test_a_saved_and_loaded_run_continues_bit_for_bit(folder, tmp_path):
    items = [datum(seed, 12) for seed in range(3)]
    steady, resumed = backend(folder), backend(folder)
    steady.forward_backward(items, CLIP, 9)
    steady.optim_step(OPTIMIZER)
    steady.save(tmp_path)
    resumed.load(tmp_path)
    for trainer in (steady, resumed):
        trainer.forward_backward(items, CLIP, 9)
        trainer.optim_step(OPTIMIZER)
    for one, other in zip(steady.model.parameters(), resumed.model.parameters(), strict=True):
        assert torch.equal(one, other)


def test_published_weights_are_the_policys_in_hugging_face_layout(folder, tmp_path):
    trainer = backend(folder)
    trainer.forward_backward([datum(1, 12)], CLIP, 5)
    trainer.optim_step(OPTIMIZER)
    trainer.publish_weights(tmp_path)
    read = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32).state_dict()
    for name, value in trainer.model.state_dict().items():
        assert torch.equal(read[name], value)


def test_a_gradient_that_is_no_number_leaves_the_weights_alone(folder):
    trainer = backend(folder)
    before = [parameter.clone() for parameter in trainer.model.parameters()]
    trainer.forward_backward([datum(1, 12, advantage=float("nan"))], CLIP, 5)
    with pytest.raises(FloatingPointError, match="nan"):
        trainer.optim_step(OPTIMIZER)
    assert all(torch.equal(one, other) for one, other in zip(before, trainer.model.parameters(), strict=True))
