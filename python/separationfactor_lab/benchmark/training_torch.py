"""k-sparse autoencoders in PyTorch: dense, and with sparse products as SAE libraries compute them on a CPU.

This module imports PyTorch, which is optional.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn

from separationfactor_lab.benchmark.cases import TrainingCase, training_data, training_weights


class Loop:
    """Trains with PyTorch's fused Adam in a plain loop over batches, which is the least that a user writes.

    There is no `DataLoader`: the batches are tensors in memory.
    """

    def __init__(
        self,
        case: TrainingCase,
        make: Callable[[TrainingCase], nn.Module],
        precision: str,
        learning_rate: float,
        epsilon: float,
    ):
        self.note = ""
        torch.set_num_threads(case.threads)
        # TensorFlow's kernels take denormals for zeros too.
        torch.set_flush_denormal(True)
        self._dtype = getattr(torch, precision)
        self._module = make(case).to(self._dtype)
        self._optimizer = torch.optim.Adam(
            self._module.parameters(), lr=learning_rate, eps=epsilon, fused=True
        )
        self._batches = [torch.from_numpy(batch).to(self._dtype) for batch in training_data(case)]

    def _step(self, x: torch.Tensor) -> torch.Tensor:
        y = self._module(x)
        F.mse_loss(y, x).backward()
        self._optimizer.step()
        # At the end of a step and not at its begin, so that no gradient is held between steps.
        self._optimizer.zero_grad(set_to_none=True)
        return y

    def losses(self, batches: list[np.ndarray]) -> list[float]:
        """Takes a step on each batch, and returns the losses before the steps.

        They are computed in float32, because a bfloat16 has eight significant bits.
        """
        found = []
        for batch in batches:
            x = torch.from_numpy(batch)
            y = self._step(x.to(self._dtype))
            found.append(float(F.mse_loss(y.detach().float(), x)))
        return found

    def time_steps(self, count: int) -> float:
        """Takes `count + 1` steps, and returns the seconds per step of all but the first."""
        self._step(self._batches[-1])
        start = time.perf_counter()
        for step in range(count):
            self._step(self._batches[step % len(self._batches)])
        return (time.perf_counter() - start) / count


class Dense(nn.Module):
    """A dense encoder, top-k, scattered into zeros, and a dense decoder."""

    def __init__(self, case: TrainingCase):
        super().__init__()
        encoder, decoder = training_weights(case)
        self.k = case.k
        self.encoder = nn.Linear(case.d, case.n)
        self.decoder = nn.Linear(case.n, case.d)
        with torch.no_grad():
            self.encoder.weight.copy_(torch.from_numpy(encoder))
            self.decoder.weight.copy_(torch.from_numpy(decoder).T)
            self.encoder.bias.zero_()
            self.decoder.bias.zero_()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Returns the reconstruction."""
        scores = self.encoder(x)
        values, indices = scores.topk(self.k, sorted=False)
        return self.decoder(torch.zeros_like(scores).scatter(-1, indices, values))


class _Encode(torch.autograd.Function):
    """The top k of a linear layer. The gradients are those of the selected entries alone."""

    @staticmethod
    def forward(ctx: Any, x, kernel, bias, k):
        values, indices = F.linear(x, kernel, bias).topk(k, sorted=False)
        ctx.save_for_backward(x, kernel, bias, indices)
        ctx.mark_non_differentiable(indices)
        return values, indices

    @staticmethod
    def backward(ctx: Any, d_values, _):
        x, kernel, bias, indices = ctx.saved_tensors
        return None, _rows(indices, d_values, x, kernel), _sums(indices, d_values, bias), None


def _rows(indices, coefficients, x, kernel):
    """Returns a dense gradient: for each latent, the sum over its uses of coefficient * x."""
    uses = (coefficients.unsqueeze(-1) * x.unsqueeze(-2)).reshape(-1, x.shape[-1])
    return torch.zeros_like(kernel).index_add_(0, indices.reshape(-1), uses)


def _sums(indices, coefficients, bias):
    return torch.zeros_like(bias).index_add_(0, indices.reshape(-1), coefficients.reshape(-1))


class _Decode(torch.autograd.Function):
    """The sum of the selected rows of a kernel, each times its value."""

    @staticmethod
    def forward(ctx: Any, values, indices, kernel):
        ctx.save_for_backward(values, indices, kernel)
        return F.embedding_bag(indices, kernel, per_sample_weights=values, mode="sum")

    @staticmethod
    def backward(ctx: Any, d_y):
        values, indices, kernel = ctx.saved_tensors
        rows = kernel[indices.reshape(-1)].view(*indices.shape, -1)
        d_values = torch.bmm(rows, d_y.unsqueeze(-1)).squeeze(-1)
        return d_values, None, _rows(indices, values, d_y, kernel)


class Sparse(nn.Module):
    """The algorithm of openai/sparse_autoencoder and EleutherAI/sparsify, written anew for a CPU.

    A dense product and top-k; `embedding_bag` to decode; the kernels' gradients by `index_add_`. On GPUs
    these libraries have Triton kernels for the same products.

    Args:
        case: The shapes.
        with_autograd: Whether the decoder's gradient is that of PyTorch's `embedding_bag`, as in sparsify,
            instead of `index_add_`.
    """

    def __init__(self, case: TrainingCase, with_autograd: bool):
        super().__init__()
        encoder, decoder = (torch.from_numpy(kernel) for kernel in training_weights(case))
        self.k = case.k
        self.with_autograd = with_autograd
        self.encoder_kernel = nn.Parameter(encoder)
        self.encoder_bias = nn.Parameter(torch.zeros(case.n))
        self.decoder_kernel = nn.Parameter(decoder)
        self.decoder_bias = nn.Parameter(torch.zeros(case.d))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Returns the reconstruction."""
        values, indices = _Encode.apply(x, self.encoder_kernel, self.encoder_bias, self.k)
        if self.with_autograd:
            y = F.embedding_bag(indices, self.decoder_kernel, per_sample_weights=values, mode="sum")
        else:
            y = _Decode.apply(values, indices, self.decoder_kernel)
        return y + self.decoder_bias
