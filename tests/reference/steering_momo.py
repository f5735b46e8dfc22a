"""MoMo and MoMo-Adam as the paper writes them, on one flat vector, without decay."""

import torch


class NaiveMoMo:
    """SGD with averaged gradients; averages start at the first sample, rho = 1.

    The first `warmup` steps are at the full rate.
    """

    def __init__(self, w, lr, beta, bound=0.0, warmup=0):
        self.w, self.lr, self.beta, self.bound = w.clone(), lr, beta, bound
        self.warmup = warmup
        self.f = self.d = self.gamma = None

    def step(self, loss, grad):
        if self.d is None:
            self.f, self.d, self.gamma = loss, grad.clone(), float(grad @ self.w)
        else:
            b = self.beta
            self.f = b * self.f + (1 - b) * loss
            self.d = b * self.d + (1 - b) * grad
            self.gamma = b * self.gamma + (1 - b) * float(grad @ self.w)
        gap = max(self.f - self.bound + float(self.d @ self.w) - self.gamma, 0.0)
        tau = min(self.lr, gap / float(self.d @ self.d)) if self.warmup <= 0 else self.lr
        self.warmup -= 1
        self.w = self.w - tau * self.d
        return tau


class NaiveMoMoAdam:
    """Averages start at zero, rho = 1 - beta1^k; the bound may be estimated."""

    def __init__(self, w, lr, betas=(0.9, 0.999), eps=1e-8, bound=0.0, estimate=False):
        self.w, self.lr, self.betas, self.eps = w.clone(), lr, betas, eps
        self.bound, self.lowest, self.estimate = bound, bound, estimate
        self.f, self.gamma, self.k = 0.0, 0.0, 0
        self.d, self.v = torch.zeros_like(w), torch.zeros_like(w)

    def step(self, loss, grad):
        (b1, b2), self.k = self.betas, self.k + 1
        self.f = b1 * self.f + (1 - b1) * loss
        self.gamma = b1 * self.gamma + (1 - b1) * float(grad @ self.w)
        self.d = b1 * self.d + (1 - b1) * grad
        self.v = b2 * self.v + (1 - b2) * grad**2
        scale = (self.v / (1 - b2**self.k)).sqrt() + self.eps
        rho = 1 - b1**self.k
        height = self.f + float(self.d @ self.w) - self.gamma
        if self.estimate and height < rho * self.bound:
            self.bound = max(height / (2 * rho), self.lowest)
        square = float(self.d @ (self.d / scale))
        tau = min(self.lr / rho, max(height - rho * self.bound, 0.0) / square)
        if self.estimate:
            self.bound = max((height - 0.5 * tau * square) / rho, self.lowest)
        self.w = self.w - tau * self.d / scale
        return tau * rho
