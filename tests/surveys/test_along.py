"""Surveys along a training: parallel planes, one grid, no trace on the model."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

import lossatlas as la
from lossatlas.errors import ArgumentError, FileError
from lossatlas.surveys.along import weights_at


@pytest.fixture
def task():
    torch.manual_seed(0)
    layers = torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4), torch.nn.Linear(4, 2)
    model = torch.nn.Sequential(*layers).eval()
    batch = torch.randn(20, 3), torch.randint(2, (20,))
    return la.Objective(model, la.supervised(F.cross_entropy), [batch])


def path_of(objective, count=4):
    generator, states = torch.Generator().manual_seed(1), []
    state = {name: value.clone() for name, value in objective.model.state_dict().items()}
    for _ in range(count):
        for name, value in state.items():
            if name.endswith("running_var"):
                state[name] = value * 1.1
            elif value.is_floating_point():
                state[name] = value + 0.2 * torch.randn(value.shape, generator=generator)
        states.append({name: value.clone() for name, value in state.items()})
    return states


def test_each_map_holds_the_loss_of_its_checkpoint_where_it_lies(task):
    states = path_of(task)
    found = list(la.survey_along(task, states, points=9, adaptive=False, steps=[1, 3, 4, 9]))
    assert [s.provenance.settings["step"] for s in found] == [1, 3, 4, 9]
    for k, (survey, state) in enumerate(zip(found, states, strict=True)):
        land = survey.landscape
        assert survey.loss.value == pytest.approx(task.value(state), rel=1e-6)
        for axis, first in zip(land.axes, found[0].landscape.axes, strict=True):
            np.testing.assert_array_equal(axis, first)
        way = land.landmarks["trajectory"]
        place = int(np.abs(way - weights_at(survey)).sum(axis=1).argmin())
        assert place == k
    # A map through the checkpoint itself: its loss there, not that of the common plane.
    one = la.survey(
        task, plane=_through(task, states, found[1]), points=3, span=1e-4, adaptive=False
    )
    assert one.landscape.values[1, 1] == pytest.approx(task.value(states[1]), rel=1e-5)


def test_the_change_is_paired_with_the_first_checkpoint(task):
    states = path_of(task)
    found = list(la.survey_along(task, states, points=3))
    assert found[0].change.value == 0.0
    for survey, state in zip(found[1:], states[1:], strict=True):
        gaps = task.example_losses(state) - task.example_losses(states[0])
        assert survey.change.value == pytest.approx(float(gaps.mean()), rel=1e-5)
        error = float(gaps.std(correction=1)) / len(gaps) ** 0.5
        assert survey.change.stderr == pytest.approx(error, rel=1e-5)


def _through(task, states, survey):
    from lossatlas.landscape.checkpoints import plane_of, states_of
    from lossatlas.surveys.along import _parallel

    split = states_of(task, states)
    plane = _parallel(plane_of(split), split[1], 1)
    at = weights_at(survey)
    here = plane.point(at)
    for name, value in split[1].params.items():
        torch.testing.assert_close(here[name], value, rtol=1e-4, atol=1e-5)
    from dataclasses import replace

    return replace(plane, origin={n: here[n] for n in plane.origin}, bounds=None)


def test_the_model_is_left_as_it_was(task):
    before = {name: value.clone() for name, value in task.model.state_dict().items()}
    where = {name: value.data_ptr() for name, value in task.model.named_parameters()}
    surveys = la.survey_along(task, path_of(task), points=3)
    next(surveys)
    for name, value in task.model.state_dict().items():
        assert torch.equal(value, before[name])
    assert where == {n: v.data_ptr() for n, v in task.model.named_parameters()}


def test_what_is_kept_is_read_and_what_differs_is_made_again(task, tmp_path):
    states = path_of(task)
    first = list(la.survey_along(task, states, points=3, folder=tmp_path))
    again = list(la.survey_along(task, states, points=3, folder=tmp_path))
    assert first == again
    assert not list(tmp_path.glob("*.resume*"))
    finer = list(la.survey_along(task, states, points=5, folder=tmp_path))
    assert finer[0].landscape.values.shape == (5, 5)
    # A result of another kind in the place of a survey is left alone.
    finer[0].tree.save(tmp_path / "00000000.nc")
    with pytest.raises(FileError, match="holds a MergeTree, not a survey"):
        next(la.survey_along(task, states, points=5, folder=tmp_path))


def test_too_few_checkpoints_or_odd_steps_are_named(task):
    states = path_of(task, 3)
    with pytest.raises(ArgumentError, match="checkpoints"):
        la.survey_along(task, states[:2])
    with pytest.raises(ArgumentError, match="`steps` must be 3 growing numbers"):
        la.survey_along(task, states, steps=[1, 1, 2])
