"""EvalBN against torch's own BatchNorm2d in evaluation mode."""

import pytest
import torch
from torch import nn

from d2_regnet.modeling import EvalBN
from d2_regnet.modeling.backbone.norm import resolve_norm


@pytest.fixture
def pair(seed):
    bn = nn.BatchNorm2d(6)
    bn(torch.randn(4, 6, 5, 5) * 3 + 1)  # statistics, and a counter
    nn.init.uniform_(bn.weight, 0.5, 1.5)
    nn.init.normal_(bn.bias)
    ours = EvalBN(6)
    ours.load_state_dict(bn.state_dict())
    return bn.eval(), ours


@pytest.mark.parametrize("training", [False, True])
def test_equals_batch_norm_in_evaluation_and_trains_scale_and_shift(pair, training):
    bn, ours = pair
    ours.train(training)
    before = {name: buffer.clone() for name, buffer in ours.named_buffers()}
    x = torch.randn(2, 6, 7, 9, requires_grad=True)
    y = x.detach().clone().requires_grad_()
    bn(x).square().sum().backward()
    ours(y).square().sum().backward()
    torch.testing.assert_close(ours(y), bn(x))
    torch.testing.assert_close(y.grad, x.grad)
    torch.testing.assert_close(ours.weight.grad, bn.weight.grad)
    torch.testing.assert_close(ours.bias.grad, bn.bias.grad)
    for name, buffer in ours.named_buffers():
        assert torch.equal(buffer, before[name]), name


def test_state_dict_is_batch_norms_but_for_the_counter(pair):
    bn, ours = pair
    assert list(ours.state_dict()) == [k for k in bn.state_dict() if k != "num_batches_tracked"]
    bn.load_state_dict(ours.state_dict())


def test_resolve_norm():
    assert isinstance(resolve_norm("EvalBN")(8), EvalBN)
    assert isinstance(resolve_norm(EvalBN)(8), EvalBN)
    assert isinstance(resolve_norm("GN")(64), nn.GroupNorm)
    with pytest.raises(ValueError, match="'GN' does not fit 24 channels.*divisible"):
        resolve_norm("GN")(24)
    with pytest.raises(ValueError, match="norm 'evalbn' is unknown.*EvalBN"):
        resolve_norm("evalbn")
    with pytest.raises(ValueError, match="norm is missing"):
        resolve_norm(None)
