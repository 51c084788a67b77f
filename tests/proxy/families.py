"""Public template families in small: each one's control tokens, its layout as a template, and how its models write.

The templates under `families/` are written for these tests in the layouts of the real ones. The tokenizers are tiny;
what matters of them is which tokens are one id, and which of those are declared special.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import spelled_calls as spelled
from jinja2.ext import loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment
from msgspec import Struct
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

TEMPLATES = Path(__file__).parent / "families"
CORPUS = [
    "user assistant system tool hello world what is the weather in Paris it is sunny today thank you",
    '{"name": "get_weather", "arguments": {"city": "Paris"}} tools response answer the question',
]
Calls = list[tuple[str, dict[str, Any]]]


class Reply(Struct, frozen=True, kw_only=True):
    """What a model says in one turn."""

    content: str = ""
    reasoning: str = ""
    calls: Calls = []


class Family(Struct, frozen=True, kw_only=True):
    """One template family."""

    name: str
    special: tuple[str, ...]
    text: tuple[str, ...] = ()
    """Tokens of one id that are not declared special."""
    endings: tuple[str, ...]
    """What ends a turn, the tokenizer's own first."""
    bos: str = ""
    write: Callable[[Reply, bool], str]
    """A reply as the model samples it, behind the generation prompt; the flag says that it answers tool results."""
    tools: str
    reasoning: str
    """The parsers that `auto` must find."""
    ending: Callable[[Reply], str] | None = None
    """What ends a turn, where that depends on it."""
    lacks: frozenset[str] = frozenset()
    """Of `reasoning`, `reasoning after results`, `parallel calls`, `text beside calls`: what it has no way to write."""

    @property
    def template(self) -> str:
        return (TEMPLATES / f"{self.name}.jinja").read_text()

    def ends(self, reply: Reply) -> str:
        return self.ending(reply) if self.ending else self.endings[0]

    def render(self, messages: list[dict[str, Any]], tools: list[Any] | None) -> str:
        """Return the whole conversation as the template renders it, independently of the proxy."""
        environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols])
        environment.filters["tojson"] = lambda value, indent=None: json.dumps(value, ensure_ascii=False, indent=indent)
        environment.globals["raise_exception"] = refuse
        template = environment.from_string(self.template)
        tokens = {"bos_token": self.bos, "eos_token": self.endings[0]}
        return template.render(messages=messages, tools=tools, add_generation_prompt=True, **tokens)

    def build(self, directory: Path) -> Path:
        """Write a model directory."""
        directory.mkdir(parents=True)
        tokenizer = self.tokenizer()
        tokenizer.save(str(directory / "tokenizer.json"))
        (directory / "chat_template.jinja").write_text(self.template)
        settings = {"eos_token": self.endings[0], **({"bos_token": self.bos} if self.bos else {})}
        (directory / "tokenizer_config.json").write_text(json.dumps(settings))
        (directory / "generation_config.json").write_text(
            json.dumps({"eos_token_id": [tokenizer.token_to_id(token) for token in self.endings]})
        )
        config = {"vocab_size": tokenizer.get_vocab_size(), "max_position_embeddings": 8192}
        (directory / "config.json").write_text(json.dumps(config))
        return directory

    def tokenizer(self) -> Tokenizer:
        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
        trainer = trainers.BpeTrainer(vocab_size=400, initial_alphabet=alphabet, show_progress=False)
        tokenizer.train_from_iterator(CORPUS, trainer)
        tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in self.special])
        tokenizer.add_tokens([AddedToken(token, special=False, normalized=False) for token in self.text])
        return tokenizer


def refuse(message: str) -> None:
    raise ValueError(message)


def joined(reply: Reply, spell: Callable[[str, dict[str, Any]], str], between: str = "\n") -> str:
    """Return content and calls, with `between` before each call that something stands before."""
    calls = [spell(name, arguments) for name, arguments in reply.calls]
    return between.join([*([reply.content] if reply.content else []), *calls])


def qwen3(reply: Reply, _: bool) -> str:
    thought = f"<think>\n{reply.reasoning}\n</think>\n\n" if reply.reasoning else ""
    return thought + joined(reply, spelled.hermes)


def hermes(reply: Reply, _: bool) -> str:
    return joined(reply, spelled.hermes)


def llama3(reply: Reply, _: bool) -> str:
    return reply.content or joined(reply, spelled.llama3).removeprefix("<|python_tag|>")


def deepseek_r1(reply: Reply, behind_results: bool) -> str:
    calls = "\n".join(spelled.deepseek_v3(name, arguments) for name, arguments in reply.calls)
    thought = "" if behind_results else f"{reply.reasoning}\n</think>"
    return thought + reply.content + (f"<｜tool▁calls▁begin｜>{calls}<｜tool▁calls▁end｜>" if calls else "")


def deepseek_v31(reply: Reply, _: bool) -> str:
    calls = "".join(spelled.deepseek_v31(name, arguments) for name, arguments in reply.calls)
    return reply.content + (f"<｜tool▁calls▁begin｜>{calls}<｜tool▁calls▁end｜>" if calls else "")


def glm(reply: Reply, _: bool) -> str:
    return f"\n<think>{reply.reasoning}</think>\n" + joined(reply, spelled.glm)


def mistral(reply: Reply, _: bool) -> str:
    calls = [f'{{"name": "{name}", "arguments": {spelled.dumps(given)}}}' for name, given in reply.calls]
    return reply.content or f"[TOOL_CALLS][{', '.join(calls)}]"


def mistral_v11(reply: Reply, _: bool) -> str:
    thought = f"[THINK]{reply.reasoning}[/THINK]" if reply.reasoning else ""
    calls = "".join(f"[TOOL_CALLS]{name}[ARGS]{spelled.dumps(arguments)}" for name, arguments in reply.calls)
    return thought + reply.content + calls


def qwen3_coder(reply: Reply, _: bool) -> str:
    return joined(reply, spelled.qwen3_coder, between="\n\n" if reply.content else "\n")


def gpt_oss(reply: Reply, _: bool) -> str:
    thought = f"<|channel|>analysis<|message|>{reply.reasoning}<|end|><|start|>assistant" if reply.reasoning else ""
    if not reply.calls:
        return f"{thought}<|channel|>final<|message|>{reply.content}"
    name, arguments = reply.calls[0]
    return f"{thought} to=functions.{name}<|channel|>commentary json<|message|>{spelled.dumps(arguments)}"


REASONING, LATER = "reasoning", "reasoning after results"
PARALLEL, BESIDE = "parallel calls", "text beside calls"
CHATML = ("<|im_start|>", "<|im_end|>")
HERMES_TAGS = ("<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>")
THINK = ("<think>", "</think>")
MISTRAL = (
    *("<s>", "</s>", "[INST]", "[/INST]", "[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]", "[TOOL_RESULTS]"),
    *("[/TOOL_RESULTS]", "[TOOL_CALLS]", "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]"),
)
DEEPSEEK = {
    "special": ("<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>"),
    "text": (
        *("<｜User｜>", "<｜Assistant｜>", *spelled.DEEPSEEK, "<｜tool▁outputs▁begin｜>", "<｜tool▁outputs▁end｜>"),
        *("<｜tool▁output▁begin｜>", "<｜tool▁output▁end｜>", *THINK),
    ),
    "endings": ("<｜end▁of▁sentence｜>",),
    "bos": "<｜begin▁of▁sentence｜>",
}
FAMILIES: dict[str, Family] = {
    family.name: family
    for family in (
        Family(
            name="qwen3", special=CHATML, text=(*HERMES_TAGS, *THINK), endings=("<|im_end|>",), write=qwen3,
            tools="hermes", reasoning="think",
        ),
        Family(
            name="hermes", special=("<s>", *CHATML), text=HERMES_TAGS[:2], endings=("<|im_end|>",), bos="<s>",
            write=hermes, tools="hermes", reasoning="none", lacks=frozenset({REASONING}),
        ),
        Family(
            name="llama3",
            special=(
                *("<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<|eom_id|>"),
                "<|python_tag|>",
            ),
            endings=("<|eot_id|>", "<|eom_id|>"), bos="<|begin_of_text|>", write=llama3,
            tools="llama3", reasoning="none", lacks=frozenset({REASONING, PARALLEL, BESIDE}),
        ),
        Family(name="deepseek_r1", **DEEPSEEK, write=deepseek_r1, tools="deepseek-v3", reasoning="think",
            lacks=frozenset({LATER})),
        Family(name="deepseek_v31", **DEEPSEEK, write=deepseek_v31, tools="deepseek-v3.1", reasoning="think",
            lacks=frozenset({REASONING})),
        Family(
            name="glm",
            special=("[gMASK]", "<sop>", "<|system|>", "<|user|>", "<|assistant|>", "<|observation|>", "<|endoftext|>"),
            text=(*HERMES_TAGS, *THINK, "<arg_key>", "</arg_key>", "<arg_value>", "</arg_value>"),
            endings=("<|endoftext|>", "<|user|>", "<|observation|>"), write=glm, tools="glm", reasoning="think",
            ending=lambda reply: "<|observation|>" if reply.calls else "<|user|>",
        ),
        Family(
            name="mistral", special=MISTRAL, endings=("</s>",), bos="<s>", write=mistral,
            tools="mistral", reasoning="none", lacks=frozenset({REASONING, BESIDE}),
        ),
        Family(
            name="mistral_v11", special=(*MISTRAL, "[ARGS]", "[CALL_ID]", "[THINK]", "[/THINK]"), endings=("</s>",),
            bos="<s>", write=mistral_v11, tools="mistral-v11", reasoning="mistral",
        ),
        Family(
            name="qwen3_coder", special=CHATML, text=HERMES_TAGS, endings=("<|im_end|>",), write=qwen3_coder,
            tools="qwen3-coder", reasoning="none", lacks=frozenset({REASONING}),
        ),
        Family(
            name="gpt_oss", special=("<|endoftext|>", *spelled.HARMONY),
            endings=("<|return|>", "<|call|>", "<|endoftext|>"), write=gpt_oss, tools="harmony", reasoning="harmony",
            lacks=frozenset({PARALLEL, BESIDE}),
            ending=lambda reply: "<|call|>" if reply.calls else "<|return|>",
        ),
    )
}  # fmt: skip
