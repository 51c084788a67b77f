"""A plain loop's step: `python -m training.plain FOLDER`. One sequence at a time; nothing packed, nothing shared.

The head is computed on completions alone, as anybody would who writes the loop by hand.
"""

import sys
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM

from training.rounds import serve
from training.workload import (
    CLIP_HIGH,
    CLIP_LOW,
    GRAD_CLIP,
    LEARNING_RATE,
    SAMPLED,
    read_group,
    trained,
)


def main(folder: Path) -> None:
    """Serve steps on the group in the folder."""
    torch.set_num_threads(1)
    group = read_group(folder)
    total = trained(group)
    model = AutoModelForCausalLM.from_pretrained(folder / "model", dtype=torch.float32)
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, weight_decay=0.0, fused=True)

    def step() -> float:
        loss = 0.0
        for item in group:
            ids, mask = torch.tensor([item.prompt + item.completion]), torch.tensor(item.mask)
            count = len(item.completion)
            logits = model(ids, logits_to_keep=count + 1).logits[0, :-1]
            current = torch.log_softmax(logits, -1).gather(1, ids[0, -count:, None])[:, 0]
            ratio = torch.exp(current - SAMPLED)
            clipped = ratio.clamp(1 - CLIP_LOW, 1 + CLIP_HIGH)
            gain = torch.minimum(ratio * item.advantage, clipped * item.advantage)
            part = -(gain * mask).sum() / total
            part.backward()
            loss += part.item()
        torch.nn.utils.clip_grad_norm_(model.parameters(), GRAD_CLIP)
        optimizer.step()
        optimizer.zero_grad()
        return loss

    serve(step)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
