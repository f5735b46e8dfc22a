"""`lossatlas weights FILE`."""

import json

import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import save_file

import lossatlas as la
from lossatlas.cli.weights import command
from lossatlas.errors import FileError
from lossatlas.weights import weight_spectra


@pytest.fixture
def file(tmp_path):
    draw = torch.Generator().manual_seed(0)
    tensors = {"wide": torch.randn(60, 90, generator=draw), "bias": torch.ones(3)}
    save_file(tensors, tmp_path / "m.safetensors")
    return tmp_path / "m.safetensors"


def call(*arguments):
    done = CliRunner().invoke(command, list(map(str, arguments)), catch_exceptions=False)
    assert done.exit_code == 0
    return done.stdout


def test_a_table_and_a_file(file, tmp_path):
    shown = call(file, "--out", tmp_path / "out")
    assert "wide (60 x 90)" in shown
    assert "a power law is" in shown
    assert la.load(tmp_path / "out" / "spectra.nc") == weight_spectra(file)


def test_json_holds_numbers_reasons_and_settings(file):
    told = json.loads(call(file, "--json", "--resampled", 10))
    assert told["estimates"]["wide_spikes"]["value"] == 0
    assert told["skipped"] == {"bias": "fewer than two axes"}
    assert told["settings"]["resampled"] == 10
    assert json.loads(call(file, "--json", "--names", "bias"))["estimates"] == {}


def test_a_file_that_is_missing_is_named(tmp_path):
    with pytest.raises(FileError, match="there is no file"):
        call(tmp_path / "none.safetensors")
