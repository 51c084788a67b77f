import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from nexrl_trainer.policy.network import head
from nexrl_trainer.policy.network.head import LogprobHead

V, H = 1000, 16


def full(layer, hidden, targets, temperatures):
    """Return what the head has to return, from the whole matrix of logits."""
    logs = torch.log_softmax(layer(hidden) / temperatures[:, None], -1)
    return logs.gather(1, targets[:, None])[:, 0], -(logs.exp() * logs).sum(1)


def problem(count, *, bias=False):
    torch.manual_seed(count)
    layer = torch.nn.Linear(H, V, bias=bias)
    hidden = torch.randn(count, H, requires_grad=True)
    return layer, hidden, torch.randint(0, V, (count,)), torch.rand(count) + 0.5, torch.randn(2, count)


def gradients(function, layer, hidden, targets, temperatures, slopes):
    logprobs, entropies = function(hidden, targets, temperatures)
    wanted = [hidden, *layer.parameters()]
    return torch.autograd.grad((logprobs * slopes[0] + entropies * slopes[1]).sum(), wanted)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("entropy", [0.0, 1.0])
def test_chunks_give_the_logprobs_entropies_and_gradients_of_the_whole_matrix(monkeypatch, bias, entropy):
    monkeypatch.setitem(head.CHUNK, "cpu", 3 * V)
    layer, hidden, targets, temperatures, slopes = problem(10, bias=bias)
    slopes[1] *= entropy
    chunked = LogprobHead.instead_of(layer)
    for one, other in zip(
        chunked(hidden, targets, temperatures), full(layer, hidden, targets, temperatures), strict=True
    ):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-6)
    ours = gradients(chunked, layer, hidden, targets, temperatures, slopes)
    theirs = gradients(lambda *rest: full(layer, *rest), layer, hidden, targets, temperatures, slopes)
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)


@given(st.integers(0, 12), st.integers(1, 5))
def test_the_size_of_chunks_changes_nothing(count, rows):
    layer, hidden, targets, temperatures, _ = problem(count)
    whole = LogprobHead.instead_of(layer)(hidden, targets, temperatures)
    before = head.CHUNK["cpu"]
    head.CHUNK["cpu"] = rows * V
    try:
        parts = LogprobHead.instead_of(layer)(hidden, targets, temperatures)
    finally:
        head.CHUNK["cpu"] = before
    for one, other in zip(whole, parts, strict=True):
        torch.testing.assert_close(one, other)


class Largest(TorchDispatchMode):
    """Remembers the largest tensor that anything returned."""

    size = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        tensors = result if isinstance(result, tuple | list) else [result]
        self.size = max([self.size, *(item.numel() for item in tensors if isinstance(item, torch.Tensor))])
        return result


def test_no_tensor_of_tokens_by_vocabulary_ever_exists(monkeypatch):
    monkeypatch.setitem(head.CHUNK, "cpu", 4 * V)
    layer, hidden, targets, temperatures, slopes = problem(100)
    with Largest() as largest:
        gradients(LogprobHead.instead_of(layer), layer, hidden, targets, temperatures, slopes)
    assert largest.size == V * H  # the weight's own gradient; the whole matrix would be V * 100, a chunk is V * 4


class Softmaxes(TorchDispatchMode):
    """Counts how often logits became logprobs."""

    count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += func is torch.ops.aten._log_softmax.default
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(("tokens", "computed"), [(0, 0), (4, 1), (5, 3), (100, 49)])
def test_only_chunks_before_the_last_are_computed_again(monkeypatch, tokens, computed):
    monkeypatch.setitem(head.CHUNK, "cpu", 4 * V)
    layer, hidden, targets, temperatures, slopes = problem(tokens)
    with Softmaxes() as softmaxes:
        gradients(LogprobHead.instead_of(layer), layer, hidden, targets, temperatures, slopes)
    assert softmaxes.count == computed
