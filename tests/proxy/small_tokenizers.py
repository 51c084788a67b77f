"""Small tokenizers of every make that chat models have: how they cut text, what they put before it, their added tokens.

The expressions are those of the public tokenizers; the vocabularies are trained on a page of text.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

CONTRACTIONS = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
TAIL = r"\s*[\r\n]+|\s+(?!\S)|\s+"
QWEN = rf"{CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|{TAIL}"
LLAMA3 = QWEN.replace(r"|\p{N}|", r"|\p{N}{1,3}|")
UPPER, LOWER = r"\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}", r"\p{Ll}\p{Lm}\p{Lo}\p{M}"
O200K = (
    rf"[^\r\n\p{{L}}\p{{N}}]?[{UPPER}]*[{LOWER}]+{CONTRACTIONS}?|[^\r\n\p{{L}}\p{{N}}]?[{UPPER}]+[{LOWER}]*{CONTRACTIONS}?"
    rf"|\p{{N}}{{1,3}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*|{TAIL}"
)
DEEPSEEK = [
    r"\p{N}{1,3}",
    "[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+",
    r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|"
    + TAIL,
]
PAGE = [
    "It's 1,234.50 or 99% -- isn't it?\n\n  def f(x):\n\treturn {'a': [1,2], \"b\": x**2}\r\n \r\n\n   ...   end  \n",
    "HTTPServer2go we'LL I'M he'd x_y a--b //c #d <tool>&amp;</tool> \\n end of text 12345678   ",
    "Où est l'été à São Paulo? Größe, naïve ... 日本語のテキスト、天気は晴れ。 Ёлка и зима 🌍🌍 é é  \u2028 \u00a0 x",
    "user assistant system tool hello world what is the weather in Paris it is sunny today thank you",
] * 3
BYTES = [f"<0x{byte:02X}>" for byte in range(256)]
ADDED = {"special": ("<|im_start|>", "<|im_end|>"), "text": ("<tool_call>", "</tool_call>", "<think>")}


def byte_level(*splits: str, normalizer: Any = None, prefix: bool = False, whole: bool = False) -> Tokenizer:
    """Return a byte-level BPE tokenizer; without expressions its own one cuts, as GPT-2's does."""
    tokenizer = Tokenizer(models.BPE(ignore_merges=whole))
    cuts = [pre_tokenizers.Split(Regex(split), "isolated") for split in splits]
    last = pre_tokenizers.ByteLevel(add_prefix_space=prefix, use_regex=not splits)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([*cuts, last]) if cuts else last
    if normalizer:
        tokenizer.normalizer = normalizer
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    return trained(tokenizer, trainers.BpeTrainer(vocab_size=900, initial_alphabet=alphabet, show_progress=False))


def metaspace(scheme: str) -> Tokenizer:
    """Return a tokenizer as Mistral's: spaces are a character, unknown ones are bytes, something may come first."""
    tokenizer = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme, split=False)
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return trained(tokenizer, with_bytes())


def llama2() -> Tokenizer:
    """Return a tokenizer as Llama 2's: the normalizer puts a space before every piece of text."""
    tokenizer = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return trained(tokenizer, with_bytes())


def gemma() -> Tokenizer:
    """Return a tokenizer as Gemma's: runs of newlines are added tokens that are neither special nor markup."""
    tokenizer = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    tokenizer = trained(tokenizer, with_bytes())
    tokenizer.add_tokens([AddedToken(text, normalized=False) for text in ("\n\n", "\n\n\n", "▁▁", "antibody")])
    return tokenizer


def flagged() -> Tokenizer:
    """Return a tokenizer whose added tokens take the whitespace beside them, or are words of their own (Phi's do)."""
    tokenizer = byte_level(QWEN)
    flags: dict[str, dict[str, Any]] = {
        "<|left|>": {"lstrip": True},
        "<|right|>": {"rstrip": True},
        "<|both|>": {"lstrip": True, "rstrip": True},
        "<|word|>": {"single_word": True},
        "word": {"single_word": True, "lstrip": True},
    }
    tokenizer.add_special_tokens([AddedToken(text, normalized=False, **given) for text, given in flags.items()])
    return tokenizer


def with_bytes() -> trainers.BpeTrainer:
    return trainers.BpeTrainer(vocab_size=900, special_tokens=["<unk>", "<s>", "</s>", *BYTES], show_progress=False)


def trained(tokenizer: Tokenizer, trainer: trainers.BpeTrainer) -> Tokenizer:
    tokenizer.train_from_iterator(PAGE, trainer)
    made = json.loads(tokenizer.to_str())
    made["added_tokens"] = [token for token in made["added_tokens"] if token["content"] not in BYTES]
    tokenizer = Tokenizer.from_str(json.dumps(made))
    tokenizer.add_special_tokens([AddedToken(text, normalized=False) for text in ADDED["special"]])
    tokenizer.add_tokens([AddedToken(text, normalized=False) for text in ADDED["text"]])
    return tokenizer


MAKES: dict[str, Callable[[], Tokenizer]] = {
    "gpt2": byte_level,
    "gpt2 with a space first": lambda: byte_level(prefix=True),
    "qwen": lambda: byte_level(QWEN, normalizer=normalizers.NFC()),
    "llama3, whole words": lambda: byte_level(LLAMA3, whole=True),
    "o200k": lambda: byte_level(O200K),
    "deepseek": lambda: byte_level(*DEEPSEEK),
    "nfkc": lambda: byte_level(QWEN, normalizer=normalizers.NFKC()),
    "lowercase": lambda: byte_level(QWEN, normalizer=normalizers.Lowercase()),
    "metaspace first": lambda: metaspace("first"),
    "metaspace always": lambda: metaspace("always"),
    "metaspace never": lambda: metaspace("never"),
    "llama2": llama2,
    "gemma": gemma,
    "flagged": flagged,
}


def saved(tokenizer: Tokenizer, path: Path) -> Path:
    """Write it as a model directory holds it."""
    tokenizer.save(str(path))
    return path
