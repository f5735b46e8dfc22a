import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import cases
import lossatlas as la
from lossatlas.curvature import chosen, instruments
from lossatlas.curvature.activations import read_head
from lossatlas.curvature.assumed_optimizers import warm_adam
from lossatlas.errors import ArgumentError, LossError, ResumeError, UnknownNameError
from lossatlas.io import from_bytes, to_bytes
from lossatlas.surveys import eigen_plane
from lossatlas.surveys.result_cache import instruments_ledger

QUICK = ("stability", "gradient", "representations")


def bowl(curvatures=(4.0, 1.0), start=(0.3, -0.2)):
    """Half of the sum of curvature x weight^2: everything about it is known."""
    model = nn.Linear(2, 1, bias=False).double()
    model.weight.data = torch.tensor([start], dtype=torch.float64)
    inputs = torch.diag(torch.tensor(curvatures, dtype=torch.float64).sqrt())

    def loss(model, batch):
        return model(batch).square().flatten()

    return la.Objective(model, loss, [inputs.repeat(4, 1)])


def values(finding):
    return {q.name: q for q in finding.estimates()}


def test_names_are_served_in_the_order_of_the_registry():
    names = [tool.name for tool in instruments()]
    assert len(set(names)) == len(names)
    assert [t.name for t in chosen("all")] == names
    assert [t.name for t in chosen(["gradient", "curvature", "gradient"])] == [
        "curvature",
        "gradient",
    ]
    assert [t.name for t in chosen("roughness", curvature=True)] == ["curvature", "roughness"]
    assert chosen(()) == ()


@pytest.mark.parametrize(
    ("asked", "error", "message"),
    [
        ("sharpnes", UnknownNameError, "did you mean 'sharpness'"),
        (["gradient", "everything"], UnknownNameError, "`instruments` must be one of"),
        ([3], ArgumentError, "`instruments` must be names"),
    ],
)
def test_unknown_names_are_refused_before_anything_is_done(asked, error, message):
    heard = []
    with pytest.raises(error, match=re.escape(message)):
        la.survey(bowl(), instruments=asked, progress=lambda *a: heard.append(a))
    assert not heard


@pytest.mark.parametrize("lr", [0.0, -1.0, float("nan"), float("inf")])
def test_a_rate_must_be_positive(lr):
    with pytest.raises(ArgumentError, match="`lr`"):
        la.survey(bowl(), instruments="stability", lr=lr)


def test_numbers_of_a_quadratic_are_those_of_its_formula():
    found = la.survey(
        bowl(), points=3, span=0.5, instruments=("curvature", "stability", "gradient"), lr=0.6
    )
    curvature, steps, slope = (
        values(found.findings[k]) for k in ("curvature", "stability", "gradient")
    )
    assert curvature["largest eigenvalue"].value == pytest.approx(4)
    assert curvature["smallest eigenvalue"].value == pytest.approx(1)
    assert curvature["trace of the Hessian"].value == pytest.approx(5)
    assert steps[
        "learning rate x largest eigenvalue, SGD without momentum"
    ].value == pytest.approx(2.4)
    # Half of the examples have the gradient (2.4, 0), the others (0, -0.4).
    scaled = 0.6 * 2**0.5 * max(4 / 2.4, 1 / 0.4)
    assert steps["learning rate x largest eigenvalue, Adam"].value == pytest.approx(scaled)
    assert slope["gradient norm"].value == pytest.approx(np.hypot(1.2, 0.2))
    assert found.provenance.settings["instruments"] == ["curvature", "stability", "gradient"]
    assert "instruments" not in la.survey(bowl(), points=3, span=0.5).provenance.settings


def test_every_number_has_an_error_or_a_reason():
    found = la.survey(bowl(), points=3, span=0.5, instruments="all", lr=0.1)
    assert list(found.findings) == [tool.name for tool in instruments()]
    for finding in found.findings.values():
        estimates = finding.estimates()
        assert all(np.isfinite(e.error) or e.why_no_error for e in estimates)
        assert len({e.name for e in estimates}) == len(estimates)
        assert finding.results or finding.why_not
    assert "one integer per example" in found.findings["classes"].why_not
    assert "two checkpoints" in found.findings["similarity"].why_not
    assert "the number of parameters" in found.findings["sample_size"].why_not
    assert "losses" in found.findings["gradient_conflict"].missing
    assert "gradients" in found.findings["gradient_conflict"].results


def test_without_a_rate_the_edge_says_what_it_lacks():
    found = la.survey(bowl(), points=3, span=0.5, instruments="stability")
    assert found.findings["stability"].why_not.startswith(
        "no learning rate was given; pass lr="
    )


def test_an_optimizer_brings_its_own_scale():
    ground = bowl()
    optimizer = torch.optim.SGD(ground.model.parameters(), lr=0.25, momentum=0.5)
    found = la.survey(ground, points=3, span=0.5, instruments="stability", optimizer=optimizer)
    edge = found.part("stability", "optimizer")
    assert (edge.sharpness, edge.rule) == (pytest.approx(1.0), "momentum")


def test_findings_come_back_whole(tmp_path):
    case = cases.make(cases.mlp)
    here = case.objective().params
    points = [{n: v + 0.1 * k * (v + k) for n, v in here.items()} for k in (2, 1, 0)]
    found = la.survey(
        case.objective(),
        points=5,
        checkpoints=points,
        instruments=(*QUICK, "similarity", "gradient_conflict"),
        lr=0.1,
    )
    back = la.load(found.save(tmp_path / "s.nc"))
    assert list(back.findings) == list(found.findings)
    for name, finding in found.findings.items():
        for other in (back.findings[name], from_bytes(to_bytes(finding))):
            assert repr(values(other)) == repr(values(finding))
            assert (other.missing, other.seconds) == (finding.missing, finding.seconds)
    assert 0 < values(found.findings["similarity"])["CKA with half-way"].value <= 1.01


def test_what_was_found_before_a_kill_is_not_measured_again(tmp_path):
    ledger, measured = tmp_path / "s.resume", []

    def stage(title, done, total):
        measured.append((title, done, total))
        if done == 2:
            raise KeyboardInterrupt

    options = {"points": 3, "span": 0.5, "instruments": QUICK, "lr": 0.1}
    with pytest.raises(KeyboardInterrupt):
        la.survey(bowl(), resume=ledger, stage=stage, **options)
    assert measured == [
        ("Edge of stability", 0, 3),
        ("Gradient and noise", 1, 3),
        ("Representations", 2, 3),
    ]
    again = la.survey(bowl(), resume=ledger, **options)
    third = la.survey(bowl(), resume=ledger, **options)
    whole = la.survey(bowl(), **options)
    for name in QUICK:
        # Wall times are those of the first measurement: nothing ran twice.
        assert again.findings[name].seconds == third.findings[name].seconds
        assert repr(values(whole.findings[name])) == repr(values(again.findings[name]))
    with pytest.raises(ResumeError, match="belongs to another run: lr"):
        la.survey(bowl(), resume=ledger, **options | {"lr": 0.2})
    instruments_ledger(ledger).write_bytes(b"not a ledger")
    with pytest.raises(ResumeError, match="is not a resume file"):
        la.survey(bowl(), resume=ledger, **options)


def test_a_damaged_finding_is_named():
    found = la.survey(bowl(), points=3, span=0.5, instruments="gradient").findings["gradient"]
    with pytest.raises(ResumeError, match="is damaged"):
        from_bytes(to_bytes(found)[:-64])


def test_eigenvector_planes_rise_by_their_eigenvalues():
    ground = bowl(start=(0.0, 0.0))
    plane = eigen_plane(ground)
    assert plane.labels[0] == "eigenvector 1 (λ = 4)"
    land = la.map_plane(ground, plane, span=1.0, points=3, adaptive=False)
    np.testing.assert_allclose(land.values[:, 1], [2, 0, 2], atol=1e-9)
    np.testing.assert_allclose(land.values[1, :], [0.5, 0, 0.5], atol=1e-9)
    found = la.survey(bowl(), plane="eigen", points=5)
    assert found.landscape.labels[1] == "eigenvector 2 (λ = 1)"
    assert found.landscape.provenance.settings["plane"]["kind"] == "eigen"
    with pytest.raises(ArgumentError, match="`dimension` must be 1, 2 or 3"):
        eigen_plane(ground, dimension=4)


def test_a_plane_of_eigenvectors_needs_two_derivatives():
    def loss(model, batch):
        return F.pdist(model(batch)).mean()

    ground = la.Objective(nn.Linear(2, 1), loss, [torch.eye(2)])
    with pytest.raises(LossError, match="pdist_backward has no second derivative"):
        la.survey(ground, plane="eigen", points=3)


def test_the_head_and_its_features():
    case = cases.make(cases.mlp)
    head = read_head(case.objective())
    hidden = [F.relu(case.model[1](case.model[0](x))) for x, _ in case.batches]
    torch.testing.assert_close(head.features, torch.cat(hidden).double())
    assert head.name == "3"
    assert torch.equal(head.weight, case.model[3].weight)
    tokens = read_head(cases.make(cases.tied).objective())
    assert tokens.features.shape == (9, 6)
    assert tokens.bias is None


def test_warm_adam_stands_still():
    ground = bowl()
    before = {name: value.clone() for name, value in ground.params.items()}
    optimizer = warm_adam(ground, 0.1)
    (state,) = optimizer.state.values()
    torch.testing.assert_close(state["exp_avg_sq"], torch.tensor([[2.88, 0.08]]).double())
    assert torch.equal(ground.params["weight"], before["weight"])
    assert ground.model.weight.grad is None
    few = la.Objective(ground.model, ground.loss, [ground.batches[0][:5]])
    with pytest.raises(ArgumentError, match="need 8 sets of examples; there are 5"):
        warm_adam(few, 0.1)


def test_a_trained_adam_needs_no_second_moments_of_other_sets():
    # Too few sets of examples to make any up.
    full = bowl()
    ground = la.Objective(full.model, full.loss, [full.batches[0][:5]])
    optimizer = torch.optim.AdamW(ground.model.parameters(), lr=0.1)
    untrained = la.survey(ground, points=3, span=0.5, lr=0.1, optimizer=optimizer)
    assert "need 8 sets" in " ".join(untrained.findings["stability"].missing.values())
    ground.loss(ground.model, ground.batches[0]).mean().backward()
    optimizer.step()
    found = la.survey(ground, points=3, span=0.5, lr=0.1, optimizer=optimizer)
    assert not found.findings["stability"].missing
    assert set(found.findings["stability"].results) == {"descent", "optimizer"}


def test_pages_need_no_curvature(tmp_path):
    found = la.survey(bowl(), points=3, span=0.5, instruments="gradient")
    page = la.write_report(replace(found, title="<i>"), tmp_path / "r.html").read_text()
    assert "Steps from here" in page
    assert 'id="curvature"' not in page
