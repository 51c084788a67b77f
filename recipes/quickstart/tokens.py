"""From dialogues to token ids: the tokenizer, made from the dialogues themselves, and the mask of what to learn.

Nothing of torch in here; `make_model.py` trains on what this file returns.
"""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from dialogues import TOOLS, Message
from msgspec import Struct
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

Tool = dict[str, Any]
Dialogue = tuple[list[Message], list[Tool]]
"""What is said, and the tools that the assistant is told of."""

VOCABULARY = 1024
START, END, PAD = "<|im_start|>", "<|im_end|>", "<|endoftext|>"
CHAT_TEMPLATE = Path(__file__).with_name("chat_template.jinja")
_ASSISTANT = re.compile(rf"(?<={re.escape(START)}assistant\n).*?{re.escape(END)}", re.DOTALL)


class Example(Struct, frozen=True):
    """One dialogue as the model sees it."""

    ids: list[int]
    learned: list[bool]
    """True where the demonstrator speaks."""


def make_tokenizer(dialogues: Iterable[Dialogue], template: Path = CHAT_TEMPLATE) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE tokenizer on dialogues and their tools, rendered by the chat template it will carry."""
    blank = _wrapped(Tokenizer(models.BPE()), template)
    tokenizer = Tokenizer(models.BPE())
    # Text is split at digits, not at words: the fixed phrases, tool definitions included, become a few long tokens, a
    # dialogue stays under 80 tokens, and a laptop can train on thousands of them in a minute. It is split after the
    # assistant's header too, so that a rendered conversation and a grown one have the same tokens.
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split("assistant\n", behavior="isolated"),
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[PAD, START, END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    between = re.compile(f"{re.escape(START)}|{re.escape(END)}")
    rendered = (render(blank, messages, tools=tools) for messages, tools in dialogues)
    tokenizer.train_from_iterator((part for text in rendered for part in between.split(text)), trainer)
    return _wrapped(tokenizer, template)


def _wrapped(tokenizer: Tokenizer, template: Path) -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=END,
        pad_token=PAD,
        additional_special_tokens=[START],
        chat_template=template.read_text(encoding="utf-8"),
        clean_up_tokenization_spaces=False,
    )


def render(
    tokenizer: PreTrainedTokenizerFast, messages: list[Message], *, tools: list[Tool] = TOOLS, prompt: bool = False
) -> str:
    """Return the dialogue as text; with `prompt`, up to where the assistant speaks next."""
    given: Any = tools
    text: Any = tokenizer.apply_chat_template(messages, tools=given, tokenize=False, add_generation_prompt=prompt)
    return text


def pieces(text: str) -> list[tuple[str, bool]]:
    """Cut a rendered dialogue where a conversation grows; True marks what the assistant says.

    Example: [("... the question ...", False), ("The answer is 95.<|im_end|>", True)].
    """
    cut: list[tuple[str, bool]] = []
    end = 0
    for said in _ASSISTANT.finditer(text):
        cut += [(text[end : said.start()], False), (said.group(), True)]
        end = said.end()
    return cut


def encode(tokenizer: PreTrainedTokenizerFast, messages: list[Message], tools: list[Tool] = TOOLS) -> Example:
    """Tokenise piece by piece, as the proxy does: it appends to ids the model sampled and never encodes them anew."""
    ids: list[int] = []
    learned: list[bool] = []
    for piece, by_assistant in pieces(render(tokenizer, messages, tools=tools)):
        piece_ids = tokenizer.backend_tokenizer.encode(piece, add_special_tokens=False).ids
        ids += piece_ids
        learned += [by_assistant] * len(piece_ids)
    return Example(ids, learned)
