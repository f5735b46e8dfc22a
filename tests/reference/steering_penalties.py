"""Slow, obvious versions of the penalties: loops, autograd, dense matrices."""

import torch
from torch.nn import functional as F


def head_loss(weight, bias, features, targets, criterion):
    """The mean loss of a linear head as a function of its weights."""
    return criterion(features @ weight.T + bias, targets)


def head_hessian_trace(weight, bias, features, targets, criterion):
    """The trace of the Hessian in weight and bias, by autograd, dense."""
    sizes = (weight.numel(), bias.numel())

    def loss(flat):
        w, b = flat.split(sizes)
        return head_loss(w.view_as(weight), b, features, targets, criterion)

    flat = torch.cat([weight.flatten(), bias])
    return torch.autograd.functional.hessian(loss, flat).trace()


def mean_squared_gradient(weight, bias, features, targets, criterion):
    """The mean over examples of the squared length of their own gradient."""
    total = 0.0
    for row, target in zip(features, targets, strict=True):
        w, b = weight.clone().requires_grad_(), bias.clone().requires_grad_()
        loss = head_loss(w, b, row[None], target[None], criterion)
        total += sum(g.square().sum() for g in torch.autograd.grad(loss, [w, b]))
    return total / len(features)


def token_kl(first, second):
    """KL(p || q) a prediction, from logits, by the definition."""
    p, q = first.softmax(-1), second.softmax(-1)
    return (p * (p.log() - q.log())).sum(-1)


def cautious_sgd(weight, grad, lr, lam):
    """One step of SGD with Cautious Weight Decay, as the paper writes it."""
    return weight - lr * (grad + lam * (grad * weight >= 0) * weight)


CRITERIA = {
    "softmax": F.cross_entropy,
    "sigmoid": F.binary_cross_entropy_with_logits,
    "linear": F.mse_loss,
}
