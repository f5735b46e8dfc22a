import json

import numpy as np
import pytest

from lossatlas import forecast
from lossatlas.errors import DataError, FileError, UnknownNameError
from lossatlas.forecast.readers import kind_of_file


def write(path, text):
    path.write_text(text)
    return path


def test_a_rate_of_zero_is_read_from_tensorboard(tmp_path):
    head, text = (
        "Wall time,Step,Value\n",
        "".join(f"0,{i},{r}\n" for i, r in ((1, 1.0), (2, 0.0))),
    )
    rates = write(tmp_path / "lr.csv", head + text)
    losses = write(tmp_path / "loss.csv", f"{head}0,1,3.0\n0,2,2.5\n")
    curve = forecast.read_tensorboard(losses, rates)
    assert curve.lr.tolist() == [1.0, 0.0]
    assert curve.notes == ()
    empty = write(tmp_path / "empty.csv", f"{head}0,1,nan\n0,2,nan\n")
    with pytest.raises(DataError, match="holds no finite rate"):
        forecast.read_tensorboard(losses, empty)


def test_csv(tmp_path):
    path = write(
        tmp_path / "run.csv", "step,train_loss,lr\n1,3.0,0.1\n2,2.5,0.1\n\n4,2.0,0.05\n"
    )
    curve = forecast.read_csv(path, loss="train_loss")
    assert curve.name == "run"
    assert curve.loss.tolist() == [3.0, 2.5, 2.0]
    np.testing.assert_allclose(curve.lr, [0.1, 0.1, 0.075, 0.05])
    assert forecast.read_csv(path, loss="train_loss", lr="lr").lr is not None


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("", DataError, "is empty"),
        ("step,loss\n", DataError, "is empty"),
        ("step,los\n1,2\n2,1\n", UnknownNameError, "did you mean 'los'"),
        ("step,loss\n1,2.0\n2k,1.0\n", DataError, "row 3, column 'step': '2k' is not a number"),
        ("step,loss\n1,2.0\n2,1.0,9\n", DataError, "3 cells in row 3 but 2 columns"),
        ("step,loss\n1,2.0\n2,nan\n", DataError, "1 row .* finite loss .1 of 2 losses are NaN"),
        (
            "step,loss\n1,2.0\n2,\n",
            DataError,
            "has 1 row with a step and a finite loss; a curve",
        ),
    ],
)
def test_bad_csv_is_named(tmp_path, text, error, message):
    path = write(tmp_path / "bad.csv", text)
    with pytest.raises(error, match=message):
        forecast.read_csv(path)


def test_missing_and_binary_files_are_named(tmp_path):
    with pytest.raises(FileError, match="cannot be read as text"):
        forecast.read_csv(tmp_path / "none.csv")
    (tmp_path / "b.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(FileError, match="cannot be read as text"):
        forecast.read_csv(tmp_path / "b.csv")


def test_wandb_export(tmp_path):
    head = (
        '"Step","a - train/loss","a - train/loss__MIN","a - train/loss__MAX","b - train/loss"'
    )
    path = write(
        tmp_path / "w.csv", f'{head}\n1,"3.0","3.0","3.0",""\n2,"2.5","2.5","2.5","4.0"\n'
        '3,"","","","3.5"\n4,"2.0","2.0","2.0","3.0"\n',
    )  # fmt: skip
    first, second = forecast.read_wandb(path, loss="train/loss")
    assert (first.name, second.name) == ("a", "b")
    assert first.step.tolist() == [1, 2, 4]
    assert second.loss.tolist() == [4.0, 3.5, 3.0]
    with pytest.raises(UnknownNameError, match="did you mean 'train/loss'"):
        forecast.read_wandb(path, loss="train/los_")


def test_tensorboard_exports(tmp_path):
    table = write(
        tmp_path / "t.csv", "Wall time,Step,Value\n1.5,10,3.0\n2.5,20,2.0\n3.5,30,1.5\n"
    )
    rates = write(tmp_path / "r.json", json.dumps([[1.5, 10, 0.1], [3.5, 30, 0.2]]))
    curve = forecast.read_tensorboard(table, rates)
    assert curve.loss.tolist() == [3.0, 2.0, 1.5]
    assert curve.lr[[9, 19, 29]] == pytest.approx([0.1, 0.15, 0.2])
    with pytest.raises(DataError, match="rows of"):
        forecast.read_tensorboard(write(tmp_path / "x.json", "[[1, 2]]"))


def test_trainer_state(tmp_path):
    log = [
        {"step": 10, "loss": 3.0, "learning_rate": 1e-3},
        {"step": 10, "eval_loss": 3.2},
        {"step": 20, "loss": 2.5, "learning_rate": 5e-4},
        {"step": 20, "eval_loss": 2.9},
        {"step": 20, "train_runtime": 1.0, "train_loss": 2.7},
    ]
    folder = tmp_path / "checkpoint-20"
    folder.mkdir()
    write(folder / "trainer_state.json", json.dumps({"log_history": log}))
    curve = forecast.read_trainer_state(folder, size=1e6)
    assert curve.name == "checkpoint-20"
    assert curve.lr[[9, 14, 19]] == pytest.approx([1e-3, 7.5e-4, 5e-4])
    assert forecast.read_trainer_state(folder, loss="eval_loss").loss.tolist() == [3.2, 2.9]
    with pytest.raises(UnknownNameError, match="did you mean 'eval_loss'"):
        forecast.read_trainer_state(folder, loss="evalloss")
    with pytest.raises(FileError, match="no `log_history`"):
        forecast.read_trainer_state(write(tmp_path / "s.json", "{}"))
    with pytest.raises(FileError, match="is not JSON"):
        forecast.read_trainer_state(write(tmp_path / "s.json", "{"))


def test_points(tmp_path):
    path = write(tmp_path / "p.csv", "N,D,loss\n1e6,1e9,3.0\n1e7,1e9,2.5\n")
    curve = forecast.read_points(path, size="N", tokens="D")
    assert curve.size.tolist() == [1e6, 1e7]
    with pytest.raises(UnknownNameError, match=r"no column 'n'.*it has N, D, loss"):
        forecast.read_points(path, size="n")


@pytest.mark.parametrize(
    ("name", "text", "kind"),
    [
        ("state.json", '\n{"log_history": []}', "trainer"),
        ("scalars.json", "[[1.5, 10, 3.0]]", "tensorboard"),
        ("scalars.csv", "Wall time,Step,Value\n1.5,10,3.0\n", "tensorboard"),
        ("chart.csv", '\ufeff"Step","a - train/loss"\n1,"3.0"\n', "wandb"),
        ("steps.csv", "Step,loss\n1,3.0\n", "csv"),
        ("both.csv", "Step,loss,Value\n1,3.0,1\n", "csv"),
        ("STATE.JSON", '{"log_history": []}', "trainer"),
        ("plain.csv", "step,loss,a - b\n1,3.0,1\n", "csv"),
        ("empty.json", "", "trainer"),
        ("empty.csv", "", "csv"),
    ],
)
def test_the_program_that_wrote_a_file_is_told_from_its_start(tmp_path, name, text, kind):
    assert kind_of_file(write(tmp_path / name, text)) == kind


def test_what_cannot_be_read_is_left_to_the_reader(tmp_path):
    (tmp_path / "noise.csv").write_bytes(b"\xff\xfe\x00")
    assert kind_of_file(tmp_path / "noise.csv") == "csv"
    assert kind_of_file(tmp_path / "missing.csv") == "csv"
    assert kind_of_file(tmp_path / "a\0b.csv") == "csv"
    assert kind_of_file(tmp_path / ("x" * 5000)) == "csv"
    assert kind_of_file(tmp_path) == "trainer"
