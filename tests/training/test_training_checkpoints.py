import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save, save_file
from torch import nn

from lossatlas.errors import FileError, StructureError
from lossatlas.training import build_model, load_weights


def network(width=3):
    return nn.Sequential(nn.Conv2d(1, width, 3), nn.BatchNorm2d(width), nn.Linear(4, 2))


def state_of(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def same(model, state):
    return all(torch.equal(value, state[name]) for name, value in model.state_dict().items())


def test_weights_and_buffers_come_back(tmp_path):
    source, target, path = network(), network(), tmp_path / "a.safetensors"
    source[1].running_mean.fill_(3.0)
    save_file(source.state_dict(), path)
    assert load_weights(target, path) is target
    assert same(target, state_of(source))


def test_counters_and_tied_names_may_be_missing_and_types_differ(tmp_path):
    path = tmp_path / "a.safetensors"
    source = network()
    kept = {n: v.half() for n, v in source.state_dict().items() if "num_batches" not in n}
    save_file(kept, path)
    target = load_weights(network(), path)
    assert target[0].weight.dtype == torch.float32
    assert torch.equal(target[0].weight, source[0].weight.half().float())
    gpt = build_model("chargpt(width=8, heads=2)", vocabulary=5, block=4, seed=1)
    state = gpt.state_dict()
    del state["head.weight"]
    save_file(state, path)
    other = load_weights(build_model("chargpt(width=8, heads=2)", vocabulary=5, block=4), path)
    assert torch.equal(other.head.weight, gpt.tokens.weight)


def test_weights_that_do_not_fit_change_nothing(tmp_path):
    path, target = tmp_path / "a.safetensors", network()
    before = state_of(target)
    state = network().state_dict()
    wrong = {
        "'1.running_var' has shape": state | {"1.running_var": torch.ones(4)},
        "has no entry '2.bias'": {n: v for n, v in state.items() if n != "2.bias"},
        "has no entry '3.bias'": state | {"3.bias": torch.ones(4)},
    }
    for words, content in wrong.items():
        save_file(content, path)
        with pytest.raises(StructureError, match=words) as caught:
            load_weights(target, path)
        assert str(path) in str(caught.value)
        assert same(target, before)


def test_pickles_are_refused_unopened(tmp_path):
    path = tmp_path / "a.pt"
    path.write_bytes(b"\x80\x04cos\nsystem\n")
    with pytest.raises(FileError, match=r"pickles an object of 'os\.system'"):
        load_weights(network(), path)
    renamed = path.rename(tmp_path / "a.safetensors")
    with pytest.raises(FileError, match="damaged, truncated or not safetensors"):
        load_weights(network(), renamed)
    with pytest.raises(FileError, match="there is no file"):
        load_weights(network(), tmp_path / "b.safetensors")


@given(place=st.floats(0, 1, exclude_max=True))
def test_a_file_cut_anywhere_is_named(tmp_path_factory, place):
    content = save(network().state_dict())
    path = tmp_path_factory.mktemp("cut") / "a.safetensors"
    path.write_bytes(content[: int(place * len(content))])
    target = network()
    before = state_of(target)
    with pytest.raises(FileError, match="truncated"):
        load_weights(target, path)
    assert same(target, before)
