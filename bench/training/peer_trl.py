"""TRL's step: `python -m training.peer_trl FOLDER`: the loss of its GRPOTrainer, backward, clip, AdamW.

All of a group at once, as TRL does, prompts padded on the left and completions on the right; without the activation
checkpointing that TRL has by default, which would cost it time. Nothing here imports NexRL.
"""

import sys
from pathlib import Path

import torch
from datasets import Dataset
from tokenizers import Tokenizer, models
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast
from trl import GRPOConfig, GRPOTrainer

from training.rounds import serve
from training.workload import (
    CLIP_HIGH,
    CLIP_LOW,
    GRAD_CLIP,
    LEARNING_RATE,
    SAMPLED,
    VOCABULARY,
    Rollout,
    read_group,
    trained,
)


def trainer_of(folder: Path, group: list[Rollout]) -> GRPOTrainer:
    """Return TRL's trainer around the model in the folder."""
    tokenizer = Tokenizer(models.WordLevel({f"t{index}": index for index in range(VOCABULARY)}, unk_token="t0"))
    trainer = GRPOTrainer(
        model=LlamaForCausalLM.from_pretrained(folder / "model", dtype=torch.float32),
        processing_class=PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="t0", eos_token="t1"),
        reward_funcs=lambda completions, **_: [0.0] * len(completions),
        args=GRPOConfig(
            output_dir=str(folder / "trl"),
            use_cpu=True,
            bf16=False,
            report_to=[],
            gradient_checkpointing=False,
            per_device_train_batch_size=len(group),
            num_generations=len(group),
            loss_type="dapo",
            epsilon=CLIP_LOW,
            epsilon_high=CLIP_HIGH,
        ),
        train_dataset=Dataset.from_list([{"prompt": "t2"}] * 8),
    )
    trainer.model.train()
    trainer.current_gradient_accumulation_steps = 1
    return trainer


def inputs_of(group: list[Rollout]) -> dict[str, torch.Tensor]:
    """Return the group as TRL's loss takes it."""
    width = max(len(item.completion) for item in group)

    def padded(rows: list[list[int]]) -> torch.Tensor:
        return torch.tensor([row + [0] * (width - len(row)) for row in rows])

    prompts = torch.tensor([item.prompt for item in group])
    return {
        "prompt_ids": prompts,
        "prompt_mask": torch.ones_like(prompts),
        "completion_ids": padded([item.completion for item in group]),
        "completion_mask": padded([[1] * len(item.completion) for item in group]),
        "tool_mask": padded([item.mask for item in group]),
        "advantages": torch.tensor([item.advantage for item in group]),
        "old_per_token_logps": torch.full((len(group), width), SAMPLED),
        "num_items_in_batch": torch.tensor(float(trained(group))),
    }


def main(folder: Path) -> None:
    """Serve steps on the group in the folder."""
    torch.set_num_threads(1)
    group = read_group(folder)
    trainer, inputs = trainer_of(folder, group), inputs_of(group)
    model = trainer.model
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, weight_decay=0.0, fused=True)

    def step() -> float:
        loss = trainer._compute_loss(model, inputs)  # noqa: SLF001 - the step without generation and data loading
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), GRAD_CLIP)
        optimizer.step()
        optimizer.zero_grad()
        return loss.item()

    serve(step)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
