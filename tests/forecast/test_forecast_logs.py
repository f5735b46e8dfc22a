"""Logs as Lightning, W&B and crashed runs leave them."""

import numpy as np
import pytest

from lossatlas import forecast
from lossatlas.errors import DataError, UnknownNameError
from lossatlas.forecast.readers import kind_of_file


def write(path, text):
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    return path


def test_lightning_metrics_with_interleaved_rows(tmp_path):
    path = write(
        tmp_path / "version_0" / "metrics.csv",
        "epoch,lr-AdamW,step,train_loss_epoch,train_loss_step,val_loss\n"
        ",0.1,9,,,\n0,,9,,3.0,\n,0.05,19,,,\n0,,19,,2.5,\n0,,19,,,2.8\n0,,19,2.7,,\n"
        ",0.05,29,,,\n1,,29,,2.2,\n",
    )
    curve = forecast.read_csv(path)
    assert curve.name == "version_0"
    assert curve.step.tolist() == [9, 19, 29]
    assert curve.loss.tolist() == [3.0, 2.5, 2.2]
    assert curve.lr[[8, 13, 18, 28]] == pytest.approx([0.1, 0.075, 0.05, 0.05])
    assert curve.notes[0] == (
        "the column 'step' was taken for the steps, 'train_loss_step' for the losses, "
        "'lr-AdamW' for the rates; `--column step=NAME` (in Python `step=`) chooses another"
    )


@pytest.mark.parametrize("name", ["trainer/global_step", "train/global_step", "global_step"])
@pytest.mark.parametrize("rate", [",train/lr", ""])
def test_steps_of_the_trainer_are_taken_before_the_rows_of_wandb(tmp_path, name, rate):
    rows = [f"{k},{50 * (k + 1)},{3 - k / 100}{',0.1' * bool(rate)}" for k in range(60)]
    path = write(tmp_path / "history.csv", "\n".join([f"_step,{name},train/loss{rate}", *rows]))
    curve = forecast.read_csv(path)
    assert curve.step.tolist() == list(range(50, 3001, 50))
    for each in (curve, curve.without_rates()):
        assert f"'{name}' was taken for the steps, 'train/loss' for the losses" in each.notes[0]
        assert ("'train/lr' for the rates" in each.notes[0]) == bool(rate)
    chosen = forecast.read_csv(path, step="_step", loss="train/loss", lr=rate[1:] or None)
    assert chosen.step[-1] == 59
    assert not any("was taken" in note for note in chosen.notes)


def test_rows_of_wandb_count_where_nothing_else_does(tmp_path):
    path = write(tmp_path / "history.csv", "_step,loss,lr\n1,3,1\n2,2,1\n")
    assert "'_step' was taken for the steps" in forecast.read_csv(path).notes[0]
    path = write(tmp_path / "plain.csv", "step,loss,lr\n1,3,1\n2,2,1\n")
    assert not forecast.read_csv(path).notes


def test_lightnings_own_logger(tmp_path):
    loggers = pytest.importorskip("pytorch_lightning.loggers")
    logger = loggers.CSVLogger(tmp_path, name="run")
    for step in range(0, 50, 10):
        logger.log_metrics({"lr-SGD": 0.1}, step=step)
        logger.log_metrics({"train_loss": 3 - step / 100}, step=step)
        if step == 20:
            logger.log_metrics({"val_loss": 9.0}, step=step)
    logger.save()
    curve = forecast.read_csv(next(tmp_path.rglob("metrics.csv")))
    assert curve.step.tolist() == [0, 10, 20, 30, 40]
    assert curve.loss[-1] == pytest.approx(2.6)
    np.testing.assert_allclose(curve.lr, 0.1)


def test_a_restart_is_written_over_and_said(tmp_path):
    rows = [(s, 3 - s / 1000) for s in range(10, 510, 10)]
    rows += [(s, 2.8 - s / 1000) for s in range(305, 700, 10)]
    text = "step,loss\n" + "".join(f"{s},{x}\n" for s, x in rows)
    curve = forecast.read_csv(write(tmp_path / "run.csv", text))
    assert (np.diff(curve.step) > 0).all()
    assert curve.loss[curve.step > 300] == pytest.approx(
        2.8 - curve.step[curve.step > 300] / 1000
    )
    assert curve.loss[curve.step <= 300] == pytest.approx(
        3 - curve.step[curve.step <= 300] / 1000
    )
    assert curve.notes == (
        "the run restarts at step 305 after 500: 20 rows of the earlier attempt left out",
    )


def test_unsorted_and_repeated_steps(tmp_path):
    text = "step,loss\n4,1.0\n3,2.0\n2,3.0\n2,3.5\n1,4.0\n"
    curve = forecast.read_csv(write(tmp_path / "run.csv", text))
    assert curve.step.tolist() == [1, 2, 3, 4]
    assert curve.loss.tolist() == [4.0, 3.5, 2.0, 1.0]
    assert "sorted" in curve.notes[0]
    assert "1 losses at a step that was logged again left out" in curve.notes[1]


def test_pieces_in_the_wrong_order_are_sorted_not_dropped(tmp_path):
    steps = [*range(500, 1000, 50), *range(50, 500, 50)]
    text = "step,loss\n" + "".join(f"{s},{3 - s / 1000}\n" for s in steps)
    curve = forecast.read_csv(write(tmp_path / "run.csv", text))
    assert curve.step.tolist() == sorted(steps)
    assert "sorted" in curve.notes[0]


def test_losses_that_are_no_numbers_are_counted(tmp_path):
    text = (
        "step,loss,lr\n1,4.0,0.1\n2,nan,0.1\n3,inf,0.1\n4,3.0,0.1\n5,null,0.1\n6,2.0,0.1\n7,1"
    )
    curve = forecast.read_csv(write(tmp_path / "run.csv", text))
    assert curve.step.tolist() == [1, 4, 6]
    assert any("2 of 5 losses are NaN or infinite" in note for note in curve.notes)
    assert any("the first at step 2" in note for note in curve.notes)
    assert any("last row is cut off" in note for note in curve.notes)
    found = forecast.fit(forecast.PowerLaw(), [curve], check=False, fixed={"alpha": 0.5})
    assert any("2 of 5 losses" in line for line in found.warnings)


def test_an_empty_column_of_rates_is_no_rate(tmp_path):
    curve = forecast.read_csv(write(tmp_path / "run.csv", "step,loss,lr\n1,3,\n2,2,\n"))
    assert curve.lr is None
    assert "the rates are not known" in curve.notes[0]


def test_wandb_tells_metrics_of_one_run_apart(tmp_path):
    names = ["trainer/global_step", "a - train/loss", "a - train/loss__MIN",
             "a - train/loss__MAX", "a - val/loss", "a - lr", "b - train/loss"]  # fmt: skip
    text = ",".join(f'"{name}"' for name in names)
    text += "\n2,2.5,2.5,2.5,9,0.05,4\n1,3,3,3,9,0.1,\n3,,,,9,0.05,3.5\n4,NaN,,,9,0.05,3\n"
    path = write(tmp_path / "wandb.csv", text + "5,2,2,2,9,0.05,2.5\n")
    assert kind_of_file(path) == "wandb"
    first, second = forecast.read_wandb(path)
    assert first.step.tolist() == [1, 2, 5]
    assert first.loss.tolist() == [3.0, 2.5, 2.0]
    assert first.lr.tolist() == [0.1, 0.05, 0.05, 0.05, 0.05]
    assert second.lr is None
    with pytest.raises(UnknownNameError, match="more than one column of 'loss'"):
        forecast.read_wandb(path, loss="loss")


def test_which_column_holds_the_losses_is_not_guessed(tmp_path):
    path = write(tmp_path / "run.csv", "step,a_loss,b_loss\n1,2,3\n2,1,2\n")
    with pytest.raises(UnknownNameError, match=r"has no column 'loss'.*name it with `loss`"):
        forecast.read_csv(path)
    both = write(tmp_path / "both.csv", "step,val_loss,test_loss\n1,2,3\n2,1,2\n")
    with pytest.raises(UnknownNameError, match="did you mean 'val_loss'"):
        forecast.read_csv(both)


def test_validation_losses_alone_are_taken_and_said(tmp_path):
    curve = forecast.read_csv(write(tmp_path / "val.csv", "step,val_loss\n1,2\n2,1\n"))
    assert curve.loss.tolist() == [2, 1]
    assert "'val_loss' for the losses" in " ".join(curve.notes) or "'val_loss' was taken" in (
        " ".join(curve.notes)
    )


def test_losses_of_exactly_zero_are_left_out_and_counted(tmp_path):
    curve = forecast.read_csv(write(tmp_path / "run.csv", "step,loss\n1,2\n2,0.0\n3,1\n"))
    assert curve.step.tolist() == [1, 3]
    assert "1 of 3 losses are exactly 0 and left out" in " ".join(curve.notes)


def test_a_log_of_nothing_but_nan_is_named(tmp_path):
    path = write(tmp_path / "run.csv", "step,loss\n1,nan\n2,nan\n")
    with pytest.raises(DataError, match="2 of 2 losses are NaN"):
        forecast.read_csv(path)


def test_points_without_a_value_are_counted(tmp_path):
    path = write(tmp_path / "p.csv", "N,loss\n1e6,3.0\n,2.9\n1e7,2.5\n1e8,nan\n")
    curve = forecast.read_points(path, size="N")
    assert curve.size.tolist() == [1e6, 1e7]
    assert any("1 row without `size`" in note for note in curve.notes)
