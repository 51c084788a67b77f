import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from nexrl.records import Int32s
from nexrl_trainer.policy.network.attention import packed_attention
from nexrl_trainer.policy.network.packing import lay_out

P = list(range(100, 120))
SEQUENCES = [
    Int32s([*P, 1, 2, 3]),
    Int32s([*P, *P, 4]),
    Int32s([*P, *P, 5, 6]),
    Int32s([7, 8, 9]),
]


LONG = list(range(1000, 1600))
LONGER_THAN_A_BLOCK = [Int32s([*LONG, *P, *LONG, 1]), Int32s([*LONG, *P, 2]), Int32s([*LONG, 3, *LONG])]


def tensors(sequences=SEQUENCES):
    torch.manual_seed(0)
    size = lay_out(sequences).size
    return [torch.randn(1, heads, size, 16, requires_grad=True) for heads in (4, 2, 2)]


def dense(query, key, value, layout):
    """Return the same attention behind a mask of [T, T]."""
    allowed = torch.zeros(layout.size, layout.size, dtype=torch.bool)
    for block in layout.blocks:
        part = torch.ones(block.rows[1] - block.rows[0], block.keys[1] - block.keys[0], dtype=torch.bool)
        allowed[slice(*block.rows), slice(*block.keys)] |= part.tril() if block.causal else part
    return scaled_dot_product_attention(query, key, value, attn_mask=allowed, scale=0.3, enable_gqa=True)


@pytest.mark.parametrize("sequences", [SEQUENCES, LONGER_THAN_A_BLOCK], ids=["short", "long"])
def test_attention_along_the_tree_is_that_behind_a_dense_mask_gradients_included(sequences):
    layout = lay_out(sequences)
    inputs = tensors(sequences)
    ours, _ = packed_attention(torch.nn.Module(), *inputs, None, layout=layout, scaling=0.3)
    theirs = dense(*inputs, layout).transpose(1, 2)
    torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-5)
    slope = torch.randn_like(ours)
    for one, other in zip(
        torch.autograd.grad(ours, inputs, slope), torch.autograd.grad(theirs, inputs, slope), strict=True
    ):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"sliding_window": 40}, "42 tokens exceeds the model's sliding window of 40"),
        ({"softcap": 50.0}, "softcap"),
        ({"s_aux": torch.zeros(4)}, "s_aux"),
    ],
)
def test_what_is_not_implemented_is_refused_by_name(setting, message):
    with pytest.raises(ValueError, match=message):
        packed_attention(torch.nn.Module(), *tensors(), None, layout=lay_out(SEQUENCES), **setting)
