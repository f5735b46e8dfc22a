"""Models whose forward changes something: buffers, frozen parameters, attributes, lists."""

import copy

import torch
from torch import nn
from torch.nn import functional as F

from zoo.derivatives import CE, SURROGATE, plain_ce
from zoo.losses import labeled, network
from zoo.member import Case, mean_over, refused, right


class Centered(nn.Module):
    """DINO: a moving center of the outputs, updated at every call, whatever the mode."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(6, 8), nn.Linear(8, 3)
        self.register_buffer("center", torch.zeros(3))

    def forward(self, x):
        out = self.b(torch.tanh(self.a(x)))
        with torch.no_grad():
            self.center.mul_(0.5).add_(out.mean(0), alpha=0.5)
        return out - self.center.clone()


@refused("state", "gradient", SURROGATE)
def moving_center_inside_the_output():
    """The center follows the weights without a graph: the gradient is not that of the loss."""
    return Case(Centered(), CE, labeled(6), plain_ce)


class Counting(nn.Module):
    """A center that is only kept, and a counter: nothing reads what the pass wrote."""

    def __init__(self):
        super().__init__()
        self.net = network()
        self.register_buffer("center", torch.ones(3))
        self.register_buffer("calls", torch.zeros((), dtype=torch.long))
        self.history = []

    def forward(self, x):
        out = self.net(x) - self.center
        with torch.no_grad():
            self.center = self.center * 1.0
            self.calls += 1
        self.history.append(float(self.calls))
        return out


@right("state")
def counters_and_lists():
    return Case(Counting(), CE, labeled(6, 4), plain_ce)


class Queue(nn.Module):
    """MoCo: keys of this call are negatives of the next; the queue is a buffer."""

    def __init__(self):
        super().__init__()
        self.net = network(classes=4)
        self.register_buffer("queue", F.normalize(torch.randn(8, 4), dim=1))
        self.register_buffer("at", torch.zeros((), dtype=torch.long))

    def forward(self, x, key):
        query = F.normalize(self.net(x), dim=1)
        logits = torch.cat(
            [(query * key).sum(1, keepdim=True), query @ self.queue.T.clone()], 1
        )
        with torch.no_grad():
            where = (int(self.at) + torch.arange(len(key))) % len(self.queue)
            self.queue[where] = key
            self.at.add_(len(key)).remainder_(len(self.queue))
        return logits / 0.5


@right("state")
def memory_queue():
    """One batch a pass: the queue that the pass reads is that of the model."""

    def loss(model, batch):
        logits = model(batch[0], batch[1])
        return F.cross_entropy(logits, torch.zeros(len(logits), dtype=torch.long))

    batches = [(torch.randn(5, 6), F.normalize(torch.randn(5, 4), dim=1))]
    return Case(Queue(), loss, batches, mean_over(lambda b: len(b[0]), loss))


class Remembering(nn.Module):
    """Keeps what it made of the first input it ever saw, and adds it from then on."""

    def __init__(self):
        super().__init__()
        self.net, self.kept = network(), None

    def forward(self, x):
        out = self.net(x)
        if self.kept is None:
            self.kept = out.detach().mean(0)
        return out + 0 * self.kept.sum()


@right("state")
def cached_activation():
    return Case(Remembering(), CE, labeled(6, 4), plain_ce)


class Bootstrap(nn.Module):
    """BYOL: the target network follows the online one inside forward."""

    def __init__(self):
        super().__init__()
        self.online = network(classes=4)
        self.target = copy.deepcopy(self.online).requires_grad_(False)

    def forward(self, x, other):
        with torch.no_grad():
            goal = self.target(other)
            for slow, fast in zip(
                self.target.parameters(), self.online.parameters(), strict=True
            ):
                slow.lerp_(fast.detach().to(slow), 0.1)
        return 2 - 2 * F.cosine_similarity(self.online(x), goal)


@right("state")
def target_updated_in_forward():
    """One batch: the target that the pass reads is that of the model, at every point."""

    def loss(model, batch):
        return model(*batch)

    def plain(model, batch):
        return model(*batch).sum(), len(batch[0])

    return Case(Bootstrap(), loss, [(torch.randn(6, 6), torch.randn(6, 6))], plain)


class Merged(nn.Module):
    """LoRA that merges on its first evaluation and keeps the sum: the factors never move."""

    def __init__(self):
        super().__init__()
        self.base = nn.Linear(6, 3)
        self.a, self.b = nn.Parameter(torch.randn(2, 6)), nn.Parameter(torch.randn(3, 2))
        self.merged = None
        self.refresh()

    def refresh(self):
        self.merged = (self.base.weight + self.b @ self.a).detach()

    def forward(self, x):
        return F.linear(x, self.merged.to(x), self.base.bias)


@right("state", unused=("a", "b", "base.weight"))
def merged_weights():
    """The bias moves; the cached sum does not, and what it was made of is said to be unused."""
    return Case(Merged(), CE, labeled(6, 4), plain_ce)


@refused("state", "construction", "(?s)nothing can be measured.*'merged'.*cache")
def merged_weights_alone():
    return Case(Merged(), CE, labeled(6, 4), plain_ce, {"params": ["a", "b", "base.weight"]})


class InPlace(nn.Module):
    """Writes into its own input."""

    def __init__(self):
        super().__init__()
        self.net = network()

    def forward(self, x):
        x.sub_(0.0).clamp_(-3, 3)
        return self.net(x)


@right("state")
def writes_into_its_input():
    return Case(InPlace(), CE, labeled(6, 4), plain_ce)


@right("state")
def pops_its_batch():
    """A loss that takes the labels out of the mapping, as many trainers do."""

    def loss(model, batch):
        labels = batch.pop("labels")
        return F.cross_entropy(model(batch["x"]), labels, reduction="none")

    def plain(model, batch):
        return F.cross_entropy(model(batch["x"]), batch["labels"], reduction="sum"), len(
            batch["x"]
        )

    batches = [{"x": x, "labels": y} for x, y in labeled(6, 4)]
    return Case(network(), loss, batches, plain)


def normalized() -> nn.Sequential:
    model = nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 3, 1))
    model[1].running_mean.normal_()
    model[1].running_var.uniform_(0.5, 2.0)
    return nn.Sequential(model, nn.AdaptiveAvgPool2d(1), nn.Flatten())


def images(*sizes):
    return [(torch.randn(n, 2, 6, 6), torch.randint(0, 3, (n,))) for n in sizes]


@right("state")
def batch_normalization():
    model = normalized()
    model.train()
    return Case(model, CE, images(5, 3), plain_ce)


@right("state")
def statistics_of_the_batch():
    """mode="train": each batch by its own statistics; running ones stay."""

    def plain(model, batch):
        model.train()
        return plain_ce(model, batch)

    return Case(normalized(), CE, images(5, 3), plain, {"mode": "train"})


@right("state")
def dropout_in_the_model():
    model = nn.Sequential(nn.Linear(6, 8), nn.Dropout(0.5), nn.Tanh(), nn.Linear(8, 3))
    model.train()
    return Case(model, CE, labeled(6, 4), plain_ce)


@refused("state", "construction", "(?s)two passes.*(dropout|draw)")
def dropout_that_never_sleeps():
    class Noisy(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = network()

        def forward(self, x):
            return self.net(F.dropout(x, 0.5))

    return Case(Noisy(), CE, labeled(6, 4), plain_ce)


@refused("state", "construction", "(?s)two passes.*state")
def state_without_an_end():
    """A buffer outside the model grows with every call: no pass is like another."""
    model, count = network(), [0]

    def loss(model, batch):
        count[0] += 1
        return count[0] * F.cross_entropy(model(batch[0]), batch[1])

    return Case(model, loss, labeled(6, 4), mean_over(lambda b: len(b[0]), loss))
