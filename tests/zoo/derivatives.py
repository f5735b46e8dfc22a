"""Models whose derivatives are not those of what they compute, and honest ones."""

import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

import lossatlas as la
from zoo.losses import BY_DIFFERENCES, labeled
from zoo.member import Case, refused, right

CE = la.supervised(F.cross_entropy)
SURROGATE = "(?s)gradient is not that of the loss.*differences of values.*surrogate"
SECOND = "(?s)differences of gradients.*derivatives='differences'"


def plain_ce(model, batch):
    return F.cross_entropy(model(batch[0]), batch[1], reduction="sum"), len(batch[1])


class Rounded(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return torch.round(4 * x) / 4

    @staticmethod
    def backward(ctx, grad):
        return grad


class Spike(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return (x > 0).to(x)

    @staticmethod
    def backward(ctx, grad):
        return grad / (1 + 10 * ctx.saved_tensors[0].abs()) ** 2


class Reversed(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.view_as(x)

    @staticmethod
    def backward(ctx, grad):
        return -0.5 * grad


class SavedDerivative(torch.autograd.Function):
    """As in GPyTorch's RBF kernel: what backward multiplies with has no graph of its own."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(torch.exp(-x.square()) * -2 * x)
        return torch.exp(-x.square())

    @staticmethod
    def backward(ctx, grad):
        return grad * ctx.saved_tensors[0]


class Once(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.sin()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad):
        return grad * ctx.saved_tensors[0].cos()


class Apply(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function.apply(x)


def around(function) -> Case:
    model = nn.Sequential(nn.Linear(6, 8), Apply(function), nn.Linear(8, 3))
    return Case(model, CE, labeled(7, 4), plain_ce)


@refused("derivative", "gradient", SURROGATE)
def straight_through_rounding():
    return around(Rounded)


@refused("derivative", "gradient", SURROGATE)
def spiking_by_hand():
    return around(Spike)


@refused("derivative", "gradient", SURROGATE)
def gradient_reversal():
    return around(Reversed)


@refused("derivative", "curvature", SECOND)
def derivative_saved_in_forward():
    return around(SavedDerivative)


@right("derivative")
def derivative_saved_in_forward_by_differences():
    """What the refusal advises."""
    case = around(SavedDerivative)
    return Case(case.model, CE, case.batches, plain_ce, BY_DIFFERENCES)


@refused(
    "derivative", "curvature", "(?s)once_differentiable.*write its backward with differentiable"
)
def once_differentiable():
    return around(Once)


class Equilibrium(nn.Module):
    """z = tanh(W z + U x), its gradient by the implicit function theorem or by one step."""

    def __init__(self, *, implicit: bool):
        super().__init__()
        self.implicit = implicit
        self.inner, self.outer = nn.Linear(5, 5, bias=False), nn.Linear(6, 5)
        self.head = nn.Linear(5, 3)
        with torch.no_grad():
            self.inner.weight.mul_(0.5)

    def step(self, z, x):
        return torch.tanh(self.inner(z) + self.outer(x))

    def forward(self, x):
        with torch.no_grad():
            z = x.new_zeros(len(x), 5)
            for _ in range(80):
                z = self.step(z, x)
        z = self.step(z, x)
        if self.implicit and z.requires_grad:
            fixed = z.detach().requires_grad_()
            after = self.step(fixed, x.detach())

            def solve(grad):
                found = grad
                for _ in range(80):
                    found = (
                        grad + torch.autograd.grad(after, fixed, found, retain_graph=True)[0]
                    )
                return found

            z.register_hook(solve)
        return self.head(z)


@refused("derivative", "curvature", SECOND)
def deep_equilibrium():
    return Case(Equilibrium(implicit=True), CE, labeled(5, 4), plain_ce)


@refused("derivative", "curvature", SECOND)
def equilibrium_with_a_gradient_of_one_step():
    """Off by 4 % of the gradient: kinks leave as much, so that only the Hessian shows it."""
    return Case(Equilibrium(implicit=False), CE, labeled(5, 4), plain_ce)


class Checkpointed(nn.Module):
    def __init__(self, *, reentrant: bool):
        super().__init__()
        self.first = nn.Sequential(nn.Linear(6, 8), nn.Tanh())
        self.head = nn.Linear(8, 3)
        self.reentrant = reentrant

    def forward(self, x):
        return self.head(checkpoint(self.first, x, use_reentrant=self.reentrant))


@refused("derivative", "gradient", "(?s)first.0.weight.*moves the loss.*use_reentrant=False")
def reentrant_checkpoint():
    return Case(Checkpointed(reentrant=True), CE, labeled(7, 4), plain_ce)


@right("derivative")
def checkpoint_without_reentrance():
    return Case(Checkpointed(reentrant=False), CE, labeled(7, 4), plain_ce)


@right("derivative")
def physics_informed():
    """u'' + u = 0: the loss holds derivatives of the network."""
    model = nn.Sequential(nn.Linear(1, 8), nn.Tanh(), nn.Linear(8, 1))

    def loss(model, batch):
        x = batch[0].detach().clone().requires_grad_()
        u = model(x)
        first = torch.autograd.grad(u.sum(), x, create_graph=True)[0]
        second = torch.autograd.grad(first.sum(), x, create_graph=True)[0]
        return (second + u).square()[:, 0]

    def plain(model, batch):
        x = batch[0]
        weight, bias = model[0].weight[:, 0], model[0].bias
        h = torch.tanh(x * weight + bias)
        curved = (-2 * h * (1 - h**2) * weight**2) @ model[2].weight[0]
        return (curved + model(x)[:, 0]).square().sum(), len(x)

    return Case(model, loss, [(torch.rand(n, 1),) for n in (6, 5)], plain)


@right("derivative", unused=("2.bias",))
def energy_based():
    """Score matching by a Jacobian of the network, in a batch loss."""
    model = nn.Sequential(nn.Linear(2, 8), nn.Softplus(), nn.Linear(8, 1))

    def loss(model, batch):
        with torch.enable_grad():
            x = batch[0].detach().clone().requires_grad_()
            score = -torch.autograd.grad(model(x).sum(), x, create_graph=True)[0]
        return (score + batch[0]).square().sum(1)

    def plain(model, batch):
        return loss(model, batch).sum(), len(batch[0])

    return Case(model, loss, [(torch.randn(n, 2),) for n in (6, 5)], plain)


@right("derivative")
def learning_to_learn():
    """MAML: an inner gradient step inside the loss."""
    model = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3))

    def loss(model, batch):
        x, y, far, far_y = batch

        def inner(weights):
            return F.cross_entropy(torch.func.functional_call(model, weights, (x,)), y)

        weights = dict(model.named_parameters())
        steps = torch.func.grad(inner)(weights)
        moved = {name: value - 0.3 * steps[name] for name, value in weights.items()}
        return F.cross_entropy(torch.func.functional_call(model, moved, (far,)), far_y)

    def plain(model, batch):
        x, y, far, far_y = batch
        weights = dict(model.named_parameters())
        inner = F.cross_entropy(model(x), y)
        steps = torch.autograd.grad(inner, list(weights.values()), create_graph=True)
        first, bias, second, shift = (
            value - 0.3 * step for value, step in zip(weights.values(), steps, strict=True)
        )
        out = F.linear(torch.tanh(F.linear(far, first, bias)), second, shift)
        return F.cross_entropy(out, far_y, reduction="sum"), len(far)

    batches = [
        (torch.randn(n, 6), torch.randint(0, 3, (n,)), torch.randn(n, 6), torch.arange(n) % 3)
        for n in (5, 4)
    ]
    return Case(model, loss, batches, plain)


class Siamese(nn.Module):
    def __init__(self):
        super().__init__()
        self.encode = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 4))
        self.predict = nn.Linear(4, 4)

    def forward(self, x):
        z = self.encode(x)
        return z, self.predict(z)


@refused("derivative", "gradient", SURROGATE)
def siamese_with_a_stopped_gradient():
    """SimSiam: the target is detached, so the gradient is of another function."""

    def loss(model, batch):
        (z1, p1), (z2, p2) = model(batch[0]), model(batch[1])
        near = F.cosine_similarity(p1, z2.detach()) + F.cosine_similarity(p2, z1.detach())
        return -near / 2

    def plain(model, batch):
        return loss(model, batch).sum(), len(batch[0])

    batches = [(torch.randn(n, 6), torch.randn(n, 6)) for n in (6, 4)]
    return Case(Siamese(), loss, batches, plain)


@right("derivative")
def rectified_residual():
    """Kinks, and no false alarm."""

    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.norm = nn.Linear(6, 12), nn.Linear(12, 6), nn.LayerNorm(6)

        def forward(self, x):
            return self.norm(x + self.b(F.relu(self.a(x))))

    model = nn.Sequential(Block(), Block(), nn.Linear(6, 3))
    return Case(model, CE, labeled(7, 4), plain_ce)


@right("derivative")
def sorted_and_pooled():
    """Piecewise smooth operations: sort, top-k, maximum, clamp."""

    class Pooled(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(6, 9), nn.Linear(6, 3)

        def forward(self, x):
            hidden = self.a(x).sort(1).values.topk(8).values[:, :6].clamp(-2, 2)
            return self.b(torch.maximum(hidden, hidden.flip(1) * 0.3))

    return Case(Pooled(), CE, labeled(7, 4), plain_ce)


@right("derivative")
def fused_attention():
    """`scaled_dot_product_attention` has kernels without a second derivative."""

    class Attention(nn.Module):
        def __init__(self):
            super().__init__()
            self.qkv, self.head = nn.Linear(8, 24), nn.Linear(8, 3)

        def forward(self, x):
            q, k, v = (
                part.unflatten(2, (2, 4)).transpose(1, 2) for part in self.qkv(x).chunk(3, 2)
            )
            mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
            return self.head(mixed.transpose(1, 2).flatten(2).mean(1))

    batches = [(torch.randn(n, 5, 8), torch.randint(0, 3, (n,))) for n in (4, 2)]
    return Case(Attention(), CE, batches, plain_ce)
