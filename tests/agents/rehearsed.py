"""Make the rehearsed model: a Llama whose weights are written, not trained, and that recites the lines it was given.

    python rehearsed.py DIRECTORY

One attention head looks at the cue read last, wherever in 32,768 positions it stands; the token spoken last and that
cue decide the next token, with a probability of one up to 1e-7, or of one half where a stretch has two spellings.
The lines are `rehearsed_lines.py`'s, their spelling in tokens `rehearsed_spelling.py`'s.
"""

import json
import pydoc_data.topics
import re
import sys
from collections.abc import Iterable
from pathlib import Path

import torch
from msgspec import Struct
from rehearsed_lines import DEFAULT, LINES
from rehearsed_spelling import Spelled, spell
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM

VOCABULARY = 6000
CONTEXT = 32768
START, END, PAD = "<|im_start|>", "<|im_end|>", "<|endoftext|>"
TEMPLATE = Path(__file__).with_name("chat_template.jinja")
WORDS = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
"""GPT-2's pre-tokenizer."""

HEAD = 64
RATE = 3.35e-5
"""Radians per position: over the whole context a cue's angle stays between 0.3 and 1.4, where the cosine falls."""
ANGLE = 0.3
SHARPNESS = 2e5
"""Two nats per position where the cosine is flattest."""
BY_PIECE, BY_CUE, BY_DEFAULT = 60.0, 60.0, 30.0
"""What the token spoken last, the cue, and no cue at all add to a logit."""


class Memory(Struct, frozen=True):
    """What the weights must hold, in token ids."""

    vocabulary: int
    cues: list[list[int]]
    """Per line: the tokens that are its cue."""
    recited: list[set[int]]
    """Per line: the tokens of its reply; the last entry is what is said without a cue."""
    following: dict[int, set[int]]
    """Which tokens may come after each."""


def make(directory: Path) -> Path:
    """Write the model in Hugging Face layout."""
    tokenizer, spelled = make_tokenizer()
    memory = memory_of(tokenizer, spelled)
    end, pad = tokenizer.token_to_id(END), tokenizer.token_to_id(PAD)
    model = write_weights(memory, end)
    model.generation_config = GenerationConfig(eos_token_id=end, pad_token_id=pad, do_sample=True)
    model.save_pretrained(directory)
    tokenizer.save(str(directory / "tokenizer.json"))
    settings = {"eos_token": END, "pad_token": PAD, "tokenizer_class": "PreTrainedTokenizerFast"}
    (directory / "tokenizer_config.json").write_text(json.dumps(settings))
    (directory / "chat_template.jinja").write_text(TEMPLATE.read_text())
    return directory


def make_tokenizer() -> tuple[Tokenizer, list[Spelled]]:
    """Return the tokenizer, in which each cue is one token, and the replies spelled in tokens of its vocabulary."""
    learned = learn_words()
    taken = learned["model"]["vocab"]
    replies = [(line.reply, line.forced) for line in LINES]
    spelled = spell([*replies, (DEFAULT, ())], lambda piece: visible(piece) not in taken)
    pieces = sorted({visible(piece) for line in spelled for piece in line.pieces()})
    heard = [visible(variant.encode()) for line in LINES for variant in (line.cue, " " + line.cue)]
    vocabulary = taken | {token: len(taken) + index for index, token in enumerate([*heard, *pieces])}
    merges = [tuple(merge) for merge in learned["model"]["merges"]]
    # A cue is a whole word to the pre-tokenizer and no merge leads to it.
    tokenizer = wrapped(models.BPE(vocabulary, merges, ignore_merges=True))
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in (PAD, START, END)])
    return tokenizer, spelled


def learn_words() -> dict:
    """Learn to write English in few tokens, from Python's own manual."""
    tokenizer = wrapped(models.BPE())
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[PAD, START, END],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(pydoc_data.topics.topics.values(), trainer)
    return json.loads(tokenizer.to_str())


def wrapped(model: models.BPE) -> Tokenizer:
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = words()
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def words() -> pre_tokenizers.Sequence:
    cues = "|".join(" ?" + re.escape(line.cue) for line in LINES)
    return pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(f"{cues}|{WORDS}"), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )


def visible(piece: bytes) -> str:
    """Return bytes as byte-level vocabularies write them."""
    return "".join(VISIBLE[byte] for byte in piece)


def _visible_bytes() -> list[str]:
    shown = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = [byte for byte in range(256) if byte not in shown]
    return [chr(byte) if byte in shown else chr(256 + hidden.index(byte)) for byte in range(256)]


VISIBLE = _visible_bytes()


def memory_of(tokenizer: Tokenizer, spelled: list[Spelled]) -> Memory:
    known = tokenizer.get_vocab()

    def ids(pieces: Iterable[bytes]) -> set[int]:
        return {known[visible(piece) or END] for piece in pieces}

    def heard(text: str) -> int:
        return tokenizer.encode(text, add_special_tokens=False).ids[-1]

    following: dict[int, set[int]] = {}
    for reply in spelled:
        begun = {beginning.encode(): heard(f"{START}assistant\n{beginning}") for beginning in ("", *reply.begun)}
        for piece, then in reply.following().items():
            token = begun[piece] if piece in begun else known[visible(piece)]
            following.setdefault(token, set()).update(ids(then))
    return Memory(
        vocabulary=tokenizer.get_vocab_size(),
        cues=[[heard(line.cue), heard(f"x {line.cue}")] for line in LINES],
        recited=[ids(reply.pieces()) | ({known[END]} if reply is not spelled[-1] else set()) for reply in spelled],
        following=following,
    )


def write_weights(memory: Memory, end: int) -> LlamaForCausalLM:
    """Return the model. Dimensions: a constant, one for tokens without meaning, the last token, its cue, the cue heard.

    Every embedding has two ones, so that its norm tells nothing.
    """
    spoken = {token: 2 + index for index, token in enumerate(sorted(memory.following))}
    cues = len(memory.cues)
    own, chosen = 2 + len(spoken), 2 + len(spoken) + cues
    size = -(-(chosen + cues) // 8) * 8
    model = LlamaForCausalLM(configuration(memory.vocabulary, size, end))
    with torch.no_grad():
        for weight in model.parameters():
            weight.zero_()
        layer, head = model.model.layers[0], model.lm_head.weight
        for norm in (layer.input_layernorm, layer.post_attention_layernorm, model.model.norm):
            norm.weight.fill_(1.0)
        embedding = model.model.embed_tokens.weight
        embedding[:, 0] = 1.0
        embedding[:, 1] = 1.0
        _mean(embedding, {**spoken, **{token: own + line for line, heard in enumerate(memory.cues) for token in heard}})
        _listen(layer.self_attn, own, chosen, cues, scale=(size / 2) ** 0.5)
        _speak(head, memory, spoken, chosen, scale=(size / 3) ** 0.5)
    return model


def configuration(vocabulary: int, size: int, end: int) -> LlamaConfig:
    return LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=size,
        intermediate_size=8,
        num_hidden_layers=1,
        num_attention_heads=1,
        num_key_value_heads=1,
        head_dim=HEAD,
        max_position_embeddings=CONTEXT,
        # The slowest of the head's rotations is the only one that is used.
        rope_parameters={"rope_type": "default", "rope_theta": RATE ** (-HEAD / (HEAD - 2))},
        tie_word_embeddings=False,
        bos_token_id=None,
        eos_token_id=end,
    )


def _mean(embedding: torch.Tensor, places: dict[int, int]) -> None:
    """Give tokens a dimension of their own in place of the one for tokens without meaning."""
    for token, place in places.items():
        embedding[token, 1] = 0.0
        embedding[token, place] = 1.0


def _listen(attention: torch.nn.Module, own: int, chosen: int, cues: int, *, scale: float) -> None:
    """Attend to the cue read last: keys of cues turn with their position, all other keys are zero."""
    slowest = HEAD // 2 - 1
    cosine, sine = (float(part) for part in (torch.cos(torch.tensor(ANGLE)), torch.sin(torch.tensor(ANGLE))))
    attention.q_proj.weight[slowest, 0] = SHARPNESS * HEAD**0.5 / scale
    for cue in range(cues):
        attention.k_proj.weight[slowest, own + cue] = cosine / scale
        attention.k_proj.weight[slowest + HEAD // 2, own + cue] = -sine / scale
        attention.v_proj.weight[cue, own + cue] = 1 / scale
        attention.o_proj.weight[chosen + cue, cue] = 1.0


def _speak(head: torch.Tensor, memory: Memory, spoken: dict[int, int], chosen: int, *, scale: float) -> None:
    for token, then in memory.following.items():
        for successor in then:
            head[successor, spoken[token]] = BY_PIECE / scale
    *lines, default = memory.recited
    for cue, tokens in enumerate(lines):
        for token in tokens:
            head[token, chosen + cue] = BY_CUE / scale
    for token in default:
        head[token, 0] = BY_DEFAULT / scale


if __name__ == "__main__":
    make(Path(sys.argv[1]))
