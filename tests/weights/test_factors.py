"""Kronecker factors: exact where they must be, slow twins, what has none."""

import math

import pytest
import torch
from networks import objective
from torch import nn
from torch.nn import functional as F

import lossatlas as la
from lossatlas.curvature import fisher
from lossatlas.errors import ArgumentError, LossError, StructureError, UnknownNameError
from lossatlas.weights import factors


def supervised(model, *batches, **options):
    return la.Objective(
        model.double(), la.supervised(F.cross_entropy), list(batches), **options
    )


def dense(matrix, names):
    """A matrix over some parameters, column by column, and how they are laid out."""
    columns = []
    size = sum(matrix.params[name].numel() for name in names)
    for k in range(size):
        flat = torch.zeros(size, dtype=torch.float64)
        flat[k] = 1
        parts = dict(
            zip(names, flat.split([matrix.params[n].numel() for n in names]), strict=True)
        )
        given = {
            n: parts[n].view_as(v) if n in parts else 0 * v for n, v in matrix.params.items()
        }
        out = matrix @ given
        columns.append(torch.cat([out[n].flatten() for n in names]))
    return torch.stack(columns, 1)


def block(layer):
    """The block of a layer over its weight, then its bias, as `dense` lays them out."""
    full = torch.kron(layer.outputs.matrix, layer.inputs.matrix)
    if layer.corrected is not None:
        basis = torch.kron(layer.outputs.vectors, layer.inputs.vectors)
        full = basis * layer.corrected.flatten() @ basis.T
    outputs, inputs = len(layer.outputs.values), len(layer.inputs.values)
    place = torch.arange(outputs * inputs).view(outputs, inputs)
    width = inputs - bool(layer.bias)
    order = torch.cat([place[:, :width].flatten(), place[:, width:].flatten()])
    return full[order][:, order]


def test_one_example_and_one_linear_layer_are_exact():
    draw = torch.Generator().manual_seed(0)
    batch = torch.randn(1, 3, generator=draw, dtype=torch.float64), torch.tensor([1])
    task = supervised(nn.Linear(3, 4), batch)
    found = factors(task, draws=5)
    exact = dense(fisher(task, draws=5), ["weight", "bias"])
    assert torch.allclose(block(found["weight"]), exact, atol=1e-12)
    assert factors(task)["weight"].agreement.why_no_error == "fewer than four examples"


class Recurrent(nn.Module):
    def __init__(self, kind, batch_first):
        super().__init__()
        self.rnn, self.head = kind(3, 4, batch_first=batch_first), nn.Linear(4, 5)
        self.step = -1 if not batch_first else (slice(None), -1)

    def forward(self, x):
        return self.head(self.rnn(x)[0][self.step])


@pytest.mark.parametrize("batch_first", [True, False])
def test_one_step_of_one_example_through_an_lstm_is_exact(batch_first):
    draw = torch.Generator().manual_seed(0)
    batch = torch.randn(1, 1, 3, generator=draw, dtype=torch.float64), torch.tensor([1])
    task = supervised(Recurrent(nn.LSTM, batch_first), batch)
    found = factors(task)
    exact = fisher(task)
    for layer in found.layers:
        assert torch.allclose(block(layer), dense(exact, layer.names), atol=1e-12)
    assert [layer.bias for layer in found.layers] == [
        "rnn.bias_ih_l0",
        "rnn.bias_hh_l0",
        "head.bias",
    ]
    assert not found.skipped


def test_gates_are_seen_at_every_step():
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(6, 4, 3, generator=draw, dtype=torch.float64)
    task = supervised(Recurrent(nn.LSTM, True), (x, torch.tensor([0, 1, 2, 3, 4, 0])))
    found = factors(task, examples=0)
    # The inputs of W_ih are those of the data, those of W_hh start at 0.
    rows = torch.cat([x.flatten(0, 1), x.new_ones(24, 1)], 1)
    assert torch.allclose(found["rnn.weight_ih_l0"].inputs.matrix, rows.T @ rows / 24)
    states = torch.cat([x.new_zeros(6, 1, 4), task.model.rnn(x)[0][:, :-1]], 1).detach()
    rows = torch.cat([states.flatten(0, 1), x.new_ones(24, 1)], 1)
    assert torch.allclose(found["rnn.weight_hh_l0"].inputs.matrix, rows.T @ rows / 24)
    # Both are added before the gates: the slopes are the same.
    slopes = [found[f"rnn.weight_{k}_l0"].outputs.matrix for k in ("ih", "hh")]
    assert torch.allclose(*slopes)


def twin(task, draws=1, seed=0):
    """Factors of linear layers and convolutions, example by example, from hooks."""
    model, (batch,) = task.model, task.batches
    x, _ = batch
    kept = {}

    def watch(name):
        def note(module, args, out):
            out.retain_grad()
            kept[name] = args[0], out

        return note

    layers = {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear | nn.Conv2d)
    }
    handles = [module.register_forward_hook(watch(n)) for n, module in layers.items()]
    outputs = model(x)
    draw = la.rng.generator(seed, "labels", 0)
    sums = {name: [0, 0, 0] for name in layers}
    for turn in range(draws):
        shares = outputs.detach().softmax(1)
        labels = torch.multinomial(shares, 1, generator=draw).squeeze(1)
        model.zero_grad()
        for _, out in kept.values():
            out.grad = None
        F.cross_entropy(outputs, labels, reduction="sum").backward(retain_graph=True)
        for name, (inputs, out) in kept.items():
            module, grad = layers[name], out.grad
            for example, slope in zip(inputs.detach(), grad, strict=True):
                if isinstance(module, nn.Conv2d):
                    patches = F.unfold(
                        example[None], module.kernel_size, padding=module.padding
                    )[0]
                    columns, rows = patches.T, slope.flatten(1).T
                else:
                    columns, rows = example[None], slope[None]
                for column, g in zip(columns, rows, strict=True):
                    a = torch.cat([column, column.new_ones(1)])
                    if turn == 0:
                        sums[name][0] = sums[name][0] + torch.outer(a, a)
                        sums[name][2] += 1
                    sums[name][1] = sums[name][1] + torch.outer(g, g)
    for handle in handles:
        handle.remove()
    return {
        f"{name}.weight": (a / rows, g / (len(x) * draws))
        for name, (a, g, rows) in sums.items()
    }


def mlp():
    return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3))


def cnn():
    return nn.Sequential(
        nn.Conv2d(1, 3, 3, padding=1), nn.ReLU(), nn.Conv2d(3, 2, 2), nn.Flatten(),
        nn.Linear(18, 3),
    )  # fmt: skip


@pytest.mark.parametrize(("make", "shape"), [(mlp, (8, 4)), (cnn, (5, 1, 4, 4))])
def test_factors_equal_a_slow_twin(make, shape):
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(*shape, generator=draw, dtype=torch.float64)
    task = supervised(make(), (x, torch.arange(len(x)) % 3))
    found = factors(task, draws=2, examples=0)
    for name, (a, g) in twin(task, draws=2).items():
        assert torch.allclose(found[name].inputs.matrix, a, atol=1e-10)
        assert torch.allclose(found[name].outputs.matrix, g, atol=1e-10)


def test_batches_do_not_matter_but_for_the_labels():
    draw = torch.Generator().manual_seed(0)
    x, y = torch.randn(8, 4, generator=draw, dtype=torch.float64), torch.arange(8) % 3
    model = mlp()
    whole = factors(supervised(model, (x, y)), examples=0)
    assert {e.why_no_error for e in whole.estimates()} == {"not compared: examples=0"}
    parts = factors(supervised(model, (x[:3], y[:3]), (x[3:], y[3:])), examples=0)
    for one, two in zip(whole.layers, parts.layers, strict=True):
        assert torch.allclose(one.inputs.matrix, two.inputs.matrix)


def test_corrected_eigenvalues_are_those_of_the_exact_block_in_the_basis():
    draw = torch.Generator().manual_seed(0)
    x, y = torch.randn(8, 4, generator=draw, dtype=torch.float64), torch.arange(8) % 3
    task = supervised(mlp(), (x, y))
    plain, found = (factors(task, correct=k, examples=0) for k in (False, True))
    matrix = fisher(task)
    for layer, other in zip(found.layers, plain.layers, strict=True):
        exact = dense(matrix, layer.names)
        assert layer.trace == pytest.approx(float(exact.trace()))
        # Of all matrices that share the basis this one is the nearest.
        distances = [float((block(known) - exact).norm()) for known in (layer, other)]
        assert distances[0] < distances[1]
        inner = float((block(layer) * exact).sum())
        assert inner == pytest.approx(float(layer.corrected.square().sum()))


class Groups(nn.Module):
    """A convolution in groups over one position, and a layer of classes."""

    def __init__(self, kernel=3):
        super().__init__()
        self.conv, self.head = nn.Conv2d(4, 6, kernel, groups=2), nn.Linear(6, 3)

    def forward(self, x):
        return self.head(torch.tanh(self.conv(x)).mean((2, 3)))


def test_groups_of_a_convolution_are_rows():
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(7, 4, 3, 3, generator=draw, dtype=torch.float64)
    task = supervised(Groups(), (x, torch.arange(7) % 3))
    found = factors(task, correct=True, examples=0)["conv.weight"]
    rows = torch.cat([x[:, :2].flatten(1), x[:, 2:].flatten(1)])
    rows = torch.cat([rows, rows.new_ones(14, 1)], 1)
    assert torch.allclose(found.inputs.matrix, rows.T @ rows / 14)
    # Slopes of different groups never meet.
    assert not found.outputs.matrix[:3, 3:].any()
    exact = dense(fisher(task), ["conv.weight", "conv.bias"])
    assert found.trace == pytest.approx(float(exact.trace()))
    inner = float((block(found) * exact).sum())
    assert inner == pytest.approx(float(found.corrected.square().sum()))
    # At several positions the products of rows still give the gradient of every group.
    task = supervised(Groups(2), (x, torch.arange(7) % 3))
    assert not factors(task, examples=0).skipped


@pytest.mark.parametrize("axes", [1, 2])
def test_a_transposed_convolution_of_one_position_is_exact(axes):
    kind = nn.ConvTranspose1d if axes == 1 else nn.ConvTranspose2d
    draw = torch.Generator().manual_seed(0)
    shape = (1,) * axes
    x = torch.randn(1, 4, *shape, generator=draw, dtype=torch.float64)
    model = nn.Sequential(kind(4, 2, 2, bias=False), nn.Flatten())
    task = supervised(model, (x, torch.tensor([1])))
    found = factors(task, draws=4)["0.weight"]
    assert (found.kind, found.is_transposed) == ("transposed convolution", True)
    exact = dense(fisher(task, draws=4), ["0.weight"])
    # `dense` lays out the weight by inputs, the block by outputs.
    outputs, inputs = len(found.outputs.values), len(found.inputs.values)
    order = torch.arange(outputs * inputs).view(outputs, inputs).T.flatten()
    assert torch.allclose(block(found)[order][:, order], exact, atol=1e-12)


@pytest.mark.parametrize(("padding", "stride", "more"), [(0, 1, 0), (1, 2, 1), (0, 2, 0)])
def test_transposed_convolutions_are_found_whole(padding, stride, more):
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(6, 3, 4, 5, generator=draw, dtype=torch.float64)
    up = nn.ConvTranspose2d(3, 2, 3, stride, padding, more)
    model = nn.Sequential(up, nn.Tanh(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(8, 3))
    found = factors(supervised(model, (x, torch.arange(6) % 3)), correct=True)
    rows = x.permute(0, 2, 3, 1).flatten(0, 2)
    assert torch.allclose(found["0.weight"].inputs.matrix, rows.T @ rows / len(rows))
    assert 0 < found["0.weight"].agreement.value <= 1.3
    solved = found.solve(supervised(model, (x, torch.arange(6) % 3)).gradient(), 0.1)
    assert solved["0.weight"].shape == up.weight.shape


class Tied(nn.Module):
    """An embedding that gives the logits as well."""

    def __init__(self):
        super().__init__()
        self.embed, self.inner = nn.Embedding(5, 3), nn.Linear(3, 3)
        self.head = nn.Linear(3, 5, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, x):
        return self.head(torch.tanh(self.inner(self.embed(x))))


def test_a_tied_embedding_has_the_partial_traces_of_both_uses():
    x, y = torch.tensor([0, 3, 3, 1, 4]), torch.tensor([1, 2, 0, 0, 3])
    task = supervised(Tied(), (x, y))
    found = factors(task, draws=3, correct=True, examples=0)["embed.weight"]
    assert (found.kind, found.outputs.vectors) == ("tied", None)
    model, draw = task.model, la.rng.generator(0, "labels", 0)
    middle = model.embed(x).detach().requires_grad_()
    hidden = torch.tanh(model.inner(middle))
    logits = F.linear(hidden, model.embed.weight.detach())
    total = torch.zeros(5, 3, 5, 3, dtype=torch.float64)
    for _ in range(3):
        labels = torch.multinomial(logits.detach().softmax(1), 1, generator=draw).squeeze(1)
        loss = F.cross_entropy(logits, labels, reduction="sum")
        above, below = torch.autograd.grad(loss, [logits, middle], retain_graph=True)
        for k, token in enumerate(x):
            one = F.one_hot(token, 5).double()
            for row, column in ((above[k], hidden[k].detach()), (one, below[k])):
                part = torch.outer(row, column)
                total += torch.einsum("ij,kl->ijkl", part, part) / 15
    width, words = torch.einsum("ijil->jl", total), torch.einsum("ijij->i", total)
    assert torch.allclose(found.inputs.matrix * width.trace(), width)
    assert torch.allclose(found.outputs.values, words)
    turned = torch.einsum("ijkl,jm,lm->ikm", total, *[found.inputs.vectors] * 2)
    assert torch.allclose(found.corrected, torch.einsum("iim->im", turned))
    assert found.trace == pytest.approx(float(words.sum()))


def test_solving_is_that_of_the_dense_matrices():
    draw = torch.Generator().manual_seed(0)
    x, y = torch.randn(8, 4, generator=draw, dtype=torch.float64), torch.arange(8) % 3
    task = supervised(mlp(), (x, y))
    gradient = task.gradient()
    for correct in (False, True):
        found = factors(task, correct=correct, examples=0)
        solved = found.solve(gradient, 0.03)
        for layer in found.layers:
            a, g = layer.inputs.matrix, layer.outputs.matrix
            vector = torch.cat([gradient[n].flatten() for n in layer.names])
            if correct:
                matrix = block(layer) + 0.03 * torch.eye(len(vector))
                expected = torch.linalg.solve(matrix, vector)
            else:
                pi = math.sqrt(float(a.trace() / len(a) / (g.trace() / len(g))))
                slopes = torch.cat([gradient[layer.name], gradient[layer.bias][:, None]], 1)
                left = g + 0.03**0.5 / pi * torch.eye(len(g))
                right = a + 0.03**0.5 * pi * torch.eye(len(a))
                full = torch.linalg.inv(left) @ slopes @ torch.linalg.inv(right)
                expected = torch.cat([full[:, :-1].flatten(), full[:, -1]])
            result = torch.cat([solved[n].flatten() for n in layer.names])
            assert torch.allclose(result, expected)


def exact_block(task, layer):
    """The Fisher block with every label, weighted by its probability."""
    total = 0
    ((x, _),) = task.batches
    for example in x:
        outputs = task.model(example[None])[0]
        shares = outputs.detach().softmax(0)
        for label, share in enumerate(shares):
            loss = F.cross_entropy(outputs[None], torch.tensor([label]))
            named = dict(task.model.named_parameters())
            parts = torch.autograd.grad(
                loss, [named[n] for n in layer.names], retain_graph=True
            )
            flat = torch.cat([part.flatten() for part in parts])
            total = total + share * torch.outer(flat, flat) / len(x)
    return total


def test_the_cosine_is_that_to_the_exact_block():
    draw = torch.Generator().manual_seed(0)
    x, y = torch.randn(40, 4, generator=draw, dtype=torch.float64), torch.arange(40) % 3
    task = supervised(mlp(), (x, y))
    found = [factors(task, examples=40, seed=seed) for seed in range(12)]
    for k in range(2):
        errors = []
        for one in found:
            layer = one.layers[k]
            exact, about = exact_block(task, layer), block(layer)
            truth = float((exact * about).sum() / (exact.norm() * about.norm()))
            errors.append((layer.agreement.value - truth) / layer.agreement.stderr)
        scores = torch.tensor(errors)
        assert abs(float(scores.mean())) < 1
        assert float(scores.abs().median()) < 2
    some = factors(task, examples=10, seed=3).layers[0].agreement
    assert some.samples == 10


@pytest.mark.parametrize("name", ["cnn", "experts", "lstm", "gru", "encoder", "split heads"])
def test_linear_maps_of_many_models_are_found(name):
    task = objective(name)
    if name in {"lstm", "gru", "encoder", "split heads"}:
        task = la.Objective(
            task.model,
            lambda m, b: F.cross_entropy(m(b[0]).mT, b[1], reduction="none").mean(1),
            task.batches,
        )
    else:
        task = la.Objective(task.model, la.supervised(F.cross_entropy), task.batches)
    chosen = {} if name in {"cnn", "experts"} else {"likelihood": "categorical"}
    if chosen:
        last = factors(task, **chosen)
        task = la.Objective(Classes(task.model), Tokens(), task.batches)
    found = factors(task, **chosen)
    if chosen:
        # Classes may stand last: they are found by the shape of the labels.
        for one, two in zip(found.layers, last.layers, strict=True):
            assert torch.allclose(one.outputs.values, two.outputs.values, atol=1e-5)
    known = {layer.name for layer in found.layers} | set(found.skipped)
    assert known == {n for n, v in task.params.items() if v.ndim > 1}
    if name == "split heads":
        assert found["model.embed.weight"].kind == "tied"
        assert not found.skipped
    elif name == "experts":
        assert all("experts.2" in skipped or "route" in skipped for skipped in found.skipped)
    else:
        assert not found.skipped
    assert all(0 < layer.agreement.value <= 1.3 for layer in found.layers)
    assert "Kronecker factors" in found.sentences()[0]


class Classes(nn.Module):
    """A language model with its classes along axis 1."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, x):
        return self.model(x).mT


class Tokens:
    def __call__(self, model, batch):
        return F.cross_entropy(model(batch[0]), batch[1], reduction="none").mean(1)


def test_a_weight_that_is_also_used_otherwise_has_no_factors():
    class Penalized(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two = nn.Linear(4, 3), nn.Linear(3, 3)

        def forward(self, x):
            return self.two(torch.tanh(self.one(x))) + self.one.weight.sum()

    x = torch.randn(5, 4, dtype=torch.float64)
    found = factors(supervised(Penalized(), (x, torch.arange(5) % 3)), examples=0)
    # The sum moves all classes alike and has no slope: a weighted one has.
    assert found.skipped.keys() <= {"one.weight"}

    class Weighted(Penalized):
        def forward(self, x):
            return self.two(torch.tanh(self.one(x))) * self.one.weight.norm()

    found = factors(supervised(Weighted(), (x, torch.arange(5) % 3)), examples=0)
    assert "no linear map" in found.skipped["one.weight"]
    assert [layer.name for layer in found.layers] == ["two.weight"]


def test_they_are_stored_and_leave_the_model_alone(tmp_path):
    x, y = torch.randn(8, 4, dtype=torch.float64), torch.arange(8) % 3
    task = supervised(mlp(), (x, y))
    before = {name: value.clone() for name, value in task.model.state_dict().items()}
    found = factors(task, correct=True)
    assert la.load(found.save(tmp_path / "factors.nc")) == found
    assert found == factors(task, correct=True)
    assert all(torch.equal(before[n], v) for n, v in task.model.state_dict().items())
    assert len(repr(found)) <= 400
    assert found.spectrum["0.weight"].diff().max() <= 0


def test_bad_arguments_are_named():
    x, y = torch.randn(8, 4, dtype=torch.float64), torch.arange(8) % 3
    task = supervised(mlp(), (x, y))
    with pytest.raises(UnknownNameError, match="`layers`: no weight matches"):
        factors(task, "none.*")
    with pytest.raises(ArgumentError, match="`draws`"):
        factors(task, draws=0)
    with pytest.raises(ArgumentError, match="max_size=2"):
        factors(task, max_size=2)
    found = factors(task, "0", examples=0)
    with pytest.raises(ArgumentError, match="`damping`"):
        found.solve(task.gradient(), 0.0)
    with pytest.raises(StructureError):
        found.solve({}, 0.1)
    with pytest.raises(UnknownNameError, match="did you mean"):
        found["0.weigth"]
    with pytest.raises((ArgumentError, LossError)):
        factors(la.Objective(mlp(), lambda m, b: m(b[0].float()).square().mean(1), [(x, y)]))
