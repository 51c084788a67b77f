"""A tiny Llama and datums for it, as every test of a training backend uses them."""

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from nexrl.records import Float32s, Int32s
from nexrl_trainer.batches.datums import Datum
from nexrl_trainer.policy.service import Optimizer

VOCABULARY = 97
OPTIMIZER = Optimizer(learning_rate=1e-4, betas=(0.9, 0.999), weight_decay=0.1, grad_clip=0.5)


def make_model(path, *, intermediate=64, tied=False):
    """Write a Llama of two layers; grouped key heads, weights large enough that errors show."""
    torch.manual_seed(7)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=intermediate,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        initializer_range=0.3,
        tie_word_embeddings=tied,
    )
    LlamaForCausalLM(config).save_pretrained(path)
    return path


def tokens(seed, length):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, VOCABULARY, (length,), generator=generator).tolist()


def datum(seed, length, *, prefix=(), temperature=1.0, advantage=1.0, weight=1.0):
    """Return a datum of `length` tokens after a prefix; about half of them are trained."""
    ids = [*prefix, *tokens(seed, length)]
    generator = torch.Generator().manual_seed(seed)
    mask = [0] * max(2, len(prefix))
    mask += torch.randint(0, 2, (len(ids) - len(mask) - 1,), generator=generator).tolist()
    mask.append(1)
    return Datum(
        ids=Int32s(ids),
        loss_mask=Int32s(mask),
        logprobs=Float32s([0.0] * len(ids)),
        temperatures=Float32s([temperature if flag else 1.0 for flag in mask]),
        weight_versions=Int32s([0 if flag else -1 for flag in mask]),
        advantages=Float32s([advantage if flag else 0.0 for flag in mask]),
        weights=Float32s([weight if flag else 0.0 for flag in mask]),
        session=f"s{seed}",
    )


def family():
    """Return datums that share beginnings, two levels deep, beside some that share nothing."""
    prompt = tokens(100, 30)
    turn = prompt + tokens(101, 20)
    settings = [(prompt, 10), (prompt, 25), (turn, 5), (turn, 9), ((), 12), (turn, 18)]
    return [
        datum(seed, length, prefix=prefix, advantage=seed - 2.5, temperature=0.7, weight=0.02)
        for seed, (prefix, length) in enumerate(settings)
    ]
