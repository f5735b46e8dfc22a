"""Losses whose mean is not that of equal examples, or that are more than a criterion."""

import copy

import torch
from torch import nn
from torch.nn import functional as F

import lossatlas as la
from zoo.member import Case, mean_over, refused, right

BY_DIFFERENCES = {"derivatives": "differences"}


def network(inputs: int = 6, classes: int = 3) -> nn.Sequential:
    return nn.Sequential(nn.Linear(inputs, 8), nn.Tanh(), nn.Linear(8, classes))


def labeled(*sizes: int, inputs: int = 6, classes: int = 3) -> list:
    return [(torch.randn(n, inputs), torch.randint(0, classes, (n,))) for n in sizes]


class Words(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.mix = nn.Embedding(9, 6), nn.Linear(6, 6)
        self.head = nn.Linear(6, 9)

    def forward(self, tokens):
        past = self.embed(tokens).cumsum(1) / torch.arange(1, tokens.shape[1] + 1)[:, None]
        return self.head(torch.tanh(self.mix(past))).transpose(1, 2)


@right("loss")
def ignored_tokens():
    """A language model whose padding is -100, in batches with unequal shares of it."""
    batches = []
    for n, kept in ((4, 7), (3, 2)):
        tokens, targets = torch.randint(0, 9, (n, 7)), torch.randint(0, 9, (n, 7))
        targets[:, kept:] = -100
        targets[0, 1:] = -100
        batches.append((tokens, targets))

    def plain(model, batch):
        logits = model(batch[0]).transpose(1, 2)[batch[1] != -100]
        picked = logits.log_softmax(1).gather(1, batch[1][batch[1] != -100][:, None])
        return -picked.sum(), len(picked)

    return Case(Words(), la.supervised(F.cross_entropy), batches, plain)


@right("loss")
def class_weights():
    weight = torch.tensor([0.2, 1.0, 3.0])

    def plain(model, batch):
        picked = model(batch[0]).log_softmax(1).gather(1, batch[1][:, None])[:, 0]
        share = weight.to(picked)[batch[1]]
        return -(picked * share).sum(), float(share.sum())

    criterion = nn.CrossEntropyLoss(weight=weight)
    return Case(network(), la.supervised(criterion), labeled(7, 4), plain)


@right("loss")
def label_smoothing():
    def plain(model, batch):
        logs = model(batch[0]).log_softmax(1)
        target = F.one_hot(batch[1], 3) * 0.9 + 0.1 / 3
        return -(target * logs).sum(), len(logs)

    criterion = nn.CrossEntropyLoss(label_smoothing=0.1)
    return Case(network(), la.supervised(criterion), labeled(7, 4), plain)


@right("loss")
def sum_of_squares():
    """`reduction="sum"`: what is measured is the sum of one example."""

    def plain(model, batch):
        return (model(batch[0]) - batch[1]).square().sum(), len(batch[0])

    batches = [(torch.randn(n, 6), torch.randn(n, 3)) for n in (5, 4)]
    return Case(network(), la.supervised(nn.MSELoss(reduction="sum")), batches, plain)


@right("loss")
def positive_weights():
    """Several labels an example, with weights of the positive ones."""
    weight = torch.tensor([2.0, 0.5, 4.0])

    def plain(model, batch):
        out, y = model(batch[0]), batch[1]
        losses = -(weight.to(out) * y * F.logsigmoid(out) + (1 - y) * F.logsigmoid(-out))
        return losses.mean(1).sum(), len(out)

    batches = [(torch.randn(n, 6), torch.randint(0, 2, (n, 3)).float()) for n in (5, 4)]
    criterion = nn.BCEWithLogitsLoss(pos_weight=weight)
    # The criterion is a module of float32 in both; the product of the dtypes is float64.
    return Case(network(), la.supervised(criterion), batches, plain)


@right("loss")
def weighted_examples():
    def loss(model, batch):
        x, y, weight = batch
        return la.Weighted(F.cross_entropy(model(x), y, reduction="none") * weight, weight)

    def plain(model, batch):
        x, y, weight = batch
        losses = F.cross_entropy(model(x), y, reduction="none")
        return (losses * weight).sum(), float(weight.sum())

    batches = [(x, y, torch.rand(len(x)) + 0.1) for x, y in labeled(7, 4)]
    return Case(network(), loss, batches, plain)


@right("loss")
def contrastive():
    """InfoNCE: every example is a negative of the others, so a batch is the unit."""

    def loss(model, batch):
        left, right_ = (F.normalize(model(view), dim=1) for view in batch)
        return F.cross_entropy(left @ right_.T / 0.2, torch.arange(len(left)))

    batches = [(torch.randn(n, 6), torch.randn(n, 6)) for n in (6, 4)]
    return Case(network(), loss, batches, mean_over(lambda b: len(b[0]), loss))


class ArcFace(nn.Module):
    """A loss with weights of its own, one vector a class."""

    def __init__(self):
        super().__init__()
        self.centers = nn.Parameter(torch.randn(3, 4))

    def forward(self, model, batch):
        x, y = batch
        cosine = F.normalize(model(x), dim=1) @ F.normalize(self.centers.to(x), dim=1).T
        angle = torch.acos(cosine.clamp(-0.99, 0.99)) + 0.3 * F.one_hot(y, 3)
        return F.cross_entropy(8 * torch.cos(angle), y)


@refused(
    "loss",
    "construction",
    "(?s)parameters of its own \\('ArcFace.centers'\\).*one module hold",
)
def loss_with_weights_of_its_own():
    return Case(network(classes=4), ArcFace(), labeled(7, 4), mean_over(len, ArcFace()))


@right("loss")
def loss_with_weights_in_the_model():
    """What the refusal advises."""

    def loss(model, batch):
        return model[1](model[0], batch)

    both = nn.ModuleList([network(classes=4), ArcFace()])
    return Case(both, loss, labeled(7, 4), mean_over(lambda b: len(b[0]), loss))


@right("loss")
def multiplied_tasks():
    """Several losses of one trunk, with learned log-variances in the model."""

    class Tasks(nn.Module):
        def __init__(self):
            super().__init__()
            self.trunk, self.one, self.two = (nn.Linear(6, 5), nn.Linear(5, 3), nn.Linear(5, 1))
            self.scales = nn.Parameter(torch.zeros(2))

        def forward(self, x):
            shared = torch.tanh(self.trunk(x))
            return {"class": self.one(shared), "value": self.two(shared)[:, 0]}

    def loss(model, batch):
        out = model(batch["x"])
        parts = torch.stack(
            [
                F.cross_entropy(out["class"], batch["y"], reduction="none"),
                (out["value"] - batch["t"]).square(),
            ]
        )
        return (parts * (-model.scales).exp()[:, None] + model.scales[:, None]).sum(0)

    def plain(model, batch):
        return loss(model, batch).sum(), len(batch["x"])

    batches = [{"x": x, "y": y, "t": torch.randn(len(x))} for x, y in labeled(5, 4)]
    return Case(Tasks(), loss, batches, plain)


class Detector(nn.Module):
    """Gives losses in train mode and boxes in eval mode, as torchvision's detectors do."""

    def __init__(self):
        super().__init__()
        self.trunk, self.box, self.kind = nn.Linear(6, 8), nn.Linear(8, 4), nn.Linear(8, 3)

    def forward(self, images, targets=None):
        features = torch.tanh(self.trunk(images))
        boxes, kinds = self.box(features), self.kind(features)
        if not self.training:
            return [
                {"boxes": box, "scores": kind} for box, kind in zip(boxes, kinds, strict=True)
            ]
        return {
            "box": F.smooth_l1_loss(boxes, targets["boxes"]),
            "kind": F.cross_entropy(kinds, targets["labels"]),
        }


@refused("loss", "construction", "(?s)eval mode.*train mode")
def detector_in_eval_mode():
    def loss(model, batch):
        return sum(model(*batch).values())

    batches = [
        (torch.randn(n, 6), {"boxes": torch.randn(n, 4), "labels": torch.randint(0, 3, (n,))})
        for n in (5, 4)
    ]
    return Case(Detector(), loss, batches, mean_over(lambda b: len(b[0]), loss))


@right("loss")
def detector_that_is_told():
    """The same, switched to train mode by the loss itself and back again."""

    def loss(model, batch):
        model.training = True
        try:
            return sum(model(*batch).values())
        finally:
            model.training = False

    batches = [
        (torch.randn(n, 6), {"boxes": torch.randn(n, 4), "labels": torch.randint(0, 3, (n,))})
        for n in (5, 4)
    ]
    return Case(Detector(), loss, batches, mean_over(lambda b: len(b[0]), loss))


class Speller(nn.Module):
    def __init__(self):
        super().__init__()
        self.rnn, self.head = nn.GRU(4, 6, batch_first=True), nn.Linear(6, 5)

    def forward(self, x):
        return self.head(self.rnn(x)[0]).log_softmax(2)


@refused("loss", "curvature", "(?s)_ctc_loss.*no second derivative.*differences")
def connectionist_temporal_classification():
    """Has first derivatives only."""

    def loss(model, batch):
        logs = model(batch["x"]).transpose(0, 1)
        lengths = torch.full((logs.shape[1],), logs.shape[0])
        wanted = torch.full((logs.shape[1],), batch["y"].shape[1])
        losses = F.ctc_loss(logs, batch["y"], lengths, wanted, reduction="none")
        return losses / batch["y"].shape[1]

    def plain(model, batch):
        return loss(model, batch).sum(), len(batch["x"])

    batches = [{"x": torch.randn(n, 8, 4), "y": torch.randint(1, 5, (n, 3))} for n in (4, 2)]
    return Case(Speller(), loss, batches, plain)


@right("loss", tolerances=(2e-5, 1e-3, 3e-2))
def connectionist_by_differences():
    case = connectionist_temporal_classification()
    return Case(case.model, case.loss, case.batches, case.plain, BY_DIFFERENCES)


@right("loss")
def penalty_of_the_weights():
    """L2 of the model's own parameters, read through the model that is handed over."""

    def loss(model, batch):
        penalty = sum(p.square().sum() for p in model.parameters())
        return F.cross_entropy(model(batch[0]), batch[1]) + 0.01 * penalty

    return Case(network(), loss, labeled(7, 4), mean_over(lambda b: len(b[0]), loss))


@refused("loss", "construction", "(?s)model itself .'0.weight' .and 3 more.*no captured lists")
def penalty_of_captured_weights():
    """The same from a list that the loss holds: it never moves."""
    model = network()
    captured = list(model.parameters())

    def loss(model, batch):
        penalty = sum(p.square().sum() for p in captured)
        return F.cross_entropy(model(batch[0]), batch[1]) + 0.01 * penalty

    return Case(model, loss, labeled(7, 4), mean_over(lambda b: len(b[0]), loss))


@refused("loss", "construction", "(?s)model itself .'0.weight' .and 3 more.*no captured lists")
def penalty_of_an_optimizer():
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, weight_decay=0.1)

    def loss(model, batch):
        group = optimizer.param_groups[0]
        penalty = sum(p.square().sum() for p in group["params"])
        return F.cross_entropy(model(batch[0]), batch[1]) + group["weight_decay"] * penalty

    return Case(model, loss, labeled(7, 4), mean_over(lambda b: len(b[0]), loss))


@refused("loss", "construction", "(?s)nothing can be measured.*call the model that it is given")
def another_model_than_the_one_given():
    """The loss calls a model of its own: the most frequent slip in a notebook."""
    mine = network()

    def loss(model, batch):
        return F.cross_entropy(mine(batch[0]), batch[1])

    return Case(copy.deepcopy(mine), loss, labeled(7, 4), mean_over(lambda b: len(b[0]), loss))
