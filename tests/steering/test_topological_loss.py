import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.testing import assert_close

from lossatlas.errors import ArgumentError, UnknownNameError
from lossatlas.rng import generator
from lossatlas.steering.penalties import (
    DMTATracker,
    TopologicalLoss,
    cvp_penalty,
    dmta_penalty,
    sasp_penalty,
    sbmp_penalty,
)
from lossatlas.topology.losses import persistence_penalty, signature_loss
from lossatlas.topology.torch_layers import grid_bars


def everything():
    source = generator("composite")
    features = torch.randn(5, 4, generator=source).requires_grad_()
    head = nn.Linear(4, 3)
    params = list(head.parameters())
    logits = head(features)
    targets = torch.randint(0, 3, (5,), generator=source)
    base = F.cross_entropy(logits, targets)
    grads = torch.autograd.grad(base, params, create_graph=True)
    tracker = DMTATracker(params)
    tracker.update([torch.randn(p.shape, generator=source) for p in params])
    return {
        "base_loss": base,
        "logits": logits,
        "features": features,
        "targets": targets,
        "params": params,
        "grads": [g.detach() for g in grads],
        "model_fn": head,
        "embeddings": features,
        "dmta_grad_vector": grads,
        "dmta_tracker": tracker,
        "clouds": (torch.randn(5, 2, 2, generator=source), features),
        "field": torch.randn(4, 4, generator=source).requires_grad_(),
    }


def test_fact_10_all_weights_zero_give_the_base_loss():
    inputs = everything()
    assert TopologicalLoss()(**inputs) is inputs["base_loss"]
    assert TopologicalLoss()(inputs["base_loss"]) is inputs["base_loss"]


def test_fact_11_a_penalty_makes_the_loss_larger():
    inputs = everything()
    assert TopologicalLoss(sasp_weight=0.1)(**inputs) > inputs["base_loss"]


def truths(inputs):
    return {
        "sasp": sasp_penalty(inputs["logits"], inputs["features"], inputs["targets"]),
        "cvp": cvp_penalty(inputs["params"], inputs["grads"]),
        "sbmp": sbmp_penalty(
            inputs["logits"], inputs["model_fn"], inputs["features"], generator=generator(1)
        ),
        "dmta": dmta_penalty(inputs["dmta_grad_vector"], inputs["dmta_tracker"].averages),
        "signature": signature_loss(inputs["clouds"][0].flatten(1), inputs["features"]) / 5,
        "persistence": persistence_penalty(grid_bars(inputs["field"])),
    }


@pytest.mark.parametrize("term", ["sasp", "cvp", "sbmp", "dmta", "signature", "persistence"])
def test_each_term_is_its_penalty_times_its_weight(term):
    inputs = everything()
    expected = truths(inputs)[term]
    loss = TopologicalLoss(**{f"{term}_weight": 0.5})
    total, parts = loss(**inputs, generator=generator(1), return_components=True)
    assert_close(total, inputs["base_loss"] + 0.5 * expected)
    assert_close(parts[term], expected.detach())
    assert set(parts) == {"base", term}
    assert not parts[term].requires_grad
    assert loss.weights == {term: 0.5}
    total.backward()


def test_all_terms_add_up():
    inputs = everything()
    terms = truths(inputs)
    loss = TopologicalLoss(**{f"{term}_weight": 0.1 for term in terms})
    total = loss(**inputs, generator=generator(1))
    assert_close(total, inputs["base_loss"] + 0.1 * sum(terms.values()))


NEEDED = {
    "sasp": "features",
    "cvp": "params",
    "sbmp": "model_fn",
    "dmta": "dmta_tracker",
    "signature": "clouds",
    "persistence": "field",
}


@pytest.mark.parametrize("term", NEEDED)
def test_a_term_without_its_inputs_is_an_error(term):
    inputs = everything()
    inputs[NEEDED[term]] = None
    loss = TopologicalLoss(**{f"{term}_weight": 1.0})
    with pytest.raises(ArgumentError, match=f"`{term}_weight` is above zero.*{NEEDED[term]}"):
        loss(**inputs)
    assert int(loss.calls) == 0


def test_weights_warm_up_while_training_and_resume():
    inputs = everything()
    loss = TopologicalLoss(1.0, cvp_weight=2.0, warmup={"sasp": 4})
    seen = []
    for _ in range(5):
        loss(**inputs)
        seen.append(loss.weights["sasp"])
    assert seen == [0.25, 0.5, 0.75, 1.0, 1.0]
    assert loss.weights["cvp"] == 2.0
    early = TopologicalLoss(1.0, warmup=4)
    early(**inputs)
    other = TopologicalLoss(1.0, warmup=4)
    other.load_state_dict(copy.deepcopy(early.state_dict()))
    other(**inputs)
    assert other.weights["sasp"] == 0.5
    other.eval()(**inputs)
    other(**inputs)
    assert other.weights["sasp"] == 0.75


def test_bad_input_is_named():
    with pytest.raises(ArgumentError, match="`cvp_weight` must be"):
        TopologicalLoss(cvp_weight=-0.1)
    with pytest.raises(UnknownNameError, match="did you mean 'sasp'"):
        TopologicalLoss(warmup={"sas": 3})
    with pytest.raises(ArgumentError, match="warmup of sasp"):
        TopologicalLoss(warmup={"sasp": -1})
    with pytest.raises(UnknownNameError, match="sasp_kind"):
        TopologicalLoss(sasp_kind="exact")
    with pytest.raises(ArgumentError, match="must be a scalar"):
        TopologicalLoss()(torch.zeros(3))
