import numpy as np
import pytest
import torch
from torch import nn

from lossatlas.errors import (
    ArgumentError,
    FileError,
    MissingDependencyError,
    ModelError,
    UnknownNameError,
)
from lossatlas.training import Dataset, build_model, initial_weights, normalization_of
from lossatlas.training.specs import Call, is_factory, parse_call, split_options


def pictures(channels=3, side=16, classes=4):
    return Dataset(
        torch.rand(5, channels, side, side),
        torch.arange(5) % classes,
        classes=tuple("abcd"[:classes]),
    )


def characters():
    codes = torch.arange(18).view(2, 9) % 7
    return Dataset(codes[:, :-1], codes[:, 1:], task="language", vocabulary=tuple("abcdefg"))


@pytest.mark.parametrize("spec", ["mlp", "mlp(8, 8, activation=tanh)", "cnn(4)", "resnet20"])
def test_sizes_follow_the_pictures(spec):
    data = pictures(channels=1)
    assert build_model(spec, data)(data.inputs).shape == (5, 4)


def test_sizes_follow_the_text():
    data = characters()
    model = build_model("chargpt(layers=1, width=16, heads=2)", data)
    assert model(data.inputs).shape == (2, 8, 7)
    assert model.head.weight is model.tokens.weight
    free = build_model("chargpt(layers=1, width=16, heads=2, tied=False)", data)
    assert free.head.weight is not free.tokens.weight


def test_a_character_does_not_see_those_after_it():
    data = characters()
    model = build_model("chargpt(width=16)", data)
    changed = data.inputs.clone()
    changed[:, 5:] = 0
    torch.testing.assert_close(model(data.inputs)[:, :5], model(changed)[:, :5])
    with pytest.raises(ArgumentError, match="at most 8"):
        model(torch.zeros(1, 9, dtype=torch.int64))


def test_options_win_over_the_data():
    model = build_model("mlp(3)", pictures(), outputs=2)
    assert model.fc2.out_features == 2
    assert build_model("mlp", features=7, outputs=2).fc1.in_features == 7


@pytest.mark.parametrize("spec", ["mlp", "cnn", "resnet20"])
def test_weights_depend_on_the_seed_alone(spec):
    data = pictures()
    torch.manual_seed(1)
    states = torch.get_rng_state(), np.random.get_state()[1].copy()
    first = build_model(spec, data, seed=3).state_dict()
    torch.manual_seed(2)
    again = build_model(spec, data, seed=3).state_dict()
    torch.manual_seed(1)
    other = build_model(spec, data, seed=4).state_dict()
    assert all(torch.equal(value, again[name]) for name, value in first.items())
    assert any(not torch.equal(value, other[name]) for name, value in first.items())
    assert torch.equal(torch.get_rng_state(), states[0])
    assert np.array_equal(np.random.get_state()[1], states[1])


def test_initial_weights_are_those_of_the_models():
    starts = initial_weights("mlp(4)", pictures(), seeds=[5, 6])
    assert torch.equal(
        starts[1]["fc1.weight"], build_model("mlp(4)", pictures(), seed=6).fc1.weight
    )


def test_residual_networks_have_the_known_sizes():
    counts = {
        name: sum(p.numel() for p in build_model(name).parameters())
        for name in ("resnet20", "resnet56")
    }
    # Table 6 of He et al. gives 0.27 and 0.85 million.
    assert counts == {"resnet20": 269722, "resnet56": 853018}


def test_models_say_their_normalization():
    assert normalization_of("resnet56(channels=1)") == "imagenet"
    assert normalization_of("mlp") == normalization_of("some.module:make") == "unit"


def test_factories_get_what_they_ask_for(tmp_path, monkeypatch):
    source = tmp_path / "my_model.py"
    (tmp_path / "my_layers_of_workbench.py").write_text("WIDTH = 3\n")
    source.write_text(
        "import torch\n"
        "from my_layers_of_workbench import WIDTH\n"
        "def make(dataset, outputs, channels=9, scale=1):\n"
        "    layer = torch.nn.Linear(WIDTH * scale, outputs)\n"
        "    layer.channels = channels\n"
        "    return layer\n"
        "def nothing():\n    return 3\n"
        "constant = 3\n"
    )
    model = build_model(f"{source}:make(scale=2)", pictures(), seed=1)
    assert (model.in_features, model.out_features, model.channels) == (6, 4, 9)
    again = build_model(f"{source}:make", pictures(), seed=1, scale=2)
    assert torch.equal(model.weight, again.weight)
    monkeypatch.chdir(tmp_path)
    assert build_model("my_model:make", pictures()).out_features == 4
    with pytest.raises(ModelError, match="must return a torch"):
        build_model(f"{source}:nothing")
    with pytest.raises(ArgumentError, match="must name a function"):
        build_model(f"{source}:constant")
    with pytest.raises(UnknownNameError, match="did you mean 'make'"):
        build_model(f"{source}:mak")
    with pytest.raises(ArgumentError, match="`outputs`"):
        build_model(f"{source}:make")


def test_lazy_layers_get_their_sizes_from_the_data_and_weights_from_the_seed(tmp_path):
    source = tmp_path / "lazy_model.py"
    source.write_text(
        "from torch import nn\n"
        "def make(outputs):\n"
        "    layers = nn.LazyConv2d(3, 3), nn.LazyBatchNorm2d(), nn.Flatten()\n"
        "    return nn.Sequential(*layers, nn.LazyLinear(outputs))\n"
    )
    data = pictures()
    model, again = (build_model(f"{source}:make", data, seed=2) for _ in range(2))
    assert model.training
    assert model(data.inputs).shape == (len(data.inputs), 4)
    assert torch.equal(model[3].weight, again[3].weight)
    fresh = build_model(f"{source}:make", data, seed=2)
    assert torch.equal(fresh[1].running_mean, torch.zeros(3))
    assert fresh[1].num_batches_tracked == 0
    with pytest.raises(ModelError, match=r"make' failed \(.*check its arguments"):
        build_model(f"{source}:make", pictures(), outputs="four")


def test_classes_of_torch_are_factories():
    model = build_model("torch.nn:Linear(3, 2)")
    assert isinstance(model, nn.Linear)


def test_files_that_cannot_be_imported_are_named(tmp_path):
    (tmp_path / "broken.py").write_text("def make(:\n")
    (tmp_path / "needy.py").write_text("import no_such_module_anywhere\n")
    with pytest.raises(ModelError, match="not valid Python"):
        build_model(f"{tmp_path}/broken.py:make")
    with pytest.raises(MissingDependencyError, match="no_such_module_anywhere"):
        build_model(f"{tmp_path}/needy.py:make")
    with pytest.raises(FileError, match="there is no file"):
        build_model(f"{tmp_path}/absent.py:make")
    with pytest.raises(UnknownNameError, match="no module 'no_such_module_anywhere'"):
        build_model("no_such_module_anywhere:make")
    with pytest.raises(ArgumentError, match="must look like"):
        build_model("weights-1.x:make")


BAD = {
    "unknown": ("resnet2", {}, UnknownNameError, "did you mean 'resnet20'"),
    "option": ("mlp(hiden=3)", {}, UnknownNameError, "option of mlp"),
    "brackets": ("mlp(64", {}, ArgumentError, "must look like"),
    "code": ("mlp(__import__('os'))", {}, ArgumentError, "plain values"),
    "empty": ("", {}, ArgumentError, "`model`"),
    "number": (3, {}, ArgumentError, "`model`"),
    "width": ("mlp(0)", {}, ArgumentError, "`width`"),
    "activation": ("mlp(activation=rely)", {}, UnknownNameError, "did you mean 'relu'"),
    "text": ("chargpt", {}, ArgumentError, "`vocabulary`"),
    "heads": ("chargpt(width=10)", {"vocabulary": 3, "block": 4}, ArgumentError, "multiple"),
    "stages": ("cnn(4,4,4,4,4)", {}, ArgumentError, "at least 32 pixels"),
    "seed": ("mlp", {"seed": -1}, ArgumentError, "`seed`"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_specs_are_named(case):
    spec, options, error, words = BAD[case]
    with pytest.raises(error, match=words):
        build_model(spec, pictures(), **options)


def test_a_model_without_sizes_says_which():
    with pytest.raises(ArgumentError, match="'mlp' needs `features`, `outputs`"):
        build_model("mlp")


def test_specs_are_read():
    assert parse_call("x", " a.b:make( 1, -2, k='v', w=word, t=(1, 2)) ") == Call(
        "a.b:make", (1, -2), {"k": "v", "w": "word", "t": (1, 2)}
    )
    assert split_options("a#b.npz") == ("a#b.npz", {})
    assert split_options("a#b.npz#x=u,n=-3") == ("a#b.npz", {"x": "u", "n": -3})
    assert is_factory("a.b:c(1)")
    assert not is_factory("parquet:a.parquet")
    assert not is_factory("mlp")


def test_a_vit_sees_patches_in_any_order_but_their_places():
    data = pictures(side=8)
    model = build_model("vit(patch=2, dim=16, heads=2)", data)
    assert model(data.inputs).shape == (5, 4)
    assert model.positions.weight.shape == (16, 16)
    assert normalization_of("vit") == "standardized"
    # Without places the mean over patches does not see their order.
    torch.nn.init.zeros_(model.positions.weight)
    flipped = data.inputs.unflatten(2, (4, 2)).flip(2).flatten(2, 3)
    torch.testing.assert_close(model(data.inputs), model(flipped))
    for spec, message in (("vit(patch=3)", "`patch`"), ("vit(dim=10)", "multiple of heads")):
        with pytest.raises(ArgumentError, match=message):
            build_model(spec, data)
