from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from lossatlas.training import (
    build_loss,
    build_model,
    load_dataset,
    load_weights,
    normalization_of,
)

SHARED = Path(__file__).parents[3] / "shared"
pytestmark = [
    pytest.mark.shared,
    pytest.mark.skipif(not SHARED.is_dir(), reason="no shared/ with data beside the checkout"),
]


@pytest.mark.parametrize("name", ["resnet20", "resnet56"])
def test_names_and_shapes_are_those_of_the_trained_weights(name):
    with safe_open(SHARED / "models" / f"{name}-cifar10.safetensors", "pt") as file:
        known = {key: tuple(file.get_slice(key).get_shape()) for key in file.keys()}  # noqa: SIM118
    state = build_model(name).state_dict()
    ours = {n: tuple(v.shape) for n, v in state.items() if "num_batches_tracked" not in n}
    assert ours == known


def test_a_trained_network_knows_its_pictures():
    data = load_dataset(
        f"parquet:{SHARED}/data/cifar10-jpeg/test.parquet",
        examples=200,
        normalize=normalization_of("resnet20"),
    )
    model = build_model("resnet20", data)
    load_weights(model, SHARED / "models" / "resnet20-cifar10.safetensors").eval()
    with torch.no_grad():
        output = model(data.inputs)
    # 81.0 % of all test pictures; three standard errors of a share among 200.
    assert 0.73 < 1 - build_loss("error")(output, data.targets) < 0.89


def test_gray_pictures():
    data = load_dataset(f"parquet:{SHARED}/data/mnist/train.parquet", examples=50)
    assert data.inputs.shape == (50, 1, 28, 28)
    assert data.outputs == 10
    assert 0 == data.inputs.min() < data.inputs.max() == 1
    assert build_model("cnn", data)(data.inputs).shape == (50, 10)


def test_shakespeare():
    data = load_dataset(f"text:{SHARED}/data/tinyshakespeare/input.txt", examples=4, block=32)
    assert data.outputs == 65
    text = "".join(data.vocabulary[i] for i in data.inputs.flatten())
    assert text.startswith("First Citizen:")
    loss = build_loss(task=data.task)(build_model("chargpt", data)(data.inputs), data.targets)
    assert loss.item() == pytest.approx(torch.tensor(65.0).log().item(), abs=0.15)
