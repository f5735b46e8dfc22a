"""LoRA adapters: products by hand, those of peft, and what is refused."""

import json

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from lossatlas.errors import ArgumentError, FileError, StructureError
from lossatlas.weights import with_adapter

BASE = {"net.fc.weight": torch.zeros(2, 3), "net.fc.bias": torch.zeros(2)}


def written(folder, tensors, **config):
    folder.mkdir(exist_ok=True)
    save_file(tensors, folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder


def pair(module="base_model.model.net.fc", rank=2, out=2, inputs=3):
    draw = torch.Generator().manual_seed(0)
    return {
        f"{module}.lora_A.weight": torch.randn(rank, inputs, generator=draw),
        f"{module}.lora_B.weight": torch.randn(out, rank, generator=draw),
    }


@pytest.mark.parametrize(
    ("config", "scale"),
    [
        ({"lora_alpha": 6}, 3.0),
        ({"lora_alpha": 6, "use_rslora": True}, 6 / 2**0.5),
        ({"lora_alpha": 6, "alpha_pattern": {"fc": 1}}, 0.5),
    ],
)
def test_a_folder_of_peft_is_its_product(tmp_path, config, scale):
    tensors = pair()
    a, b = tensors.values()
    folder = written(tmp_path / "adapter", tensors, **config)
    for place in (folder, folder / "adapter_model.safetensors"):
        found = with_adapter(BASE, place)
        torch.testing.assert_close(found["net.fc.weight"], scale * b @ a)
        assert torch.equal(found["net.fc.bias"], BASE["net.fc.bias"])
    assert not BASE["net.fc.weight"].any()


def test_shapes_are_those_of_the_base(tmp_path):
    turned = {"fc.weight": torch.zeros(3, 2, dtype=torch.bfloat16)}
    a, b = pair().values()
    found = with_adapter(turned, pair("fc"), scale=1.0)["fc.weight"]
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.float(), (b @ a).T, rtol=0.01, atol=0.01)
    kernel = {"conv.weight": torch.zeros(2, 3, 1, 1)}
    tensors = {
        "conv.lora_A.weight": a[:, :, None, None],
        "conv.lora_B.weight": b[:, :, None, None],
    }
    found = with_adapter(kernel, tensors, scale=2.0)["conv.weight"]
    torch.testing.assert_close(found[:, :, 0, 0], 2 * b @ a)
    table = {"words.weight": torch.zeros(3, 2)}
    found = with_adapter(
        table, {"words.lora_embedding_A": a, "words.lora_embedding_B": b}, scale=1.0
    )
    torch.testing.assert_close(found["words.weight"], (b @ a).T)


def test_other_tensors_replace_those_of_the_base(tmp_path):
    more = pair() | {"base_model.model.net.fc.bias": torch.ones(2)}
    found = with_adapter(BASE, written(tmp_path / "a", more, lora_alpha=2))
    assert torch.equal(found["net.fc.bias"], torch.ones(2))


def test_what_is_no_product_is_named(tmp_path):
    with pytest.raises(ArgumentError, match="`scale` must be given"):
        with_adapter(BASE, pair())
    with pytest.raises(StructureError, match=r"'net\.fd\.weight'.*base does not hold"):
        with_adapter(BASE, pair("net.fd"), scale=1.0)
    with pytest.raises(StructureError, match="half of a pair"):
        with_adapter(BASE, dict([next(iter(pair().items()))]), scale=1.0)
    with pytest.raises(StructureError, match=r"shape \(4, 3\)"):
        with_adapter(BASE, pair(out=4), scale=1.0)
    with pytest.raises(StructureError, match="DoRA"):
        with_adapter(BASE, {"net.fc.lora_magnitude_vector": torch.ones(2)}, scale=1.0)
    with pytest.raises(FileError, match="no LoRA adapter"):
        with_adapter(BASE, tmp_path)


def test_it_equals_what_peft_folds(tmp_path):
    peft = pytest.importorskip("peft")

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.words, self.fc = nn.Embedding(5, 4), nn.Linear(4, 3)

        def forward(self, x):
            return self.fc(self.words(x))

    net = Net()
    base = {k: v.clone() for k, v in net.state_dict().items()}
    config = peft.LoraConfig(r=2, lora_alpha=7, target_modules=["fc", "words"])
    model = peft.get_peft_model(net, config)
    with torch.no_grad():
        for name, value in model.named_parameters():
            if "lora_" in name:
                value.normal_()
    model.save_pretrained(tmp_path)
    found = with_adapter(base, tmp_path)
    for name, value in model.merge_and_unload().state_dict().items():
        torch.testing.assert_close(found[name], value)
