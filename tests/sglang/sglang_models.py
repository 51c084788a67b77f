"""Tiny random Llamas that speak bytes, with a chat template; and the truth about their logprobs, from transformers."""

import functools
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from transformers.utils import logging

logging.disable_progress_bar()
torch.set_num_threads(1)
START, END = "<|im_start|>", "<|im_end|>"
TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def save_models(folder: Path, count: int, *, head_dim: int = 16) -> list[Path]:
    """Save models of one architecture with different weights, whose logits lie far enough apart to be interesting."""
    return [save_model(folder / f"weights-{seed}", seed, head_dim=head_dim) for seed in range(count)]


def save_model(folder: Path, seed: int, *, head_dim: int = 16) -> Path:
    tokenizer = byte_tokenizer()
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=head_dim,
        max_position_embeddings=4096,
        initializer_range=0.1,
        bos_token_id=None,
        eos_token_id=tokenizer.convert_tokens_to_ids(END),
    )
    torch.manual_seed(seed)
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def byte_tokenizer() -> PreTrainedTokenizerFast:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    inner = Tokenizer(models.BPE({character: index for index, character in enumerate(alphabet)}, []))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, eos_token=END, additional_special_tokens=[START, END])
    tokenizer.chat_template = TEMPLATE
    return tokenizer


@functools.cache
def reference(folder: Path):
    return AutoModelForCausalLM.from_pretrained(folder, attn_implementation="sdpa").double().eval()


@torch.no_grad()
def true_logprobs(folder: Path, prompt: list[int], output: list[int], temperature: float = 1.0) -> list[float]:
    """Return the output's logprobs from one whole forward pass in double precision."""
    logits = reference(folder)(torch.tensor([[*prompt, *output]])).logits[0, len(prompt) - 1 : -1]
    logprobs = torch.log_softmax(logits / temperature, dim=-1)
    return logprobs.gather(1, torch.tensor(output)[:, None])[:, 0].tolist()
