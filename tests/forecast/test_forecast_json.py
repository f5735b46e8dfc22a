"""Logs in JSON: one object a line, or arrays of objects, as loggers write them."""

import json
import math

import pytest

from lossatlas import forecast
from lossatlas.errors import DataError, FileError, UnknownNameError
from lossatlas.forecast.readers import kind_of_file

ROWS = [
    {"_step": k, "_runtime": 0.1 * k, "_timestamp": 1.7e9 + k, "train/global_step": 5 * k + 5,
     "train/loss": 3 / (k + 1), "train/learning_rate": 1e-3}
    for k in range(6)
]  # fmt: skip


def lines(path, rows, end="\n"):
    path.write_text("\n".join(json.dumps(row) for row in rows) + end)
    return path


@pytest.mark.parametrize("name", ["wb.jsonl", "wb.ndjson", "wb.json", "wb.txt"])
def test_a_history_of_weights_and_biases(tmp_path, name):
    path = lines(tmp_path / name, ROWS)
    assert kind_of_file(path) == "json"
    curve = forecast.read_json(path)
    assert curve.step.tolist() == [5, 10, 15, 20, 25, 30]
    assert curve.loss.tolist() == [row["train/loss"] for row in ROWS]
    assert curve.lr == pytest.approx(1e-3)
    assert "'train/global_step' was taken for the steps" in curve.notes[0]


@pytest.mark.parametrize("indent", [None, 2])
def test_an_array_of_objects(tmp_path, indent):
    path = tmp_path / "history.json"
    path.write_text(json.dumps(ROWS, indent=indent))
    assert kind_of_file(path) == "json"
    assert forecast.read_json(path).loss.size == len(ROWS)


def test_json_and_csv_tell_the_same(tmp_path):
    plain = [{"step": k, "loss": 3 / k, "lr": 1e-3} for k in range(1, 9)]
    table = "\n".join(["step,loss,lr", *(",".join(map(repr, row.values())) for row in plain)])
    (tmp_path / "run.csv").write_text(table)
    path = lines(tmp_path / "run.jsonl", plain)
    assert forecast.read_json(path) == forecast.read_csv(tmp_path / "run.csv")


def test_a_log_as_programs_write_it(tmp_path):
    rows = [
        {"step": 1, "train": {"loss": 4.0, "hist": [1, 2]}, "text": "begins"},
        {"step": 2, "eval": {"loss": 5.0}},
        {"step": 3, "train": {"loss": math.nan}},
        {"step": 4, "train": {"loss": "NaN"}},
        {"step": 5, "train": {"loss": None}},
        {"step": 6, "train": {"loss": 3.0}, "opt": {"lr": 0.1}},
        {"step": 7, "train": {"loss": 2.5}, "done": True},
    ]
    path = lines(tmp_path / "odd.jsonl", rows, end='\n{"step": 8, "tra')
    curve = forecast.read_json(path)
    assert curve.step.tolist() == [1, 6, 7]
    said = " ".join(curve.notes)
    assert "the last row is cut off and left out" in said
    assert "2 of 5 losses are NaN or infinite and left out" in said
    assert curve.lr.size == 7


def test_entries_of_the_hugging_face_trainer(tmp_path):
    rows = [{"loss": 3.0 / k, "learning_rate": 1e-4, "epoch": k / 9, "step": 10 * k}
            for k in range(1, 5)]  # fmt: skip
    rows += [{"eval_loss": 1.0, "epoch": 1, "step": 40}, {"train_runtime": 3.0, "step": 40}]
    curve = forecast.read_json(lines(tmp_path / "log.jsonl", rows))
    assert curve.step.tolist() == [10, 20, 30, 40]
    assert curve.lr[9] == 1e-4


def test_a_state_of_the_trainer_is_still_one(tmp_path):
    path = tmp_path / "trainer_state.json"
    for indent in (None, 2):
        path.write_text(json.dumps({"log_history": [{"step": 1, "loss": 2.0}]}, indent=indent))
        assert kind_of_file(path) == "trainer"
    path.write_text(json.dumps([[1.0, 1, 3.0], [2.0, 2, 2.5]]))
    assert kind_of_file(path) == "tensorboard"


def test_what_is_no_log_is_named(tmp_path):
    rows = [{"step": 1, "loss": 2.0}, {"step": 2, "loss": 1.0}]
    with pytest.raises(UnknownNameError, match="no column 'lss'"):
        forecast.read_json(lines(tmp_path / "a.jsonl", rows), loss="lss")
    path = tmp_path / "b.jsonl"
    path.write_text('{"step": 1, "loss": 2}\nINFO: epoch 2\n{"step": 2, "loss": 1}\n')
    with pytest.raises(FileError, match="line 2, is not JSON"):
        forecast.read_json(path)
    path.write_text('{"step": 1, "loss": 2}\n[1, 2]\n')
    with pytest.raises(DataError, match="entry 2, is no JSON object"):
        forecast.read_json(path)
    path.write_text("")
    with pytest.raises(DataError, match="is empty"):
        forecast.read_json(path)
    epochs = [{"epoch": 0.5 * k, "loss": 3 / k} for k in (1, 2, 3)]
    with pytest.raises(UnknownNameError, match="epochs are none"):
        forecast.read_json(lines(path, epochs))


def test_a_history_read_as_a_chart_keeps_its_rates(tmp_path):
    path = tmp_path / "wb.csv"
    body = [",".join(str(value) for value in row.values()) for row in ROWS]
    path.write_text("\n".join([",".join(ROWS[0]), *body]))
    (chart,) = forecast.read_wandb(path)
    assert chart.name == "wb"
    assert chart.lr is not None
    assert chart.loss.tolist() == forecast.read_csv(path).loss.tolist()
