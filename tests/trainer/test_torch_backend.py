"""The torch backend against plain transformers and worked arithmetic, on a tiny Llama in float32."""

import msgspec
import pytest
import torch
from backend_world import OPTIMIZER, datum, family, make_model
from transformers import AutoModelForCausalLM

from nexrl.errors import ConfigError
from nexrl.records import Float32s, Int32s
from nexrl_trainer.algorithms.objective import Objective
from nexrl_trainer.policy.network import packing
from nexrl_trainer.policy.torch_backend import TorchBackend
from nexrl_trainer.recipe.train import Train

OBJECTIVE = Objective(entropy=0.01)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_model(tmp_path_factory.mktemp("model"))


def backend(folder, **settings):
    return TorchBackend(folder, Train(device="cpu", **settings))


def on_policy(trainer, items):
    """Give each datum the logprobs the current weights give it."""
    pairs = zip(items, trainer.forward(items), strict=True)
    return [msgspec.structs.replace(item, logprobs=values) for item, values in pairs]


def gradients(trainer):
    return [parameter.grad.clone() for parameter in trainer.model.parameters()]


def assert_close(ours, theirs):
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)


def plain_logprobs(folder, item, temperature):
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    with torch.no_grad():
        logits = model(torch.tensor([list(item.ids)])).logits[0]
    values = torch.log_softmax(logits / temperature, -1)[:-1].gather(1, torch.tensor(item.ids[1:])[:, None])[:, 0]
    return values * torch.tensor(item.loss_mask[1:])


@pytest.mark.parametrize("tied", [False, True])
def test_logprobs_are_those_of_the_temperature_scaled_distribution(tmp_path, tied):
    folder = make_model(tmp_path, tied=tied)
    items = family()
    for item, values in zip(items, backend(folder).forward(items), strict=True):
        assert torch.tensor(values[1:]) == pytest.approx(plain_logprobs(folder, item, 0.7), abs=1e-5)


def test_on_policy_the_first_ratio_is_one_and_nothing_is_clipped(folder):
    trainer = backend(folder)
    items = on_policy(trainer, [datum(seed, 12, weight=0.1) for seed in range(3)])
    sums = trainer.forward_backward(items, Objective())
    assert sums["ratio"] / sums["tokens"] == pytest.approx(1.0, abs=1e-5)
    assert sums["clipped"] == 0
    assert sums["gap_max"] < 1e-5
    assert sums["loss"] == pytest.approx(-sums["tokens"] * 0.1, abs=1e-5)


def test_the_gradient_is_that_of_the_loss_computed_plainly_in_transformers(folder):
    [item] = on_policy(backend(folder), [datum(1, 20, temperature=0.7, advantage=2.0, weight=0.1)])
    trainer = backend(folder)
    trainer.forward_backward([item], Objective())
    plain = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    logs = torch.log_softmax(plain(torch.tensor([list(item.ids)])).logits[0] / 0.7, -1)[:-1]
    current = logs.gather(1, torch.tensor(item.ids[1:])[:, None])[:, 0]
    # On policy the clipped loss has the gradient of -A log p.
    (-2.0 * 0.1 * (current * torch.tensor(item.loss_mask[1:])).sum()).backward()
    assert_close(gradients(trainer), [parameter.grad for parameter in plain.parameters()])


def test_shared_beginnings_computed_once_give_the_loss_and_gradient_of_sequences_apart(folder, monkeypatch):
    items = on_policy(backend(folder), family())
    shared, apart = backend(folder), backend(folder)
    assert packing.lay_out([item.ids for item in items]).size < sum(len(item.ids) for item in items) / 1.5
    together = shared.forward_backward(items, OBJECTIVE)
    monkeypatch.setattr(packing, "SHORTEST_SHARED", 1 << 30)
    alone = apart.forward_backward(items, OBJECTIVE)
    assert together["loss"] == pytest.approx(alone["loss"], rel=1e-5)
    assert_close(gradients(shared), gradients(apart))


@pytest.mark.parametrize("settings", [{"micro_batch_tokens": 1}, {"activation_checkpointing": True}])
def test_passes_and_activation_checkpointing_change_no_loss_and_no_gradient(folder, settings):
    items = on_policy(backend(folder), family())
    whole, other = backend(folder), backend(folder, **settings)
    ours, theirs = other.forward_backward(items, OBJECTIVE), whole.forward_backward(items, OBJECTIVE)
    for name in ("loss", "tokens", "ratio", "entropy", "gap"):
        assert ours[name] == pytest.approx(theirs[name], rel=1e-5, abs=1e-3), name
    assert_close(gradients(whole), gradients(other))


def test_activation_checkpointing_computes_layers_again(folder):
    calls = []
    for checkpointing in (False, True):
        trainer = backend(folder, activation_checkpointing=checkpointing)
        seen = []
        trainer.model.network.model.layers[0].mlp.register_forward_pre_hook(lambda *_, seen=seen: seen.append(1))
        trainer.forward_backward([datum(1, 12)], OBJECTIVE)
        calls.append(len(seen))
    assert calls == [1, 2]


def test_gradients_add_up_over_calls_until_the_step(folder):
    items = on_policy(backend(folder), family())
    whole, parts = backend(folder), backend(folder)
    whole.forward_backward(items, OBJECTIVE)
    for item in items:
        parts.forward_backward([item], OBJECTIVE)
    assert_close(gradients(whole), gradients(parts))


def test_bfloat16_computes_about_the_same_and_keeps_float32_weights(folder):
    trainer = backend(folder, dtype="bfloat16")
    exact = backend(folder).forward_backward(family(), Objective())
    assert trainer.forward_backward(family(), Objective())["loss"] == pytest.approx(exact["loss"], rel=0.1)
    assert {parameter.dtype for parameter in trainer.model.parameters()} == {torch.float32}


def test_untrained_tokens_have_no_influence_on_the_gradient(folder):
    item = on_policy(backend(folder), [datum(3, 12)])[0]
    wild = [value if flag else 1e6 for value, flag in zip(item.advantages, item.loss_mask, strict=True)]
    calm, disturbed = backend(folder), backend(folder)
    calm.forward_backward([item], OBJECTIVE)
    disturbed.forward_backward([msgspec.structs.replace(item, advantages=Float32s(wild))], OBJECTIVE)
    for one, other in zip(gradients(calm), gradients(disturbed), strict=True):
        assert torch.equal(one, other)


def test_a_trained_first_token_is_refused_as_nothing_predicts_it(folder):
    item = msgspec.structs.replace(datum(3, 3), loss_mask=Int32s([1, 0, 0]))
    with pytest.raises(ValueError, match="s3: the first token cannot be trained"):
        backend(folder).forward([item])


def test_a_saved_and_loaded_run_continues_bit_for_bit_random_numbers_included(folder, tmp_path):
    items = family()
    steady, resumed = backend(folder), backend(folder)
    steady.forward_backward(items, OBJECTIVE)
    steady.optim_step(OPTIMIZER)
    steady.save(tmp_path)()
    drawn = torch.rand(3)
    resumed.forward_backward(items[:1], OBJECTIVE)  # forgotten by loading
    resumed.load(tmp_path)
    assert torch.equal(torch.rand(3), drawn)
    for trainer in (steady, resumed):
        trainer.forward_backward(items, OBJECTIVE)
        trainer.optim_step(OPTIMIZER)
    for one, other in zip(steady.model.parameters(), resumed.model.parameters(), strict=True):
        assert torch.equal(one, other)


def test_a_checkpoint_holds_the_moment_of_the_call_whatever_is_trained_before_it_is_written(folder, tmp_path):
    trainer, other = backend(folder), backend(folder)
    for one in (trainer, other):
        one.forward_backward(family(), OBJECTIVE)
        one.optim_step(OPTIMIZER)
    write = trainer.save(tmp_path)
    trainer.forward_backward(family(), OBJECTIVE)
    trainer.optim_step(OPTIMIZER)
    write()
    resumed = backend(folder)
    resumed.load(tmp_path)
    for one in (other, resumed):
        one.forward_backward(family(), OBJECTIVE)
        one.optim_step(OPTIMIZER)
    for one, two in zip(other.model.parameters(), resumed.model.parameters(), strict=True):
        assert torch.equal(one, two)


def test_a_folder_without_optimizer_state_is_no_checkpoint(folder):
    with pytest.raises(ConfigError, match=r"no optimizer\.safetensors"):
        backend(folder).load(folder)


def test_published_weights_are_the_policys_in_hugging_face_layout(folder, tmp_path):
    trainer = backend(folder)
    trainer.forward_backward([datum(1, 12)], OBJECTIVE)
    trainer.optim_step(OPTIMIZER)
    trainer.publish_weights(tmp_path)
    read = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32).state_dict()
    for name, value in trainer.model.network.state_dict().items():
        assert torch.equal(read[name], value)


def test_a_gradient_that_is_no_number_leaves_the_weights_alone(folder):
    trainer = backend(folder)
    before = [parameter.clone() for parameter in trainer.model.parameters()]
    trainer.forward_backward([datum(1, 12, advantage=float("nan"))], OBJECTIVE)
    with pytest.raises(FloatingPointError, match="nan"):
        trainer.optim_step(OPTIMIZER)
    assert all(torch.equal(one, other) for one, other in zip(before, trainer.model.parameters(), strict=True))
