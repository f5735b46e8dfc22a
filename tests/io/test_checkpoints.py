"""Checkpoints as people have them: read, or refused with the reason."""

import json
import warnings
import zipfile

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import lossatlas as la
from lossatlas.errors import AtlasError, FileError, StructureError, UnknownNameError
from lossatlas.io.distributed import _assemble
from lossatlas.io.pickled import Record
from lossatlas.training import load_weights

load = la.io.load_checkpoint


def network():
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))


def same(a, b):
    return set(a) == set(b) and all(torch.equal(a[name], b[name]) for name in a)


def each(model, batch):
    return model(batch).square().mean(1)


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.head = nn.Embedding(5, 3), nn.Linear(3, 5, bias=False)
        self.head.weight = self.embed.weight


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".pth.tar", ".ckpt", ".bin"])
@pytest.mark.parametrize("archive", [True, False], ids=["archive", "legacy"])
def test_torch_files_of_every_name_are_read(tmp_path, suffix, archive):
    state, path = network().state_dict(), tmp_path / f"a{suffix}"
    torch.save(state, path, _use_new_zipfile_serialization=archive)
    assert same(load(path), state)
    assert same(load_weights(network(), path).state_dict(), state)


@pytest.mark.parametrize(
    "key", ["state_dict", "model", "model_state_dict", "ema", "module", "student"]
)
def test_weights_are_found_inside_a_training_checkpoint(tmp_path, key):
    model, path = network(), tmp_path / "last.pt"
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.randn(5, 3)).sum().backward()
    optimizer.step()
    best = np.float64(0.5)
    torch.save(
        {
            "epoch": 3,
            "best": best,
            "optimizer": optimizer.state_dict(),
            key: model.state_dict(),
        },
        path,
    )
    found = load(path)
    assert same(found, model.state_dict())
    assert f"The weights are those under '{key}'." in found.notes


def test_a_key_chooses_among_several_and_the_others_are_named(tmp_path):
    one, two, path = network(), network(), tmp_path / "a.pt"
    torch.save({"model": one.state_dict(), "ema": {"module": two.state_dict()}}, path)
    assert same(load(path), one.state_dict())
    assert any("also has weights under 'ema.module'" in note for note in load(path).notes)
    assert same(load(path, key="ema.module"), two.state_dict())
    with pytest.raises(UnknownNameError, match=r"has no `key` 'emma'"):
        load(path, key="emma")


def test_the_prefix_of_a_wrapper_is_stripped_and_said(tmp_path):
    model, path = network(), tmp_path / "a.pt"
    state = {f"_orig_mod.module.{n}": v for n, v in model.state_dict().items()}
    torch.save(state, path)
    found = load(path)
    assert same(found, model.state_dict())
    assert found.notes == ("The prefix '_orig_mod.module.' of all names is stripped.",)
    torch.save({"state_dict": {f"net.{n}": v for n, v in model.state_dict().items()}}, path)
    said = []
    assert same(
        load_weights(network(), path, note=said.append).state_dict(), model.state_dict()
    )
    assert any("'net.'" in note for note in said)


@pytest.mark.parametrize("prefix", ["net.", "model.", "model.net."])
def test_a_common_prefix_is_stripped_where_the_model_is_known(tmp_path, prefix):
    model, path = network(), tmp_path / "a.ckpt"
    state = {f"{prefix}{n}": v for n, v in model.state_dict().items()}
    torch.save({"state_dict": state, "pytorch-lightning_version": "2.5"}, path)
    # Whose names they are is not known from the file.
    assert same(load(path), state)
    found = load(path, model=model)
    assert same(found, model.state_dict())
    assert f"The prefix '{prefix}' of all names is stripped." in found.notes
    objective = la.Objective(model, each, [torch.randn(6, 3)])
    assert objective.value(found) == objective.value()
    with pytest.raises(AtlasError, match="`model` must be a Module"):
        load(path, model="resnet18")


def test_a_network_beside_others_is_found_by_the_prefix_that_the_error_tells(tmp_path):
    model, path = network(), tmp_path / "a.ckpt"
    state = {f"net.{n}": v for n, v in model.state_dict().items()}
    torch.save({"state_dict": state | {"criterion.weight": torch.ones(2)}}, path)
    with pytest.raises(StructureError, match=r"under prefix='net\.'"):
        load(path, model=model)
    assert same(load(path, model=model, prefix="net."), model.state_dict())


def test_wrapped_models_take_the_files_of_wrapped_models(tmp_path):
    model, path = network(), tmp_path / "a.pt"
    wrapped = nn.DataParallel(model)
    torch.save(wrapped.state_dict(), path)
    assert same(load(path, model=wrapped), wrapped.state_dict())
    assert same(load(path, model=model), model.state_dict())


@pytest.mark.parametrize("key", [None, "swa_model"])
def test_averaged_models_are_read_and_their_counter_is_told(tmp_path, key):
    model, path = network(), tmp_path / "swa.pt"
    averaged = torch.optim.swa_utils.AveragedModel(model)
    with torch.no_grad():
        model[0].weight.add_(1.0)
    averaged.update_parameters(model)
    averaged.update_parameters(model)
    torch.save(averaged.state_dict() if key is None else {key: averaged.state_dict()}, path)
    found = load(path)
    assert same(found, averaged.module.state_dict())
    assert any("average over 2 updates" in note for note in found.notes)
    assert same(load_weights(network(), path).state_dict(), averaged.module.state_dict())
    again = torch.optim.swa_utils.AveragedModel(network())
    assert same(load_weights(again, path).state_dict(), averaged.state_dict())


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16])
def test_half_precision_is_converted_and_said_or_refused_with_the_remedy(tmp_path, kind):
    model, path = network(), tmp_path / "half.pt"
    state = {
        n: v.to(kind) if v.is_floating_point() else v for n, v in model.state_dict().items()
    }
    torch.save(state, path)
    objective = la.Objective(model, each, [torch.randn(6, 3)])
    found = load(path, model=model)
    assert found["0.weight"].dtype == torch.float32
    assert any("used as float32: no number changes" in note for note in found.notes)
    exact = {n: v.float() if v.is_floating_point() else v for n, v in state.items()}
    assert objective.value(found) == objective.value(exact)
    moved = {n: v + 1 for n, v in state.items()}
    for call in (
        lambda: objective.value(load(path)),
        lambda: objective.gradient({n: state[n] for n in objective.names}),
        lambda: la.map_plane(objective, la.plane_through(state, moved), points=3),
        lambda: la.random_plane(objective, origin=state),
    ):
        with pytest.raises(
            StructureError, match=r"is b?float16 .*load_checkpoint\(path, model"
        ):
            call()


def test_a_prefix_keeps_one_network_of_several(tmp_path):
    model, path = network(), tmp_path / "a.ckpt"
    state = {f"model.{n}": v for n, v in model.state_dict().items()}
    torch.save({"state_dict": state | {"teacher.w": torch.ones(2)}}, path)
    found = load(path, prefix="model.")
    assert same(found, model.state_dict())
    assert any("1 tensors outside prefix 'model.'" in note for note in found.notes)
    with pytest.raises(AtlasError, match=r"no name in .* starts with `prefix` 'mdl.'"):
        load(path, prefix="mdl.")


@pytest.mark.parametrize("kind", ["safetensors", "bin"])
def test_a_hugging_face_folder_with_an_index_is_read(tmp_path, kind):
    state = network().state_dict()
    base = "model" if kind == "safetensors" else "pytorch_model"
    places = {}
    for k, name in enumerate(state):
        file = f"{base}-{k % 2}.{kind}"
        places[name] = file
    for file in set(places.values()):
        part = {n: state[n] for n in places if places[n] == file}
        save_file(part, tmp_path / file) if kind == "safetensors" else torch.save(
            part, tmp_path / file
        )
    index = tmp_path / f"{base}.{kind}.index.json"
    index.write_text(json.dumps({"weight_map": places}))
    assert same(load(tmp_path), state)
    assert same(load(index), state)
    index.write_text(json.dumps({"weight_map": places | {"x": "../../etc/passwd"}}))
    with pytest.raises(FileError, match=r"outside its folder"):
        load(tmp_path)
    index.write_text(json.dumps({"weight_map": places | {"x": next(iter(places.values()))}}))
    with pytest.raises(FileError, match=r"lists 'x', which its files do not contain"):
        load(tmp_path)


def test_a_folder_of_transformers_with_tied_heads_is_read(tmp_path):
    transformers = pytest.importorskip("transformers")
    config = transformers.GPT2Config(
        n_layer=1, n_head=2, n_embd=8, vocab_size=11, n_positions=6
    )
    model = transformers.GPT2LMHeadModel(config)
    model.save_pretrained(tmp_path)
    assert "lm_head.weight" not in load(tmp_path)
    other = load_weights(transformers.GPT2LMHeadModel(config), tmp_path)
    assert same(other.state_dict(), model.state_dict())
    assert other.lm_head.weight is other.transformer.wte.weight


def test_accelerate_folders_are_read(tmp_path):
    accelerate = pytest.importorskip("accelerate")
    model = network()
    accelerator = accelerate.Accelerator(cpu=True)
    prepared = accelerator.prepare(model)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        accelerator.save_state(tmp_path)
    assert same(load(tmp_path), prepared.state_dict())


@pytest.mark.filterwarnings("ignore:torch.distributed is disabled")
def test_distributed_folders_are_read_and_nothing_is_unpickled(tmp_path):
    import torch.distributed.checkpoint as dcp

    model, folder = network(), tmp_path / "dcp"
    optimizer = torch.optim.Adam(model.parameters())
    model(torch.randn(5, 3)).sum().backward()
    optimizer.step()
    content = {"model": model.state_dict(), "optim": optimizer.state_dict(), "step": 3}
    dcp.save(content, checkpoint_id=folder, no_dist=True)
    assert same(load(folder), model.state_dict())
    shard = next(folder.glob("*.distcp"))
    shard.write_bytes(shard.read_bytes()[:2000])
    with pytest.raises(FileError, match=r"truncated|damaged"):
        load(folder)
    (folder / ".metadata").write_bytes(b"\x80\x04cos\nsystem\n(S'touch x'\ntR.")
    with pytest.raises(FileError, match=r"damaged folder"):
        load(folder)


def test_pieces_that_overlap_and_leave_a_hole_are_refused(tmp_path):
    def chunk(start):
        return Record("chunk", state={"offsets": (start,), "sizes": (2,)})

    def info():
        return Record("info", state={"relative_path": "a", "offset": 0, "length": 1})

    (tmp_path / "a").write_bytes(b"a")
    starts = (0, 1)
    entry = Record("entry", state={"size": (4,), "chunks": [chunk(k) for k in starts]})
    shards = {("x", (k,)): info() for k in starts}
    with pytest.raises(FileError, match="the pieces of 'x' overlap"):
        _assemble(tmp_path, "x", entry, shards, lambda _: torch.ones(2))


def test_tied_weights_may_come_under_any_of_their_names_but_must_agree(tmp_path):
    model, path = Tied(), tmp_path / "a.safetensors"
    for name in ("embed.weight", "head.weight"):
        save_file({name: model.embed.weight.detach()}, path)
        assert torch.equal(load_weights(Tied(), path).head.weight, model.embed.weight)
    save_file({"embed.weight": torch.ones(5, 3), "head.weight": torch.zeros(5, 3)}, path)
    with pytest.raises(StructureError, match=r"are one tensor of the model but differ"):
        load_weights(Tied(), path)


def test_whole_modules_and_torchscript_are_refused_with_the_reason(tmp_path):
    path = tmp_path / "a.pt"
    torch.save(network(), path)
    with pytest.raises(FileError, match=r"pickles an object of 'torch\.nn\..*state_dict\(\)"):
        load(path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.trace(network().eval(), torch.randn(2, 3)).save(path)
    with pytest.raises(FileError, match=r"TorchScript"):
        load(path)


@pytest.mark.parametrize("kind", [torch.int8, torch.uint8, torch.float8_e4m3fn, torch.int64])
def test_codes_of_quantized_weights_never_become_weights(tmp_path, kind):
    state, path = network().state_dict(), tmp_path / "a.safetensors"
    for name in ("0.weight", "0.bias"):
        save_file(state | {name: (10 * state[name]).to(kind)}, path)
        target = network()
        before = {n: v.clone() for n, v in target.state_dict().items()}
        with pytest.raises(StructureError, match=r"codes"):
            load_weights(target, path)
        assert same(target.state_dict(), before)


def test_points_of_codes_are_refused_at_the_objective():
    model = nn.Linear(2, 1)
    data = [(torch.eye(2), torch.zeros(2, 1))]
    objective = la.Objective(model, la.supervised(nn.functional.mse_loss), data)
    for kind in (torch.int8, torch.float8_e4m3fn, torch.complex64):
        point = {name: value.to(kind) for name, value in objective.params.items()}
        with pytest.raises(StructureError, match=r"'weight' holds torch"):
            objective.value(point)


def test_what_is_not_finite_and_what_is_rounded_is_said(tmp_path):
    state, path, said = network().state_dict(), tmp_path / "a.safetensors", []
    state["0.weight"][0, 0] = float("nan")
    state = {n: v.double() + 1e-9 if v.is_floating_point() else v for n, v in state.items()}
    save_file(state, path)
    load_weights(network(), path, note=said.append)
    assert any("'0.weight' contains 1 numbers that are NaN" in note for note in said)
    assert any("stored as float64 and used as float32: numbers change" in n for n in said)
    said.clear()
    save_file({n: v.bfloat16() if v.is_floating_point() else v for n, v in state.items()}, path)
    load_weights(network(), path, note=said.append)
    assert any("bfloat16 and used as float32: no number changes" in note for note in said)


def test_an_adapter_is_told_what_it_is(tmp_path):
    state = {"base_model.model.q.lora_A.weight": torch.ones(2, 3)}
    save_file(state, tmp_path / "adapter_model.safetensors")
    config = {"base_model_name_or_path": "gpt2"}
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    for place in (tmp_path, tmp_path / "adapter_model.safetensors"):
        with pytest.raises(StructureError, match=r"LoRA adapter: a change of 'gpt2'.*merge"):
            load(place)


def test_an_archive_that_states_more_than_it_has_is_refused_unread(tmp_path):
    path = tmp_path / "bomb.pt"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/data.pkl", b"\x80\x02}.")
        archive.writestr("a/data/0", bytes(1 << 24))
    with pytest.raises(FileError, match=r"should have 16,777,.* bytes but has"):
        load(path)


def test_every_cut_of_a_torch_file_is_named(tmp_path):
    path = tmp_path / "a.pt"
    for archive in (True, False):
        torch.save(network().state_dict(), path, _use_new_zipfile_serialization=archive)
        content = path.read_bytes()
        for cut in range(0, len(content) - 1, max(1, len(content) // 40)):
            path.write_bytes(content[:cut])
            with pytest.raises(FileError):
                load(path)


@pytest.mark.parametrize("path", [None, 3, "", True, [], b"x", "a\0b"])
def test_no_path_is_named(path):
    with pytest.raises(AtlasError, match=r"`path` must be the path"):
        load(path)


def test_an_empty_folder_says_what_is_looked_for(tmp_path):
    with pytest.raises(FileError, match=r"contains no known checkpoint"):
        load(tmp_path)
