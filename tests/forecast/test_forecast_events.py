"""Event files of TensorBoard, and guesses at the columns of W&B."""

import numpy as np
import pytest

from lossatlas import forecast
from lossatlas.errors import DataError, FileError, UnknownNameError
from lossatlas.forecast.readers import kind_of_file
from reference.event_files import event_file

STEPS = range(10, 200, 10)
LOSSES = [(step, "train/loss", 2 + step**-0.5) for step in STEPS]
RATES = [(step, "train/lr", 1e-3) for step in range(5, 200, 5)]
NAME = "events.out.tfevents.1.host"


@pytest.mark.parametrize("form", ["simple", "content", "values"])
def test_scalars_become_a_curve(tmp_path, form):
    rows = sorted([*LOSSES, *RATES, *[(s, "val/loss", 9.0) for s in STEPS]])
    path = tmp_path / NAME
    path.write_bytes(event_file(rows, form))
    assert kind_of_file(path) == kind_of_file(tmp_path) == "tensorboard"
    (curve,) = forecast.read_tensorboard_events(path)
    np.testing.assert_array_equal(curve.step, STEPS)
    np.testing.assert_allclose(curve.loss, [value for *_, value in LOSSES], rtol=1e-6)
    np.testing.assert_allclose(curve.lr, 1e-3, rtol=1e-6)
    assert any("tag 'train/loss' was taken" in note for note in curve.notes)


def test_a_folder_holds_several_runs_and_restarts(tmp_path):
    for run in ("a", "b/long"):
        (tmp_path / run).mkdir(parents=True)
        (tmp_path / run / NAME).write_bytes(event_file(LOSSES[:12]))
        later = [(step, tag, value + 1) for step, tag, value in LOSSES[10:]]
        (tmp_path / run / NAME.replace("1", "2")).write_bytes(event_file(later))
    curves = forecast.read_tensorboard_events(tmp_path)
    assert [curve.name for curve in curves] == ["a", "b/long"]
    assert any("restarts" in note for note in curves[0].notes)
    assert curves[0].loss[10] == pytest.approx(LOSSES[10][2] + 1)


def test_what_is_no_scalar_or_cut_off_is_left_out(tmp_path):
    path = tmp_path / NAME
    whole = event_file(LOSSES)
    path.write_bytes(whole[:-7])
    (curve,) = forecast.read_tensorboard_events(path)
    assert len(curve.step) == len(LOSSES) - 1
    assert any("cut off" in note for note in curve.notes)
    path.write_bytes(event_file(LOSSES, "text"))
    with pytest.raises(DataError, match="no scalars"):
        forecast.read_tensorboard_events(path)


@pytest.mark.parametrize("cut", range(0, 120, 7))
def test_damage_is_named(tmp_path, cut):
    path = tmp_path / NAME
    data = bytearray(event_file(LOSSES[:2]))
    data[cut:] = b"\xff" * (len(data) - cut)
    path.write_bytes(data)
    with pytest.raises((FileError, DataError)):
        forecast.read_tensorboard_events(path)


def test_mistakes_are_named(tmp_path):
    with pytest.raises(FileError, match="holds no event files"):
        forecast.read_tensorboard_events(tmp_path)
    path = tmp_path / NAME
    path.write_bytes(event_file(LOSSES))
    with pytest.raises(UnknownNameError, match="did you mean 'train/loss'"):
        forecast.read_tensorboard_events(path, loss="train/los")
    with pytest.raises(UnknownNameError, match="no column 'lr'"):
        forecast.read_tensorboard_events(path, lr="lr")
    with pytest.raises(FileError, match="read_tensorboard_events"):
        forecast.read_tensorboard(path)


def test_files_of_the_writer_of_torch(tmp_path):
    pytest.importorskip("tensorboard", reason="TensorBoard is not installed")
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(tmp_path) as writer:
        for step, tag, value in [*LOSSES, *RATES]:
            writer.add_scalar(tag, value, step)
    (curve,) = forecast.read_tensorboard_events(tmp_path)
    np.testing.assert_allclose(curve.loss, [value for *_, value in LOSSES], rtol=1e-6)
    assert curve.lr is not None


@pytest.mark.parametrize(
    "header",
    [
        "Step,a - train/total_loss,a - train/total_loss__MIN,a - train/total_loss__MAX",
        "trainer/global_step,a - loss",
        "Step,a - train/total_loss,a - val/loss",
    ],
)
def test_columns_of_a_chart_are_guessed(tmp_path, header):
    path = tmp_path / "chart.csv"
    rest = len(header.split(",")) - 2
    rows = [f"{step},{value}{f',{9 + step}' * rest}" for step, _, value in LOSSES]
    path.write_text("\n".join([header, *rows]))
    assert kind_of_file(path) == "wandb"
    (curve,) = forecast.read_wandb(path)
    assert curve.loss[0] == pytest.approx(LOSSES[0][2])
    assert any("was taken" in note for note in curve.notes)


def test_a_rate_is_found_behind_a_slash(tmp_path):
    path = tmp_path / "chart.csv"
    rows = [f"{step},{value},0.1" for step, _, value in LOSSES]
    path.write_text("\n".join(["Step,a - train/loss,a - charts/learning_rate", *rows]))
    (curve,) = forecast.read_wandb(path)
    assert curve.lr[0] == 0.1
