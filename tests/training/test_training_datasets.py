import io
import json
import zipfile

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from lossatlas.errors import ArgumentError, AtlasError, DataError, FileError, UnknownNameError
from lossatlas.training import Dataset, load_dataset
from lossatlas.training.images import NORMALIZATIONS, decode, normalized
from lossatlas.training.user_data import as_dataset


def pixels(n=6, side=5, channels=3, seed=0):
    shape = (n, side, side, channels) if channels > 1 else (n, side, side)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def encoded(array, form="PNG"):
    stream = io.BytesIO()
    Image.fromarray(array).save(stream, form, **({"quality": 95} if form == "JPEG" else {}))
    return stream.getvalue()


def write_parquet(path, arrays, labels, *, form="PNG", metadata=None, image="image"):
    rows = [
        {"bytes": encoded(array, form), "path": f"{i}.png"} for i, array in enumerate(arrays)
    ]
    table = pa.table({image: rows, "label": labels})
    pq.write_table(table.replace_schema_metadata(metadata), path, row_group_size=2)
    return path


def same_pixels(inputs, arrays):
    expected = torch.from_numpy(arrays).float() / 255
    expected = expected.movedim(3, 1) if expected.ndim == 4 else expected.unsqueeze(1)
    torch.testing.assert_close(inputs, expected)


def test_digits_come_with_the_wheel():
    data = load_dataset("digits")
    assert (len(data), data.outputs, data.task, data.name) == (
        1797,
        10,
        "classification",
        "digits",
    )
    assert data.inputs.shape == (1797, 1, 8, 8)
    assert (data.inputs.min(), data.inputs.max()) == (0, 1)
    few = load_dataset("digits", examples=7)
    assert torch.equal(few.inputs, data.inputs[:7])
    assert few.outputs == 10


@pytest.mark.parametrize("channels", [1, 3])
def test_parquet_gives_the_pictures_back(tmp_path, channels):
    arrays = pixels(channels=channels)
    path = write_parquet(tmp_path / "tiny.parquet", arrays, [0, 1, 2, 0, 4, 1])
    data = load_dataset(f"parquet:{path}")
    same_pixels(data.inputs, arrays)
    assert data.targets.tolist() == [0, 1, 2, 0, 4, 1]
    assert data.classes == ("0", "1", "2", "3", "4")


def test_only_the_first_rows_of_parquet_are_decoded(tmp_path):
    arrays = pixels()
    rows = [{"bytes": encoded(array), "path": ""} for array in arrays[:3]]
    rows += [{"bytes": b"no picture", "path": ""}] * 3
    path = tmp_path / "half.parquet"
    pq.write_table(pa.table({"image": rows, "label": [0, 0, 1, 1, 1, 7]}), path)
    data = load_dataset(f"parquet:{path}", examples=3)
    same_pixels(data.inputs, arrays[:3])
    assert data.outputs == 8
    with pytest.raises(DataError, match=r"row 3 .* is not a complete PNG or JPEG"):
        load_dataset(f"parquet:{path}")


def test_parquet_takes_names_jpeg_and_plain_bytes(tmp_path):
    smooth = (
        np.full((4, 6, 6, 3), 100, np.uint8) + np.arange(4, dtype=np.uint8)[:, None, None, None]
    )
    path = tmp_path / "a.parquet"
    files = [encoded(array, "JPEG") for array in smooth]
    pq.write_table(pa.table({"img": files, "kind": ["dog", "cat", "dog", "eel"]}), path)
    data = load_dataset(f"parquet:{path}#image=img,label=kind")
    assert data.classes == ("cat", "dog", "eel")
    assert data.targets.tolist() == [1, 0, 1, 2]
    torch.testing.assert_close(
        data.inputs * 255, torch.from_numpy(smooth).movedim(3, 1).float(), atol=2, rtol=0
    )


def test_the_hub_s_class_names_are_read(tmp_path):
    names = {"info": {"features": {"label": {"names": ["owl", "fox", "bee"]}}}}
    path = write_parquet(
        tmp_path / "a.parquet", pixels(2), [0, 1], metadata={"huggingface": json.dumps(names)}
    )
    assert load_dataset(f"parquet:{path}").classes == ("owl", "fox", "bee")


def test_folders_are_classes_and_prefixes_hold_all_of_them(tmp_path):
    arrays = pixels(5, channels=1)
    for index, name in enumerate(["b/1.png", "a/1.png", "a/2.png", "b/sub/2.PNG", "a/3.png"]):
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(encoded(arrays[index]))
    (tmp_path / "a" / "notes.txt").write_text("not a picture")
    data = load_dataset(f"folder:{tmp_path}")
    assert data.classes == ("a", "b")
    assert data.targets.tolist() == [0, 1, 0, 1, 0]
    same_pixels(data.inputs, arrays[[1, 0, 2, 3, 4]])
    few = load_dataset(f"folder:{tmp_path}", examples=2)
    assert (len(few), few.outputs) == (2, 2)


def test_sizes_are_made_equal_only_when_asked(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "1.png").write_bytes(encoded(pixels(1, 5)[0]))
    (tmp_path / "a" / "2.png").write_bytes(encoded(pixels(1, 9)[0]))
    with pytest.raises(DataError, match="9x9 pixels but the first picture 5x5; give `size`"):
        load_dataset(f"folder:{tmp_path}")
    assert load_dataset(f"folder:{tmp_path}#size=4").inputs.shape == (2, 3, 4, 4)
    assert load_dataset(f"folder:{tmp_path}", size=4, channels=1).inputs.shape == (2, 1, 4, 4)


def test_gray_joins_color_and_other_modes_are_read():
    gray, color = pixels(1, channels=1)[0], pixels(1)[0]
    mixed = decode([("a", encoded(gray)), ("b", encoded(color))])
    assert mixed.shape == (2, 3, 5, 5)
    assert torch.equal(mixed[0, 0], torch.from_numpy(gray))
    assert torch.equal(mixed[1].movedim(0, 2), torch.from_numpy(color))
    deep = encoded(gray.astype(np.uint16) * 257)
    assert torch.equal(decode([("deep", deep)])[0, 0], torch.from_numpy(gray))
    stream = io.BytesIO()
    Image.fromarray(gray).convert("1").save(stream, "PNG")
    assert set(decode([("bits", stream.getvalue())]).unique().tolist()) <= {0, 255}


@given(st.sampled_from([*NORMALIZATIONS, "standardized"]), st.sampled_from([1, 3]))
def test_normalizations_undo_to_the_picture(name, channels):
    raw = torch.from_numpy(pixels(4, channels=3)).movedim(3, 1)[:, :channels]
    got = normalized(raw, name)
    if name == "standardized":
        assert got.mean((0, 2, 3)).abs().max() < 1e-5
        return
    mean, deviation = (torch.tensor(part) for part in NORMALIZATIONS[name])
    if channels == 1:
        mean, deviation = mean.mean()[None], deviation.mean()[None]
    back = got * deviation[:, None, None] + mean[:, None, None]
    torch.testing.assert_close(back, raw / 255)


def test_one_s_own_normalization_and_flat_pictures():
    flat = torch.full((2, 1, 3, 3), 51, dtype=torch.uint8)
    torch.testing.assert_close(normalized(flat, ((0.1,), (0.1,))), torch.ones(2, 1, 3, 3))
    assert normalized(flat, "standardized").abs().max() < 1e-6
    for bad in (((0.1,), (0.0,)), ((0.1, 0.2), (1.0, 1.0)), (1, 2), ((0.1,),)):
        with pytest.raises(ArgumentError, match="`normalize`"):
            normalized(flat, bad)
    with pytest.raises(UnknownNameError, match="did you mean 'imagenet'"):
        normalized(flat, "imagnet")


def test_npz_scales_bytes_and_keeps_numbers(tmp_path):
    path = tmp_path / "a.npz"
    x, y = pixels(4), np.arange(4)
    np.savez(path, images=x, labels=y.astype(np.uint8))
    data = load_dataset(f"npz:{path}#x=images,y=labels")
    same_pixels(data.inputs, x)
    assert (data.task, data.outputs) == ("classification", 4)
    numbers = np.random.default_rng(0).normal(size=(4, 3))
    np.savez(path, x=numbers, y=numbers[:, 0])
    data = load_dataset(f"npz:{path}", examples=3)
    torch.testing.assert_close(data.inputs, torch.from_numpy(numbers[:3]).float())
    assert (data.task, data.targets.shape, data.outputs) == ("regression", (3, 1), 1)
    np.savez(path, x=pixels(2, channels=1), y=[[0], [1]])
    assert load_dataset(f"npz:{path}").inputs.shape == (2, 1, 5, 5)


def test_text_predicts_the_next_character(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("hello wörld", "utf-8")
    data = load_dataset(f"text:{path}#block=3")
    assert data.vocabulary == tuple(sorted(set("hello wörld")))
    words = ["".join(data.vocabulary[i] for i in row) for row in data.inputs.tolist()]
    after = ["".join(data.vocabulary[i] for i in row) for row in data.targets.tolist()]
    assert (words, after) == (["hel", "lo ", "wör"], ["ell", "o w", "örl"])
    few = load_dataset(f"text:{path}", block=3, examples=1)
    assert (len(few), few.outputs) == (1, data.outputs)


def make_data():
    return torch.rand(5, 2), torch.arange(5)


def make_dataset(n):
    return Dataset(torch.rand(n, 2), torch.rand(n, 3), task="regression")


def make_numbers():
    return torch.rand(5, 2), torch.rand(5)


def test_factories_give_data():
    data = load_dataset(f"{__name__}:make_data", examples=3)
    assert (len(data), data.outputs, data.task) == (3, 3, "classification")
    assert load_dataset(f"{__name__}:make_dataset(4)").outputs == 3
    assert load_dataset(f"{__name__}:make_numbers").targets.shape == (5, 1)
    with pytest.raises(DataError, match=r"must return \(inputs, targets\) as tensors"):
        load_dataset(f"{__name__}:pixels")


PLAIN_INPUTS, PLAIN_TARGETS = torch.arange(14.0).reshape(7, 2), torch.arange(7) % 3


class Examples(torch.utils.data.Dataset):
    def __init__(self, number=lambda target: target):
        self.number, self.read = number, 0

    def __len__(self):
        return 7

    def __getitem__(self, index):
        self.read += 1
        if index >= 7:
            raise IndexError(index)
        return PLAIN_INPUTS[index], self.number(PLAIN_TARGETS[index])


def numbered():
    return Examples(int)


def batched():
    return list(zip(PLAIN_INPUTS.split(3), PLAIN_TARGETS.split(3), strict=True))


def listed():
    return [Examples()[k] for k in range(7)]


def tensors():
    return torch.utils.data.TensorDataset(PLAIN_INPUTS, PLAIN_TARGETS)


@pytest.mark.parametrize("make", [Examples, numbered, batched, listed, tensors])
def test_data_of_torch_and_lists_are_read_whole(make):
    data = load_dataset(f"{__name__}:{make.__name__}")
    assert torch.equal(data.inputs, PLAIN_INPUTS)
    assert torch.equal(data.targets, PLAIN_TARGETS)
    assert data.task == "classification"
    few = load_dataset(f"{__name__}:{make.__name__}", examples=4)
    assert torch.equal(few.inputs, PLAIN_INPUTS[:4])


def test_no_more_examples_are_read_than_are_asked_for():
    data = Examples()
    assert len(as_dataset(data, "here:make", 2)) == 2
    assert data.read == 2

    class Everything(Examples):
        def __len__(self):
            return 10**12

    with pytest.raises(DataError, match=r"1,000,000,000,000 examples.*limit them"):
        as_dataset(Everything(), "here:make")
    assert len(as_dataset(Everything(), "here:make", 2)) == 2


@pytest.mark.parametrize(("made", "got"), [
    (None, "got NoneType"),
    (torch.ones(3), "got Tensor"),
    ([], "returned no examples"),
    ([{"x": 1}], "got a dict"),
    ([("a", 1)], r"got an item \(str, int\)"),
    ([(torch.ones(2), 1), (torch.ones(3), 1)], "got inputs of several shapes"),
    (torch.utils.data.DataLoader(Examples()), "got DataLoader"),
])  # fmt: skip
def test_other_data_are_named_with_what_helps(made, got):
    with pytest.raises(DataError, match=got) as caught:
        as_dataset(made, "mine.py:data")
    if made != []:
        assert "--objective mine.py:make" in str(caught.value)


# Batches.


@given(
    n=st.integers(1, 30),
    size=st.integers(1, 40),
    seed=st.none() | st.integers(0, 9),
    data=st.data(),
)
def test_batches_hold_each_example_once(n, size, seed, data):
    examples = data.draw(st.none() | st.integers(1, n))
    whole = Dataset(torch.arange(n)[:, None].float(), torch.arange(n))
    batches = whole.batches(size, examples=examples, seed=seed)
    inputs, targets = (torch.cat(part) for part in zip(*batches, strict=True))
    assert torch.equal(inputs[:, 0].long(), targets)
    assert sorted(targets.tolist()) == list(range(examples or n))
    assert all(len(x) == size for x, _ in batches[:-1])
    if seed is None:
        assert targets.tolist() == list(range(examples or n))


def test_parts_of_a_data_set():
    whole = Dataset(torch.rand(6, 2), torch.arange(6), classes=tuple("abcdef"))
    assert len(whole.take(2)) + len(whole.skip(2)) == 6
    assert whole.take(2).outputs == 6
    assert whole.pick(torch.tensor([3, 1])).targets.tolist() == [3, 1]
    assert whole.take(2).inputs.data_ptr() == whole.inputs.data_ptr()
    for bad in (0, 7, 1.5):
        with pytest.raises(ArgumentError, match="`examples`"):
            whole.take(bad)
    with pytest.raises(ArgumentError, match="`examples`"):
        whole.skip(6)
    with pytest.raises(ArgumentError, match="`batch_size`"):
        whole.batches(0)
    with pytest.raises(DataError, match="is empty"):
        Dataset(torch.rand(0, 2), torch.rand(0))
    with pytest.raises(DataError, match="2 inputs but 3 targets"):
        Dataset(torch.rand(2, 2), torch.rand(3))


# Bad input.


def npz(path, **arrays):
    np.savez(path, **arrays)
    return f"npz:{path}"


def test_bad_npz_is_named(tmp_path):
    path, x = tmp_path / "a.npz", np.ones((3, 2))
    cases = {
        "has no array 'y' .did you mean 'yy'..: it holds 'x', 'yy', and inputs are read from "
        "'x', targets from 'y'. Write numpy.savez.PATH, x=..., y=....": npz(
            tmp_path / "1.npz", x=x, yy=x
        ),
        "Python objects, which are never unpickled": npz(
            tmp_path / "2.npz", x=np.array([{}, 1, 2], dtype=object), y=np.arange(3)
        ),
        "3 rows but 'y' 2": npz(tmp_path / "3.npz", x=x, y=np.arange(2)),
        "has no rows": npz(tmp_path / "4.npz", x=x[:0], y=np.arange(0)),
        "1 numbers that are NaN": npz(
            tmp_path / "5.npz", x=np.array([[np.nan], [1]]), y=np.arange(2)
        ),
        "must hold classes 0, 1, 2": npz(tmp_path / "6.npz", x=x, y=np.array([0, 1, -1])),
        "one class per example": npz(tmp_path / "7.npz", x=x, y=np.ones((3, 2), int)),
        "must hold numbers": npz(tmp_path / "8.npz", x=x, y=np.array(["a", "b", "c"])),
        "single number": npz(tmp_path / "9.npz", x=np.array(3.0), y=np.arange(3)),
    }
    for words, spec in cases.items():
        with pytest.raises(DataError, match=words):
            load_dataset(spec)
    np.save(tmp_path / "b.npy", x)
    with pytest.raises(FileError, match=r"single array; write both with numpy\.savez"):
        load_dataset(f"npz:{tmp_path / 'b.npy'}")
    path.write_bytes(b"\x80\x04K\x01.")
    with pytest.raises(FileError, match="no npz archive"):
        load_dataset(f"npz:{path}")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x.npy", "no array")
        archive.writestr("y.npy", "no array")
    with pytest.raises(FileError, match="damaged"):
        load_dataset(f"npz:{path}")


def test_bad_parquet_is_named(tmp_path):
    good = write_parquet(tmp_path / "good.parquet", pixels(2), [0, 1])
    none = {"image": pa.array([], pa.binary()), "label": pa.array([], pa.int64())}
    cases = {
        "no column 'imag' .did you mean 'image'": (f"{good}#image=imag", None),
        "no column 'label'": (1, {"image": [b""]}),
        "has no rows": (2, none),
        "1 rows without 'label'": (3, {"image": [b"", b""], "label": [None, 1]}),
        "hidden test set": (4, {"image": [b""], "label": [-1]}),
        "integers or names": (5, {"image": [b""], "label": [0.5]}),
        "holds no picture": (6, {"image": ["text"], "label": [0]}),
        "not a complete PNG or JPEG": (7, {"image": [b"GIF89a"], "label": [0]}),
    }
    for words, (place, columns) in cases.items():
        path = place
        if columns is not None:
            path = tmp_path / f"{place}.parquet"
            pq.write_table(pa.table(columns), path)
        with pytest.raises(DataError, match=words):
            load_dataset(f"parquet:{path}")
    foreign = tmp_path / "foreign.parquet"
    foreign.write_bytes(b"PAR1 not really PAR1")
    with pytest.raises(FileError, match="damaged, truncated or not parquet"):
        load_dataset(f"parquet:{foreign}")


def test_bad_folders_are_named(tmp_path):
    with pytest.raises(DataError, match="no subfolders"):
        load_dataset(f"folder:{tmp_path}")
    (tmp_path / "a").mkdir()
    with pytest.raises(DataError, match="holds no pictures"):
        load_dataset(f"folder:{tmp_path}")
    (tmp_path / "a" / "1.png").write_bytes(encoded(pixels(1)[0])[:60])
    with pytest.raises(DataError, match=r"1\.png' is not a complete"):
        load_dataset(f"folder:{tmp_path}")
    with pytest.raises(FileError, match="there is no folder"):
        load_dataset(f"folder:{tmp_path / 'nowhere'}")


def test_bad_texts_are_named(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes(b"")
    with pytest.raises(DataError, match="has 0 characters"):
        load_dataset(f"text:{path}")
    path.write_bytes(b"abc\xff")
    with pytest.raises(FileError, match="not UTF-8"):
        load_dataset(f"text:{path}")
    with pytest.raises(ArgumentError, match="`block`"):
        load_dataset(f"text:{path}#block=0")
    with pytest.raises(FileError, match="is a folder"):
        load_dataset(f"text:{tmp_path}")


BAD = {
    "unknown": ("digit", {}, UnknownNameError, "did you mean 'digits'"),
    "unknown form": ("parkett:a.parquet", {}, UnknownNameError, "did you mean 'parquet'"),
    "option": ("npz:a.npz#z=1", {}, UnknownNameError, "option of npz"),
    "number": (3, {}, ArgumentError, "`data` must be a string"),
    "examples": ("digits", {"examples": 0}, ArgumentError, "`examples`"),
    "normalization": (
        "digits",
        {"normalize": "unity"},
        UnknownNameError,
        "did you mean 'unit'",
    ),
    "missing": ("parquet:nowhere.parquet", {}, FileError, "there is no file"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_specs_are_named(case):
    spec, options, error, words = BAD[case]
    with pytest.raises(error, match=words):
        load_dataset(spec, **options)


@pytest.fixture(scope="module")
def samples(tmp_path_factory):
    folder = tmp_path_factory.mktemp("samples")
    write_parquet(folder / "parquet", pixels(4, 4), [0, 1, 2, 0])
    np.savez_compressed(folder / "npz.npz", x=pixels(4, 4), y=np.arange(4))
    (folder / "npz.npz").rename(folder / "npz")
    return {kind: (folder / kind).read_bytes() for kind in ("parquet", "npz")}, folder


@given(kind=st.sampled_from(["parquet", "npz"]), place=st.floats(0, 1), cut=st.booleans())
def test_damage_anywhere_is_a_named_error_or_no_damage(samples, kind, place, cut):
    contents, folder = samples
    content = contents[kind]
    at = int(place * (len(content) - 1))
    broken = (
        content[:at] if cut else content[:at] + bytes([content[at] ^ 0x5A]) + content[at + 1 :]
    )
    path = folder / f"broken.{kind}"
    path.write_bytes(broken)
    try:
        data = load_dataset(f"{kind}:{path}")
    except AtlasError as error:
        data, message = None, str(error)
    assert (str(path) in message) if data is None else (not cut and len(data) > 0)


def test_a_card_that_is_not_there_is_named():
    data = Dataset(torch.zeros(2, 3), torch.zeros(2, dtype=torch.long), classes=("a", "b"))
    with pytest.raises(
        ArgumentError, match=r"'cuda:99' cannot be used \(.+\); available: 'cpu'"
    ):
        data.to("cuda:99")
    assert torch.equal(data.to("cpu").inputs, data.inputs)
