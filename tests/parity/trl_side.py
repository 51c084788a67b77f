"""TRL's side: the loss and gradients its GRPOTrainer computes for a batch. Run as `python trl_side.py FOLDER`.

FOLDER holds `model/` and `cases.json`; per case a file `NAME.safetensors` with the loss and every parameter's gradient
is written beside them. Nothing here imports NexRL.
"""

import json
import sys
from pathlib import Path

import torch
from datasets import Dataset
from safetensors.torch import save_file
from tokenizers import Tokenizer, models
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast
from trl import GRPOConfig, GRPOTrainer


def main(folder: Path) -> None:
    for case in json.loads((folder / "cases.json").read_text()):
        trainer = trainer_of(folder, case["config"])
        loss = trainer._compute_loss(trainer.model, inputs_of(case["batch"]))
        loss.backward()
        gradients = {name: parameter.grad for name, parameter in trainer.model.named_parameters()}
        save_file({"loss": loss.detach().reshape(1), **gradients}, folder / f"{case['name']}.safetensors")


def trainer_of(folder: Path, config: dict) -> GRPOTrainer:
    tokenizer = Tokenizer(models.WordLevel({f"t{index}": index for index in range(61)}, unk_token="t0"))
    trainer = GRPOTrainer(
        model=LlamaForCausalLM.from_pretrained(folder / "model", dtype=torch.float32),
        processing_class=PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="t0", eos_token="t1"),
        reward_funcs=lambda completions, **_: [0.0] * len(completions),
        args=GRPOConfig(
            output_dir=str(folder / "out"), use_cpu=True, bf16=False, report_to=[], gradient_checkpointing=False,
            per_device_train_batch_size=4, num_generations=2, **config,
        ),
        train_dataset=Dataset.from_list([{"prompt": "t2"}] * 8),
    )  # fmt: skip
    trainer.model.train()
    trainer.current_gradient_accumulation_steps = 1
    return trainer


def inputs_of(batch: list[dict]) -> dict:
    """Pad prompts on the left and completions on the right, as TRL does."""
    prompt, completion = (max(len(row[part]) for row in batch) for part in ("prompt", "completion"))

    def padded(name: str, size: int, *, left: bool = False) -> torch.Tensor:
        rows = [
            [0] * (size - len(row[name])) * left + row[name] + [0] * (size - len(row[name])) * (not left)
            for row in batch
        ]
        return torch.tensor(rows)

    for row in batch:
        row["prompt_ones"], row["completion_ones"] = [1] * len(row["prompt"]), [1] * len(row["completion"])
    return {
        "prompt_ids": padded("prompt", prompt, left=True),
        "prompt_mask": padded("prompt_ones", prompt, left=True),
        "completion_ids": padded("completion", completion),
        "completion_mask": padded("completion_ones", completion),
        "advantages": torch.tensor([row["advantage"] for row in batch]),
        "old_per_token_logps": padded("old", completion),
        "ref_per_token_logps": padded("reference", completion),
        "num_items_in_batch": torch.tensor(float(sum(len(row["completion"]) for row in batch))),
    }


if __name__ == "__main__":
    main(Path(sys.argv[1]))
