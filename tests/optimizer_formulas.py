"""Which formulas, written in NumPy, do the tests hold the optimizers against?

Each takes first weights, a function that gives the gradient, and a learning rate, and makes `NUM_STEPS` steps.
"""

import numpy as np
import torch
from torch import nn

from evohbde.data import TensorData

NUM_STEPS = 6


def descent(w, gradient, lr):
    for _ in range(NUM_STEPS):
        w = w - lr * gradient(w)
    return w


def heavy_ball(w, gradient, lr, nesterov=False):
    v = 0
    for _ in range(NUM_STEPS):
        g = gradient(w)
        v = 0.9 * v + g
        w = w - lr * (g + 0.9 * v if nesterov else v)
    return w


def adagrad(w, gradient, lr):
    n = 0
    for _ in range(NUM_STEPS):
        g = gradient(w)
        n = n + g**2
        w = w - lr * g / (np.sqrt(n) + 1e-10)
    return w


def adadelta(w, gradient, lr):
    s = u = 0
    for _ in range(NUM_STEPS):
        g = gradient(w)
        s = 0.9 * s + 0.1 * g**2
        change = np.sqrt(u + 1e-6) / np.sqrt(s + 1e-6) * g
        u = 0.9 * u + 0.1 * change**2
        w = w - lr * change
    return w


def rmsprop(w, gradient, lr):
    s = 0
    for _ in range(NUM_STEPS):
        g = gradient(w)
        s = 0.99 * s + 0.01 * g**2
        w = w - lr * g / (np.sqrt(s) + 1e-8)
    return w


def adam(w, gradient, lr, weight_decay=0.0):
    m = v = 0
    for t in range(1, NUM_STEPS + 1):
        g = gradient(w)
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g**2
        w = w - lr * weight_decay * w
        w = w - lr * m / (1 - 0.9**t) / (np.sqrt(v / (1 - 0.999**t)) + 1e-8)
    return w


def nadam(w, gradient, lr):
    """Dozat (2016), with its warming momentum."""
    m = v = 0
    product = 1.0
    for t in range(1, NUM_STEPS + 1):
        g = gradient(w)
        now, later = (0.9 * (1 - 0.5 * 0.96 ** (0.004 * k)) for k in (t, t + 1))
        product *= now
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g**2
        direction = (1 - now) * g / (1 - product) + later * m / (1 - product * later)
        w = w - lr * direction / (np.sqrt(v / (1 - 0.999**t)) + 1e-8)
    return w


def adamax(w, gradient, lr):
    m = u = 0
    for t in range(1, NUM_STEPS + 1):
        g = gradient(w)
        m, u = 0.9 * m + 0.1 * g, np.maximum(0.999 * u, np.abs(g) + 1e-8)
        w = w - lr / (1 - 0.9**t) * m / u
    return w


def ftrl(w, gradient, lr, l1=0.0, l2=0.0, beta=0.0, n=0.1, power=-0.5, warm_start=True):
    """Algorithm 1 of McMahan et al. (2013) in their letters, from z_0 = -w_0 (beta + sqrt(n_0)) / alpha or from 0."""
    n = np.full_like(w, n)
    z = -w * (beta + n**-power) / lr if warm_start else np.zeros_like(w)
    for _ in range(NUM_STEPS):
        g = gradient(w)
        sigma = ((n + g**2) ** -power - n**-power) / lr
        z = z + g - sigma * w
        n = n + g**2
        w = np.where(np.abs(z) <= l1, 0.0, -(z - np.sign(z) * l1) / ((beta + n**-power) / lr + l2))
    return w


FORMULAS = {
    "GD": descent,
    "SGD": descent,
    "mini-batch SGD": descent,
    "momentum": heavy_ball,
    "Nesterov": lambda w, gradient, lr: heavy_ball(w, gradient, lr, nesterov=True),
    "Adagrad": adagrad,
    "Adadelta": adadelta,
    "RMSprop": rmsprop,
    "Adam": adam,
    "NAdam": nadam,
    "Adamax": adamax,
    "Ftrl": ftrl,
    "AdamW": lambda w, gradient, lr: adam(w, gradient, lr, weight_decay=0.01),
}


def softmax_regression() -> tuple[nn.Linear, TensorData]:
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(12, 4, generator=generator, dtype=torch.float64)
    model = nn.Linear(4, 3, bias=False, dtype=torch.float64)
    model.weight.data = torch.randn(3, 4, generator=generator, dtype=torch.float64)
    return model, TensorData(x, torch.arange(12) % 3)


def gradient_by_hand(data: TensorData):
    """X^T (softmax - one-hot) / B of softmax regression, by NumPy: `(12,) -> (12,)`."""
    x, target = data.x.numpy(), np.eye(3)[data.y.numpy()]

    def gradient(w):
        scores = x @ w.reshape(3, 4).T
        probability = np.exp(scores - scores.max(1, keepdims=True))
        probability /= probability.sum(1, keepdims=True)
        return ((probability - target).T @ x / len(x)).ravel()

    return gradient
