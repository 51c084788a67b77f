"""Every loss, its gradient and its corrections against numbers worked out by hand."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from nexrl_trainer.algorithms.loss import LOSSES, loss_of
from nexrl_trainer.algorithms.objective import Clip, Importance, Objective, Temper
from nexrl_trainer.algorithms.spread import BOUNDS, NAMES, ratio_quantiles
from nexrl_trainer.algorithms.tokens import Tokens

CLIP = Clip(low=0.2, high=0.3)
LN2 = math.log(2)


def tensor(values):
    return torch.tensor(values, dtype=torch.float64)


def tokens(current, *, behaviour=None, advantages=None, sequence=None, weights=None, **others):
    """Return tokens whose behaviour logprobs are 0 unless given, so that the ratio is exp(current)."""
    size = len(current)
    return Tokens(
        current=tensor(current).requires_grad_(),
        behaviour=tensor(behaviour or [0.0] * size),
        proximal=tensor(others.get("proximal") or current),
        reference=None if "reference" not in others else tensor(others["reference"]),
        teacher=None if "teacher" not in others else tensor(others["teacher"]),
        entropy=others.get("entropy"),
        advantages=tensor(advantages or [1.0] * size),
        weights=tensor(weights or [1.0] * size),
        sequence=torch.tensor(sequence or [0] * size),
    )


def computed(objective, of):
    """Return the loss and the gradient of each token's logprob."""
    loss, _ = loss_of(objective, of)
    loss.backward()
    return loss.item(), of.current.grad.tolist()


def at_ratio(objective, ratio, advantage):
    loss, [gradient] = computed(objective, tokens([math.log(ratio)], advantages=[advantage]))
    return loss, gradient


@pytest.mark.parametrize(
    ("ratio", "advantage", "value", "gradient"),
    [
        (1.0, 2.0, -2.0, -2.0),  # on policy: the gradient of the plain policy gradient
        (1.2, 2.0, -2.4, -2.4),  # within the bound
        (1.5, 2.0, -2.6, 0.0),  # better and already likelier than the bound: no push
        (0.5, 2.0, -1.0, -1.0),  # better but less likely: pushed up
        (0.5, -2.0, 1.6, 0.0),  # worse and already rarer than the bound: no push
        (1.5, -2.0, 3.0, 3.0),  # worse and likelier: pushed down
    ],
)
def test_the_clipped_loss_and_its_gradient_match_worked_numbers(ratio, advantage, value, gradient):
    assert at_ratio(Objective(clip=CLIP), ratio, advantage) == pytest.approx((value, gradient))


@pytest.mark.parametrize(
    ("ratio", "advantage", "value", "gradient"),
    [
        (2.5, -2.0, 5.0, 5.0),  # below the dual bound of 3
        (4.0, -2.0, 6.0, 0.0),  # beyond it: 3 x 2, no push
        (4.0, 2.0, -2.6, 0.0),  # the dual bound is for negative advantages alone
        (1.0, 2.0, -2.0, -2.0),
    ],
)
def test_the_dual_clip_bounds_what_a_bad_token_can_cost(ratio, advantage, value, gradient):
    objective = Objective(clip=Clip(low=0.2, high=0.3, dual=3.0))
    assert at_ratio(objective, ratio, advantage) == pytest.approx((value, gradient))


def test_a_token_counts_as_clipped_exactly_where_its_gradient_vanished():
    ratios, advantages = [1.0, 1.5, 0.5, 0.5, 1.5, 4.0], [1.0, 1.0, 1.0, -1.0, -1.0, -1.0]
    of = tokens([math.log(ratio) for ratio in ratios], advantages=advantages)
    loss, sums = loss_of(Objective(clip=Clip(low=0.2, high=0.3, dual=3.0)), of)
    loss.backward()
    assert [value == 0 for value in of.current.grad.tolist()] == [False, True, False, True, False, True]
    assert (sums["clipped"], sums["clipped_positive"], sums["clipped_negative"]) == (3, 1, 2)


def test_gspo_has_one_ratio_per_sequence_whose_gradient_reaches_every_token_of_it():
    # Sequence 0: mean log ratio (ln 4 + 0) / 2 = ln 2, s = 2. Sequence 1: s = 1.
    of = tokens([2 * LN2, 0.0, 0.0], advantages=[-1.0, -1.0, 3.0], sequence=[0, 0, 1], weights=[0.25, 0.25, 0.5])
    # 0.25 x 2 + 0.25 x 2 - 0.5 x 3; each token of sequence 0 is half of its mean: d/dx = (0.25 + 0.25) x 2 / 2
    assert computed(Objective(loss="gspo"), of) == (pytest.approx(-0.5), pytest.approx([0.5, 0.5, -1.5]))


def test_gspo_clips_whole_sequences():
    of = tokens([0.2, -0.1, 0.0], advantages=[1.0] * 3, sequence=[0, 0, 1])
    loss, sums = loss_of(Objective(loss="gspo", clip=Clip(low=3e-4, high=4e-4)), of)
    loss.backward()
    assert loss.item() == pytest.approx(-2 * 1.0004 - 1)
    assert of.current.grad.tolist() == pytest.approx([0, 0, -1])
    assert sums["clipped"] == 2


@pytest.mark.parametrize(
    ("ratio", "advantage", "weight"),
    [(1.0, 2.0, 1.0), (4.0, 2.0, 4.0), (8.0, 2.0, 5.0), (8.0, -1.0, 5.0), (0.01, 2.0, 0.01)],
)
def test_cispo_bounds_the_weight_and_keeps_every_gradient(ratio, advantage, weight):
    value, gradient = at_ratio(Objective(loss="cispo", clip=Clip(high=4.0)), ratio, advantage)
    assert value == pytest.approx(-weight * advantage * math.log(ratio))
    assert gradient == pytest.approx(-weight * advantage)


@pytest.mark.parametrize(
    ("ratio", "advantage", "value", "gradient"),
    [
        (1.0, 2.0, -4.0, -2.0),  # 4 x sigmoid(0) x 2; on policy the slope is the policy gradient's
        # sigmoid(1) = 0.7310586, sigmoid'(1) = 0.1966119: 4 x 0.7310586; 4 x 0.1966119 x ratio 2
        (2.0, 1.0, -2.9242343, -1.5728955),
        # tau 2: 4 / 2 x sigmoid(2) = 2 x 0.8807971; 4 x sigmoid'(2) x 2 = 4 x 0.1049936 x 2
        (2.0, -1.0, 1.7615942, 0.8399486),
    ],
)
def test_sapo_closes_its_gate_smoothly_and_faster_for_bad_tokens(ratio, advantage, value, gradient):
    objective = Objective(loss="sapo", temper=Temper(positive=1.0, negative=2.0))
    assert at_ratio(objective, ratio, advantage) == pytest.approx((value, gradient))


def test_reinforce_is_the_plain_policy_gradient_whatever_the_ratio():
    assert at_ratio(Objective(loss="reinforce"), 5.0, -2.0) == pytest.approx((2 * math.log(5), 2.0))


def test_cross_entropy_reads_weights_and_no_advantage():
    of = tokens([-1.0, -2.0], advantages=[7.0, -7.0], weights=[0.5, 0.25])
    assert computed(Objective(loss="cross_entropy"), of) == (pytest.approx(1.0), [-0.5, -0.25])


@pytest.mark.parametrize("name", sorted(LOSSES))
@given(
    st.lists(st.tuples(st.floats(-3, 0), st.floats(-2, 2)), min_size=1, max_size=8),
)
def test_on_policy_every_ratio_loss_has_the_policy_gradient(name, pairs):
    current, advantages = map(list, zip(*pairs, strict=True))
    of = tokens(current, behaviour=current, advantages=advantages, sequence=list(range(len(pairs))))
    _, gradient = computed(Objective(loss=name), of)
    wanted = [1.0] * len(pairs) if name == "cross_entropy" else advantages
    assert gradient == pytest.approx([-value for value in wanted], abs=1e-9)


@pytest.mark.parametrize("name", sorted(LOSSES))
def test_a_micro_batch_without_a_trained_token_costs_nothing_and_can_be_propagated(name):
    objective = Objective(loss=name, kl=0.1, importance=Importance(correction="mask", level="sequence"))
    empty = torch.zeros(0)
    of = Tokens(empty.clone().requires_grad_(), *[empty] * 7, torch.zeros(0, dtype=torch.long))
    loss, sums = loss_of(objective, of)
    loss.backward()
    assert loss.item() == 0
    assert {value.item() for value in sums.values()} == {0.0}


@pytest.mark.parametrize(
    ("estimator", "value", "gradient"),
    [
        # reference / current = 1/2: k2 = (ln 2)^2 / 2, slope ln 2; k3 = 1/2 - 1 + ln 2, slope 1 - 1/2
        ("k2", LN2 * LN2 / 2, LN2),
        ("k3", LN2 - 0.5, 0.5),
    ],
)
def test_the_kl_is_added_with_its_coefficient(estimator, value, gradient):
    of = tokens([LN2], advantages=[0.0], reference=[0.0])
    objective = Objective(kl=0.1, estimator=estimator)
    assert computed(objective, of) == (pytest.approx(0.1 * value), [pytest.approx(0.1 * gradient)])
    assert loss_of(objective, of)[1]["kl_reference"].item() == pytest.approx(value)


def test_the_unbiased_kl_has_the_reverse_kls_gradient_where_k3_alone_has_not():
    """Over all tokens of a vocabulary, sampled as the behaviour policy does, the mean gradient is the exact one."""
    logits = tensor([0.3, -0.5, 0.1]).requires_grad_()
    reference = torch.log_softmax(tensor([-1.0, 0.4, 0.2]), 0)
    behaviour = torch.log_softmax(tensor([0.0, 0.5, -0.7]), 0)
    current = torch.log_softmax(logits, 0)
    (exact,) = torch.autograd.grad((current.exp() * (current - reference)).sum(), logits)

    def gradient(*, unbiased):
        logprobs = torch.log_softmax(logits, 0)
        of = Tokens(
            logprobs, behaviour, logprobs.detach(), reference, None, None, torch.zeros(3).double(), behaviour.exp(),
            torch.arange(3),
        )  # fmt: skip
        loss, _ = loss_of(Objective(loss="reinforce", kl=1.0, unbiased_kl=unbiased), of)
        return torch.autograd.grad(loss, logits)[0]

    torch.testing.assert_close(gradient(unbiased=True), exact)
    assert not torch.allclose(gradient(unbiased=False), exact, atol=1e-2)


def test_the_entropy_bonus_rewards_entropy_and_its_gradient_flows():
    entropy = tensor([0.5, 1.5]).requires_grad_()
    of = tokens([0.0, 0.0], advantages=[0.0, 0.0], weights=[0.5, 0.5], entropy=entropy)
    loss, sums = loss_of(Objective(entropy=0.1), of)
    loss.backward()
    assert (loss.item(), entropy.grad.tolist()) == (pytest.approx(-0.1), pytest.approx([-0.05, -0.05]))
    assert sums["entropy"] == 2.0


@pytest.mark.parametrize(("objective", "missing"), [({"kl": 0.1}, "reference"), ({"entropy": 0.1}, "entropy")])
def test_what_an_objective_needs_and_tokens_lack_is_named(objective, missing):
    with pytest.raises(ValueError, match=f"tokens.{missing}"):
        loss_of(Objective(**objective), tokens([0.0]))


@pytest.mark.parametrize(
    ("correction", "level", "weights"),
    [
        # proximal / behaviour: 1, 4, 1/4 in sequence 0, whose product is 1; 4 in sequence 1
        ("truncate", "token", [1, 2, 0.25, 2]),
        ("mask", "token", [1, 0, 0, 0]),
        ("truncate", "sequence", [1, 1, 1, 2]),
        ("mask", "sequence", [1, 1, 1, 0]),
    ],
)
def test_importance_is_truncated_or_masked_by_token_or_by_sequence(correction, level, weights):
    proximal = [0.0, 2 * LN2, -2 * LN2, 2 * LN2]
    of = tokens([0.0] * 4, proximal=proximal, sequence=[0, 0, 0, 1])
    importance = Importance(correction=correction, level=level, low=0.5, high=2.0)
    loss, sums = loss_of(Objective(loss="reinforce", importance=importance), of)
    loss.backward()
    assert of.current.grad.tolist() == pytest.approx([-weight for weight in weights])
    assert sums["importance"].item() == pytest.approx(sum(weights))
    assert sums["masked"] == weights.count(0)


def test_decoupled_ppo_weighs_the_clipped_ratio_to_the_proximal_policy():
    # behaviour 1, proximal 2, current 3: importance 2, ratio 3/2 clipped to 1.3, advantage 1
    of = tokens([math.log(3)], proximal=[LN2])
    objective = Objective(ratio_to="proximal", clip=CLIP, importance=Importance(correction="truncate", high=5.0))
    assert computed(objective, of) == (pytest.approx(-2.6), [0.0])
    # current 2.2: ratio 1.1 within the clip: -2 x 1.1
    of = tokens([math.log(2.2)], proximal=[LN2])
    assert computed(objective, of) == (pytest.approx(-2.2), [pytest.approx(-2.2)])


def test_metrics_are_sums_and_maxima_over_tokens():
    of = tokens([LN2, 0.0], behaviour=[0.0, 0.0], teacher=[0.0, -1.0], weights=[0.1, 0.1])
    _, sums = loss_of(Objective(clip=CLIP), of)
    assert sums["tokens"] == 2
    assert sums["ratio"].item() == pytest.approx(3.0)
    assert sums["gap"].item() == sums["gap_max"].item() == pytest.approx(LN2)
    assert sums["kl_engine"].item() == pytest.approx(1 - LN2)  # 2 - 1 - ln 2, and 0
    assert sums["kl_teacher"].item() == pytest.approx(LN2 + 1)


def test_ratio_quantiles_are_read_off_the_bins_of_many_micro_batches():
    total = {}
    for part in ([0.0] * 95, [math.log(0.5)] * 2, [math.log(5)] * 3):
        for name, value in loss_of(Objective(), tokens(part))[1].items():
            total[name] = total.get(name, 0.0) + value.item()
    found = ratio_quantiles(total)
    # ln 0.5 lies in the bin from -1 to -0.3, ln 5 above the last bound, 0 in the bin that ends there
    assert math.exp(-1) < found["ratio_p01"] < math.exp(-0.3)
    assert math.exp(-0.001) <= found["ratio_p50"] <= 1
    assert found["ratio_p99"] == pytest.approx(math.e)


@pytest.mark.parametrize("name", sorted(LOSSES))
@given(
    st.lists(
        st.tuples(st.floats(-3, 0), st.floats(-3, 0), st.floats(-2, 2), st.integers(0, 4)), min_size=1, max_size=12
    ),
    st.integers(0, 4),
)
def test_however_whole_sequences_are_dealt_to_micro_batches_the_loss_and_its_gradient_are_the_same(name, rows, cut):
    objective = Objective(
        loss=name, ratio_to="proximal", importance=Importance(correction="truncate", level="sequence", high=1.5)
    )

    def part(chosen):
        current, behaviour, advantages, sequence = map(list, zip(*chosen, strict=True))
        return tokens(
            current, behaviour=behaviour, advantages=advantages, sequence=sequence, proximal=[-1.0] * len(chosen)
        )

    rows = sorted(rows, key=lambda row: row[3])
    whole_loss, whole = computed(objective, part(rows))
    parts = [[row for row in rows if (row[3] < cut) is side] for side in (True, False)]
    found = [computed(objective, part(chosen)) for chosen in parts if chosen]
    assert sum(loss for loss, _ in found) == pytest.approx(whole_loss, abs=1e-9)
    assert [value for _, gradient in found for value in gradient] == pytest.approx(whole, abs=1e-9)


def test_a_quantile_lies_in_its_bin_by_what_is_left_after_the_bins_below():
    counts = dict.fromkeys(NAMES, 0.0)
    counts[NAMES[BOUNDS.index(-0.3)]] = 40.0  # log ratios from -1 to -0.3
    counts[NAMES[BOUNDS.index(1.0)]] = 60.0  # from 0.3 to 1
    found = {name: math.log(value) for name, value in ratio_quantiles(counts).items()}
    # 1, 50 and 99 of 100: 1 into the 40, 10 and 59 into the 60
    assert found == pytest.approx(
        {"ratio_p01": -1 + 0.7 / 40, "ratio_p50": 0.3 + 0.7 / 6, "ratio_p99": 0.3 + 0.7 * 59 / 60}
    )
