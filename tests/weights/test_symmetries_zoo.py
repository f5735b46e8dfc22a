"""Symmetries of models of other libraries, small but with all their parts."""

import pytest
import torch

import lossatlas as la
from lossatlas.weights import symmetries

transformers = pytest.importorskip("transformers")

_SIZES = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "vocab_size": 19}
_HEADS = {"num_attention_heads": 4}
# Name -> (config, model, its options, the least share of entries that moves).
TEXT = {
    "GPT-2": ("GPT2Config", "GPT2LMHeadModel", _SIZES | {"n_head": 4, "n_positions": 16}, 0.9),
    "LLaMA, grouped queries": ("LlamaConfig", "LlamaForCausalLM",
                               _SIZES | _HEADS | {"num_key_value_heads": 2}, 0.9),
    "GPT-NeoX, partial rotary": ("GPTNeoXConfig", "GPTNeoXForCausalLM", _SIZES | _HEADS, 0.9),
    "Mixtral": ("MixtralConfig", "MixtralForCausalLM",
                _SIZES | _HEADS | {"num_key_value_heads": 2, "num_local_experts": 2}, 0.3),
    "Mamba": ("MambaConfig", "MambaForCausalLM", _SIZES | {"state_size": 4}, 0.4),
    "BERT": ("BertConfig", "BertForMaskedLM", _SIZES | _HEADS, 0.9),
}  # fmt: skip


def randomized(model):
    draw = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for value in model.parameters():
            value.add_(0.2 * torch.randn(value.shape, generator=draw))
    return model.eval()


def checked(objective, share):
    found = symmetries(objective)
    assert found.error <= 1e-5 * found.loss
    assert found.moved >= share
    before = objective.example_losses()
    moved = found.apply(objective.params, found.random(5))
    changed = sum(int((moved[k] != v).sum()) for k, v in objective.params.items())
    assert changed > 0.8 * share * sum(v.numel() for v in objective.params.values())
    after = objective.example_losses(moved)
    assert float((after - before).abs().max()) <= 2e-5 * float(before.abs().max())


@pytest.mark.parametrize("name", TEXT)
def test_language_models_keep_every_loss(name):
    config, kind, options, share = TEXT[name]
    torch.manual_seed(0)
    model = getattr(transformers, kind)(getattr(transformers, config)(**options))
    draw = torch.Generator().manual_seed(0)
    batches = [torch.randint(0, 19, (3, 8), generator=draw) for _ in range(2)]

    def loss(model, batch):
        logits = model(batch).logits
        labels = batch.roll(-1, 1)
        losses = torch.nn.functional.cross_entropy(logits.mT, labels, reduction="none")
        return losses.mean(1)

    checked(la.Objective(randomized(model), loss, batches, check=False), share)


def test_an_encoder_and_decoder_keep_every_loss():
    torch.manual_seed(0)
    config = transformers.T5Config(
        vocab_size=19, d_model=16, d_kv=4, d_ff=24, num_layers=2, num_heads=4, dropout_rate=0.0
    )
    model = randomized(transformers.T5ForConditionalGeneration(config))
    draw = torch.Generator().manual_seed(0)
    batches = [torch.randint(0, 19, (2, 3, 6), generator=draw) for _ in range(2)]

    def loss(model, batch):
        read, write = batch
        logits = model(input_ids=read, decoder_input_ids=write).logits
        losses = torch.nn.functional.cross_entropy(
            logits.mT, write.roll(-1, 1), reduction="none"
        )
        return losses.mean(1)

    checked(la.Objective(model, loss, batches, check=False), 0.8)


def test_a_vision_transformer_keeps_every_loss():
    torch.manual_seed(0)
    config = transformers.ViTConfig(
        **{k: v for k, v in (_SIZES | _HEADS).items() if k != "vocab_size"},
        image_size=8, patch_size=4, num_channels=3, num_labels=5,
    )  # fmt: skip
    model = randomized(transformers.ViTForImageClassification(config))
    draw = torch.Generator().manual_seed(0)
    batches = [torch.randn(4, 3, 8, 8, generator=draw) for _ in range(2)]

    def loss(model, batch):
        return model(batch).logits.square().mean(1)

    checked(la.Objective(model, loss, batches, check=False), 0.8)


# Channels, groups of the norms, blocks down and up, share of entries that moves. What skip
# connections concatenate and group norms cut elsewhere is held.
U_NETS = {
    "attention below": ((4, 8), 2, ["DownBlock2D", "AttnDownBlock2D"],
                        ["AttnUpBlock2D", "UpBlock2D"], 0.9),
    "three levels": ((4, 8, 12), 4, ["DownBlock2D", "DownBlock2D", "DownBlock2D"],
                     ["UpBlock2D", "UpBlock2D", "UpBlock2D"], 0.7),
}  # fmt: skip


@pytest.mark.parametrize("name", U_NETS)
def test_a_u_net_of_diffusion_keeps_every_loss(name):
    diffusers = pytest.importorskip("diffusers")
    torch.manual_seed(0)
    channels, groups, down, up, share = U_NETS[name]
    model = diffusers.UNet2DModel(
        sample_size=8, in_channels=1, out_channels=1, layers_per_block=1,
        norm_num_groups=groups, block_out_channels=channels, down_block_types=down,
        up_block_types=up, attention_head_dim=4,
    )  # fmt: skip
    draw = torch.Generator().manual_seed(0)
    batches = [torch.randn(2, 1, 8, 8, generator=draw) for _ in range(2)]

    def loss(model, batch):
        return model(batch, torch.full((len(batch),), 3)).sample.square().mean((1, 2, 3))

    checked(la.Objective(randomized(model), loss, batches, check=False), share)


def test_a_graph_network_keeps_every_loss():
    geometric = pytest.importorskip("torch_geometric.nn")

    class Graph(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two = geometric.GCNConv(4, 12), geometric.GCNConv(12, 3)

        def forward(self, x, edges):
            return self.two(torch.relu(self.one(x, edges)), edges)

    torch.manual_seed(0)
    draw = torch.Generator().manual_seed(0)
    edges = torch.randint(0, 9, (2, 30), generator=draw)
    batches = [(torch.randn(9, 4, generator=draw), edges) for _ in range(2)]

    def loss(model, batch):
        return model(*batch).square().mean(1)

    checked(la.Objective(randomized(Graph()), loss, batches, check=False), 0.6)
