"""Choosing among checkpoints on data where the best is known."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import lossatlas as la
from lossatlas.errors import ArgumentError, NonFiniteError, ResumeError, StructureError
from lossatlas.report.page import page_of
from lossatlas.text import with_ends
from lossatlas.weights import choose
from lossatlas.weights.behind import _covariance, behind_best
from lossatlas.weights.paired import PairedLosses


def points(*slopes):
    return [{"weight": torch.tensor([[float(w)]])} for w in slopes]


def objective(examples=200, seed=0, noise=1.0):
    draw = torch.Generator().manual_seed(seed)
    inputs = torch.randn(examples, 1, generator=draw)
    targets = inputs + noise * torch.randn(examples, 1, generator=draw)
    return la.Objective(
        nn.Linear(1, 1, bias=False), la.supervised(F.mse_loss), [(inputs, targets)]
    )


def test_the_best_is_found_and_the_mean_of_its_neighbors():
    found = choose(objective(), *points(0.0, 0.5, 1.5, 3.0))
    assert found.best == "mean of checkpoint 2 and checkpoint 3"
    assert "checkpoint 1" not in found.equal
    assert found.best in found.equal
    assert found.gains[1].interval()[1] < 0
    assert any("1 of 3 means of neighbors is better" in text for text in found.sentences())
    # What the mean is compared with is the best that there is a file of.
    assert found.headline().startswith(f"Use the {found.best} (loss ")
    assert ": indistinguishable from the best checkpoint, checkpoint 2 (+" in found.headline()
    clear = choose(objective(2000), *points(0.0, 2.0), sharpness=False)
    assert ": better than the best checkpoint, checkpoint " in clear.headline()
    inputs, _ = objective().batches[0]
    curvature = 2 * float(inputs.square().mean())
    assert [e.value for e in found.sharpness] == pytest.approx([curvature] * 4, rel=1e-4)


def test_the_lowest_losses_come_first():
    found = choose(objective(), *points(3.0, 2.5, 0.0, 1.0), sharpness=False)
    losses = [e.value for e in found.estimates() if e.name.startswith("loss of")]
    assert losses == sorted(losses)
    assert found.estimates()[0].name == f"loss of {found.best}"


def test_differences_are_paired():
    data = objective()
    found = choose(data, *points(0.9, 1.1), averages=False, sharpness=False)
    losses = [data.example_losses(p).numpy() for p in points(0.9, 1.1)]
    first, second = (each.mean() for each in losses)
    worse = int(first < second)
    difference = losses[worse] - losses[1 - worse]
    behind = found.behind[worse]
    assert behind.value == pytest.approx(difference.mean())
    assert behind.stderr == pytest.approx(difference.std(ddof=1) / math.sqrt(200))
    assert behind.stderr < found.losses[0].stderr / 2
    assert found.behind[1 - worse].value == 0


def test_a_best_that_was_chosen_by_luck_widens_the_lower_ends():
    # Seven equal candidates: whichever is lowest is so by chance.
    draw, losses = np.random.default_rng(0), np.zeros((7, 60))
    judged = PairedLosses(objective(60))
    judged.weights = np.ones(60)
    missed, plain = [0, 0], 0
    for seed in range(300):
        losses = draw.normal(size=losses.shape)
        best = int(losses.sum(1).argmin())
        found = behind_best(judged, list(losses), best, range(7), seed)
        for k, far in enumerate(found):
            if k != best:
                low, high = far.interval()
                missed = [missed[0] + (low > 0), missed[1] + (high < 0)]
                plain += replace(far, ends=None).interval()[0] > 0
    assert plain / 1800 > 0.07
    assert missed[0] / 1800 < 0.05
    assert missed[1] == 0
    assert found[best].interval() == (0, 0)


def test_draws_for_the_best_have_the_covariance_of_ratios():
    draw = np.random.default_rng(1)
    weights, values = draw.integers(1, 5, 40).astype(float), draw.normal(size=(3, 40))
    sums = list(values * weights)
    judged = PairedLosses(objective(40))
    judged.weights = weights
    found = _covariance(weights, sums)
    for k in range(3):
        for j in range(k):
            square = found[k, k] + found[j, j] - 2 * found[k, j]
            assert math.sqrt(square) == pytest.approx(judged.mean(sums[k] - sums[j]).stderr)


def test_a_clear_winner_leaves_the_paired_interval():
    found = choose(objective(), *points(0.0, 1.0), averages=False, sharpness=False)
    (far,) = [e for e in found.behind if e.value]
    low, high = replace(far, ends=None).interval()
    assert far.interval() == pytest.approx((low, high))


def test_what_is_said_of_the_best_has_its_difference_and_its_interval():
    clear = choose(objective(), *points(0.0, 1.0, 3.0), averages=False, sharpness=False)
    close = choose(objective(), *points(0.0, 0.9, 1.1), averages=False, sharpness=False)
    for found in (clear, close):
        gaps = dict(zip(found.names, found.decisive, strict=True))
        near = min((n for n in gaps if n != found.best), key=lambda n: gaps[n].value)
        low, high = gaps[near].interval()
        shown, ends = with_ends(gaps[near].value, low, high)
        assert f"+{shown} {ends}" in found.headline()
        assert any(f"{near} (+{shown} {ends})" in text for text in found.sentences())
        assert found.headline().startswith(f"Use {found.best} (loss ")
        assert found.headline() == found.sentences()[0] == page_of(found).headline
        meaning = "allows for 2 comparisons with the best (95 % for all together)"
        assert any(meaning in text for text in found.sentences())
        assert ("indistinguishable" in found.headline()) == (low <= 0)
    assert "by more than the error" not in " ".join(clear.sentences())


def test_few_large_losses_are_a_caveat():
    draw = torch.Generator().manual_seed(0)
    inputs = torch.randn(20, 1, generator=draw)
    targets = inputs - torch.rand(20, 1, generator=draw).log() - 1
    data = la.Objective(
        nn.Linear(1, 1, bias=False), la.supervised(F.mse_loss), [(inputs, targets)]
    )
    found = choose(data, *points(1.0, 1.1), sharpness=False)
    assert "dominated by few of 20 examples" in found.losses[0].caveat
    assert not choose(objective(2000), *points(1.0), sharpness=False).losses[0].caveat


def test_the_true_best_is_kept_as_often_as_promised():
    # Slopes 0.9 and 1.1 are equally good and 1.0 is the best by a little.
    candidates, kept = points(0.8, 0.9, 1.0, 1.1, 1.2), 0
    for seed in range(200):
        found = choose(objective(100, seed), *candidates, averages=False, sharpness=False)
        kept += "checkpoint 3" in found.equal
    assert kept >= 185


def test_one_checkpoint_and_a_diverged_one():
    alone = choose(objective(), *points(1.0))
    assert (alone.best, alone.equal, alone.gains) == ("checkpoint 1", ("checkpoint 1",), ())
    assert "the only checkpoint" in alone.sentences()[0]
    far = choose(objective(), *points(1.0, 1e30), averages=False, sharpness=False)
    assert far.equal == ("checkpoint 1",)
    single = choose(objective(examples=1), *points(0.0, 1.0), sharpness=False)
    assert set(single.names) == set(single.equal)
    assert all(math.isfinite(e.error) or e.why_no_error for e in single.estimates())


def test_bad_input_is_named():
    with pytest.raises(StructureError, match="`checkpoints` must hold at least one"):
        choose(objective())
    with pytest.raises(StructureError):
        choose(objective(), {"other": torch.ones(1, 1)})
    with pytest.raises(NonFiniteError):
        choose(objective(), *points(1.0, math.nan))
    lost = la.Objective(
        nn.Linear(1, 1, bias=False),
        la.supervised(F.mse_loss),
        [(torch.full((4, 1), math.nan), torch.ones(4, 1))],
        check=False,
    )
    with pytest.raises(NonFiniteError, match="no checkpoint has a finite loss"):
        choose(lost, *points(0.5, 1.0), sharpness=False)
    with pytest.raises(ArgumentError, match="`level`"):
        choose(objective(), *points(1.0), level=1.0)
    with pytest.raises(ArgumentError, match="`localization`"):
        choose(objective(), *points(1.0), localization=0.0)
    with pytest.raises(ArgumentError, match="`names` must be one a checkpoint; got 2 for 1"):
        choose(objective(), *points(1.0), names=("a", "b"))


def test_checkpoints_of_another_architecture_are_named():
    other = {"0.weight": torch.ones(2, 1), "0.bias": torch.ones(2)}
    with pytest.raises(StructureError, match=r"`checkpoint 2` does not fit: .*weight"):
        choose(objective(), *points(1.0), other)


def test_a_stopped_run_goes_on_with_the_same_bits(tmp_path):
    data, given, kept = objective(), points(0.5, 1.0, 2.0), tmp_path / "choice.resume"

    class StoppedError(Exception):
        pass

    def stop(done, total, label):
        assert total == 5
        if done == 2:
            raise StoppedError(label)

    with pytest.raises(StoppedError, match="checkpoint 2"):
        choose(data, *given, resume=kept, progress=stop)
    calls = []
    again = choose(data, *given, resume=kept, progress=lambda *told: calls.append(told))
    assert again == choose(data, *given)
    assert len(calls) == 5
    with pytest.raises(ResumeError):
        choose(data, *points(0.5, 1.0, 3.0), resume=kept)


def test_coefficients_are_those_of_the_instrument_or_a_reason():
    from lossatlas.curvature import learning_coefficient

    data = objective()
    inputs, targets = data.batches[0]
    best = float((inputs * targets).sum() / inputs.square().sum())
    found = choose(data, *points(best, 9.0), averages=False, sharpness=False, localization=50.0)
    near, far = found.coefficients
    alone = learning_coefficient(data, 2, None, 50.0, params=points(best)[0])
    assert near == alone.value
    # With one weight the control leaves no scatter but the rounding of float32.
    assert near.value == pytest.approx(alone.twin.value, rel=1e-4)
    assert math.isnan(far.value)
    assert "not at a minimum" in far.why_no_error
    names = {e.name for e in found.estimates()}
    assert "learning coefficient of checkpoint 1" in names
    assert {f.name for f in found.figures()} >= {"curve", "learning coefficients"}


def test_it_is_stored_drawn_and_leaves_the_model(tmp_path):
    data = objective()
    before = data.params["weight"].clone()
    found = choose(data, *points(0.0, 1.0))
    assert torch.equal(before, data.params["weight"])
    assert la.load(found.save(tmp_path / "c.nc")) == found
    for figure in found.figures():
        assert found.plot(figure.name) is not None
        assert found.plot(figure.name, backend="plotly").data
    assert len({e.name for e in found.estimates()}) == len(found.estimates())
    assert np.isfinite([e.error for e in found.losses]).all()


def test_running_statistics_of_a_mean_are_a_note():
    model = nn.Sequential(nn.Linear(1, 4), nn.BatchNorm1d(4), nn.Linear(4, 1))
    draw = torch.Generator().manual_seed(0)
    batch = torch.randn(8, 1, generator=draw), torch.zeros(8, 1)
    data = la.Objective(model, la.supervised(F.mse_loss), [batch])
    here = data.params
    found = choose(data, here, {n: 2 * v for n, v in here.items()}, sharpness=False)
    assert "recalibrated" in found.sentences()[-1]


def test_the_picture_and_the_page_show_the_differences_that_decided():
    found = choose(objective(), *points(0.0, 0.9, 1.1, 3.0), sharpness=False)
    share = 1 - 0.05 / (len(found.names) - 1)
    for name, plain, shown in zip(found.names, found.behind, found.decisive, strict=True):
        low, high = shown.interval()
        assert (low, high) == replace(plain, ends=None).interval(share)
        # What is said and what is drawn agree.
        assert (low <= 0) == (name in found.equal)
    picture = found.figures()[0].plotly()
    drawn = {trace.name for trace in picture.data}
    assert {"may be the best", "worse than the best"} <= drawn
    labels = picture.layout.yaxis.ticktext
    assert any("mean of checkpoint 1 and" in label and "<br>" in label for label in labels)
    page = page_of(found)
    assert page.hero[0].name == "behind the best"
    (table,) = page.sections[0].tables
    verdicts = dict(
        zip((row[0] for row in table.rows), (r[3] for r in table.rows), strict=True)
    )
    assert verdicts[found.best] == "lowest loss"
    assert verdicts["checkpoint 4"] == "worse"
    assert all(tile.label.endswith("minus the best") for tile in page.sections[0].tiles)
    assert "averaging" in page.questions[1].question
    alone = page_of(choose(objective(), *points(1.0), sharpness=False))
    assert alone.headline == "The only checkpoint is checkpoint 1."
    assert alone.sections[0].tables == ()


def test_one_batch_mean_has_an_unknown_error_and_tells_nothing_apart():
    data = objective()
    whole = la.Objective(
        data.model, lambda model, batch: F.mse_loss(model(batch[0]), batch[1]), data.batches
    )
    found = choose(whole, *points(0.0, 0.9, 3.0))
    assert found.unknown_error == "one batch mean has no spread; return one loss an example"
    assert set(found.equal) == set(found.names)
    page = page_of(found)
    said = " ".join([*found.sentences(), page.headline, *(c.value for c in page.questions)])
    said += " ".join(figure.caption for figure in found.figures())
    for wrong in ("cannot be told", "95 %", "97.5 %", "may be the best", "0 of 2"):
        assert wrong not in said
    assert "the error is unknown: one batch mean has no spread" in said
    assert "There are no intervals: one batch mean" in said
    assert choose(data, *points(0.0, 0.9)).unknown_error == ""


def test_the_page_names_the_flattest_of_the_result():
    found = choose(objective(), *points(0.95, 1.05))
    cards = {card.question: card.value for card in page_of(found).questions}
    assert cards["Which of them is flattest?"] == found.flattest
    plain = page_of(choose(objective(), *points(0.95, 1.05), sharpness=False))
    assert "Which of them is flattest?" not in {card.question for card in plain.questions}
