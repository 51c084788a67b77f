import pytest
import torch
from backend_world import family, make_model

from nexrl.errors import ConfigError
from nexrl_trainer.algorithms.objective import Objective
from nexrl_trainer.policy.service import Optimizer
from nexrl_trainer.policy.torch_backend import TorchBackend
from nexrl_trainer.recipe.train import Lora, Train

OPTIMIZER = Optimizer(learning_rate=1e-2, betas=(0.9, 0.999), weight_decay=0.0, grad_clip=1.0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_model(tmp_path_factory.mktemp("model"))


def adapted(folder, *targets):
    lora = Lora(rank=4, alpha=8, targets=list(targets or ["all-linear"]))
    return TorchBackend(folder, Train(device="cpu", lora=lora))


def full(folder):
    return TorchBackend(folder, Train(device="cpu"))


def step(trainer):
    trainer.forward_backward(family(), Objective())
    trainer.optim_step(OPTIMIZER)


def logprobs(trainer):
    return torch.tensor([value for values in trainer.forward(family()) for value in values])


def test_before_the_first_step_the_policy_is_the_model_itself(folder):
    assert torch.equal(logprobs(adapted(folder)), logprobs(full(folder)))


def test_merged_weights_give_the_live_adapters_logprobs(folder, tmp_path):
    trainer = adapted(folder)
    step(trainer)
    step(trainer)
    trainer.publish_weights(tmp_path)
    torch.testing.assert_close(logprobs(full(tmp_path)), logprobs(trainer), atol=3e-5, rtol=1e-5)
    assert (logprobs(full(folder)) - logprobs(trainer)).abs().max() > 0.1


def test_only_the_adapters_are_trained(folder):
    trainer = adapted(folder, "q_proj", "down_proj")
    # Rank 4; q is 32 x 32, down is 64 x 32; two layers.
    assert trainer.capabilities().trained_parameters == 2 * (4 * (32 + 32) + 4 * (64 + 32))
    before = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    step(trainer)
    changed = {name for name, value in trainer.model.state_dict().items() if not torch.equal(value, before[name])}
    assert changed
    assert all(".lora_B." in name for name in changed)  # B starts at 0, so A has no gradient yet


def test_a_saved_and_loaded_adapter_continues_bit_for_bit(folder, tmp_path):
    steady, resumed = adapted(folder), adapted(folder)
    step(steady)
    steady.save(tmp_path)()
    resumed.load(tmp_path)
    step(steady)
    step(resumed)
    assert torch.equal(logprobs(steady), logprobs(resumed))


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning")  # peft asks by the old name
def test_peft_reads_the_saved_adapter(folder, tmp_path):
    from peft import PeftModel
    from safetensors.torch import load_file
    from transformers import AutoModelForCausalLM

    trainer = adapted(folder)
    step(trainer)
    trainer.save(tmp_path)()
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    read = PeftModel.from_pretrained(model, tmp_path / "adapter").merge_and_unload().state_dict()
    for name, value in load_file(tmp_path / "model.safetensors").items():
        torch.testing.assert_close(read[name], value)


def test_a_target_the_model_does_not_have_is_refused_with_what_it_has(folder):
    with pytest.raises(ConfigError, match="no linear layer 'query' to adapt; the model has down_proj, gate_proj"):
        adapted(folder, "query")


def test_a_checkpoint_of_the_whole_model_is_no_adapter(folder, tmp_path):
    full(folder).save(tmp_path)()
    with pytest.raises(ConfigError, match=r"written without train\.lora"):
        adapted(folder).load(tmp_path)
