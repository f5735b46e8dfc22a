"""Batches of other shapes than (input, target) with the examples along axis 0."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pack_sequence, pad_packed_sequence

import lossatlas as la
from zoo.losses import BY_DIFFERENCES
from zoo.member import Case, mean_over, refused, right


class TimeMajor(nn.Module):
    def __init__(self):
        super().__init__()
        self.lstm, self.head = nn.LSTM(4, 6), nn.Linear(6, 3)

    def forward(self, x):
        return self.head(self.lstm(x)[0][-1])


@right("structure")
def time_major_lstm():
    def loss(model, batch):
        return F.cross_entropy(model(batch[0]), batch[1], reduction="none")

    def plain(model, batch):
        return F.cross_entropy(model(batch[0]), batch[1], reduction="sum"), len(batch[1])

    batches = [(torch.randn(5, n, 4), torch.randint(0, 3, (n,))) for n in (7, 3)]
    return Case(TimeMajor(), loss, batches, plain, {"size": lambda batch: len(batch[1])})


@right("structure")
def time_major_mean():
    def loss(model, batch):
        return F.cross_entropy(model(batch[0]), batch[1])

    batches = [(torch.randn(5, n, 4), torch.randint(0, 3, (n,))) for n in (7, 3)]
    plain = mean_over(lambda b: len(b[1]), loss)
    return Case(TimeMajor(), loss, batches, plain, {"size": lambda batch: len(batch[1])})


class Packed(nn.Module):
    def __init__(self):
        super().__init__()
        self.lstm, self.head = nn.LSTM(4, 6, batch_first=True), nn.Linear(6, 3)

    def forward(self, packed):
        return self.head(pad_packed_sequence(self.lstm(packed)[0], batch_first=True)[0].sum(1))


@right("structure")
def packed_sequences():
    def loss(model, batch):
        return F.cross_entropy(model(batch[0]), batch[1], reduction="none")

    def plain(model, batch):
        return F.cross_entropy(model(batch[0]), batch[1], reduction="sum"), len(batch[1])

    batches = []
    for lengths in ((5, 3, 2, 2), (4, 1)):
        rows = pack_sequence([torch.randn(length, 4) for length in lengths])
        batches.append((rows, torch.randint(0, 3, (len(lengths),))))
    return Case(Packed(), loss, batches, plain)


class Bag(nn.Module):
    def __init__(self):
        super().__init__()
        self.bag, self.head = nn.EmbeddingBag(12, 5), nn.Linear(5, 3)

    def forward(self, words, offsets):
        return self.head(self.bag(words, offsets))


@refused(
    "structure", "curvature", "(?s)_embedding_bag_backward.*no second derivative.*differences"
)
def embedding_bag():
    def loss(model, batch):
        return F.cross_entropy(model(batch[0], batch[1]), batch[2], reduction="none")

    def plain(model, batch):
        return F.cross_entropy(model(*batch[:2]), batch[2], reduction="sum"), len(batch[2])

    batches = []
    for offsets in ([0, 3, 4, 9], [0, 2]):
        words = torch.randint(0, 12, (offsets[-1] + 2,))
        batches.append((words, torch.tensor(offsets), torch.randint(0, 3, (len(offsets),))))
    return Case(Bag(), loss, batches, plain, {"size": lambda batch: len(batch[2])})


class Graph(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(4, 6), nn.Linear(6, 3)

    def forward(self, x, adjacency):
        return self.second(adjacency @ torch.tanh(self.first(adjacency @ x)))


@right("structure")
def masked_graph():
    """Transductive: one graph, the loss over the nodes of a mask."""

    def loss(model, batch):
        x, adjacency, y, mask = batch
        losses = F.cross_entropy(model(x, adjacency), y, reduction="none")
        return la.Weighted(losses * mask, mask.to(losses))

    def plain(model, batch):
        x, adjacency, y, mask = batch
        kept = model(x, adjacency)[mask]
        return F.cross_entropy(kept, y[mask], reduction="sum"), int(mask.sum())

    batches = []
    for nodes in (9, 6):
        edges = (torch.rand(nodes, nodes) < 0.4).float() + torch.eye(nodes)
        normal = edges / edges.sum(1, keepdim=True)
        mask = torch.arange(nodes) % 3 > 0
        batches.append((torch.randn(nodes, 4), normal, torch.randint(0, 3, (nodes,)), mask))
    return Case(Graph(), loss, batches, plain)


class Autoencoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.encode, self.decode = nn.Linear(6, 4), nn.Linear(2, 6)

    def forward(self, x, eps):
        mean, log_variance = self.encode(x).chunk(2, 1)
        return self.decode(mean + eps * (0.5 * log_variance).exp()), mean, log_variance


@right("structure")
def variational_autoencoder():
    def loss(model, batch):
        x, eps = batch
        out, mean, log_variance = model(x, eps)
        divergence = 0.5 * (mean**2 + log_variance.exp() - 1 - log_variance).sum(1)
        return ((out - x) ** 2).sum(1) + divergence

    def plain(model, batch):
        return loss(model, batch).sum(), len(batch[0])

    batches = [(torch.randn(n, 6), torch.randn(n, 2)) for n in (5, 4)]
    return Case(Autoencoder(), loss, batches, plain)


class Ragged(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(4, 6), nn.Linear(6, 1)

    def forward(self, x):
        return self.second(torch.tanh(self.first(x)))


@refused("structure", "curvature", "(?s)second derivative of `loss` failed.*differences")
def jagged_tensors():
    def loss(model, batch):
        return torch.stack([(row.squeeze(-1) ** 2).mean() for row in model(batch[0]).unbind()])

    def plain(model, batch):
        return sum((model(row) ** 2).mean() for row in batch[0].unbind()), batch[0].size(0)

    batches = [
        (torch.nested.nested_tensor([torch.randn(k, 4) for k in lengths], layout=torch.jagged),)
        for lengths in ((3, 5, 2), (4, 1))
    ]
    return Case(Ragged(), loss, batches, plain, {"size": lambda batch: batch[0].size(0)})


@right("structure", tolerances=(2e-5, 1e-3, 3e-2))
def jagged_tensors_by_differences():
    case = jagged_tensors()
    options = {**case.options, **BY_DIFFERENCES}
    return Case(case.model, case.loss, case.batches, case.plain, options)


@right("structure", tolerances=(2e-5, 1e-3, 3e-2))
def embedding_bag_by_differences():
    case = embedding_bag()
    options = {**case.options, **BY_DIFFERENCES}
    return Case(case.model, case.loss, case.batches, case.plain, options)


@dataclass
class Record:
    points: dict
    labels: Tensor


class TwoTowers(nn.Module):
    def __init__(self):
        super().__init__()
        self.left, self.right = nn.Linear(4, 3), nn.Linear(2, 3)

    def forward(self, points):
        return torch.tanh(self.left(points["left"])) * torch.tanh(self.right(points["right"]))


@right("structure")
def dataclass_of_dicts():
    def loss(model, batch):
        return F.cross_entropy(model(batch.points), batch.labels)

    batches = [
        Record(
            {"left": torch.randn(n, 4), "right": torch.randn(n, 2)}, torch.randint(0, 3, (n,))
        )
        for n in (5, 3)
    ]
    return Case(TwoTowers(), loss, batches, mean_over(lambda b: len(b.labels), loss))


@right("structure")
def convolution_in_three_dimensions():
    """Segmentation: one class a pixel, a batch of one image beside one of two."""
    model = nn.Sequential(nn.Conv2d(2, 4, 3, padding=1), nn.GELU(), nn.Conv2d(4, 3, 1))
    loss = la.supervised(nn.CrossEntropyLoss())

    def plain(model, batch):
        losses = -model(batch[0]).log_softmax(1).gather(1, batch[1][:, None])
        return losses.mean((1, 2, 3)).sum(), len(batch[0])

    batches = [(torch.randn(n, 2, 5, 5), torch.randint(0, 3, (n, 5, 5))) for n in (1, 2)]
    return Case(model, loss, batches, plain)


class Cross(nn.Module):
    def __init__(self):
        super().__init__()
        self.block = nn.TransformerDecoderLayer(8, 2, 16, dropout=0.0, batch_first=True)
        self.head = nn.Linear(8, 1)

    def forward(self, x, memory, padding):
        return self.head(self.block(x, memory, memory_key_padding_mask=padding)).squeeze(-1)


@right("structure")
def attention_with_padding():
    def loss(model, batch):
        return (model(*batch["inputs"]) - batch["target"]).square().mean(1)

    def plain(model, batch):
        return loss(model, batch).sum(), len(batch["target"])

    batches = []
    for n in (4, 2):
        padding = torch.arange(5)[None] >= torch.randint(2, 6, (n, 1))
        inputs = (torch.randn(n, 3, 8), torch.randn(n, 5, 8), padding)
        batches.append({"inputs": inputs, "target": torch.randn(n, 3)})
    return Case(Cross(), loss, batches, plain)
