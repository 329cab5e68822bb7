"""BatchNorm between the running statistics and those of the images at hand: alpha-BN and instance-aware BN.

Both are functions of a layer's input and its buffers, so that gradients run through the statistics of the images.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

Moments2 = tuple[Tensor, Tensor]
"""Mean and variance that broadcast against ``(B, C, H, W)``."""


def running(layer: nn.BatchNorm2d) -> Moments2:
    """The running statistics themselves, ``(C,)`` each."""
    mean, var = layer.running_mean, layer.running_var
    assert mean is not None
    assert var is not None
    return mean, var


def alpha_moments(layer: nn.BatchNorm2d, x: Tensor, alpha: float) -> Moments2:
    """``1 - alpha`` of the running statistics, ``alpha`` of the batch's (specs/methods.md 3; Schneider et al. 2020).

    Args:
        layer: Gives the running statistics.
        x: ``(B, C, H, W)`` float32 or float64 input of the layer.
        alpha: In [0, 1]; 1 is the batch alone.
    """
    var, mean = torch.var_mean(x, dim=(0, 2, 3), correction=0, keepdim=True)
    own_mean, own_var = (part.to(x).view(1, -1, 1, 1) for part in running(layer))
    return own_mean.lerp(mean, alpha), own_var.lerp(var, alpha)


def soft_shrink(x: Tensor, limit: Tensor) -> Tensor:
    """``x`` moved towards 0 by ``limit``, and 0 within it."""
    return x.sign() * (x.abs() - limit).clamp(min=0.0)


def instance_aware_moments(layer: nn.BatchNorm2d, x: Tensor, shrink: float) -> Moments2:
    """Running statistics, corrected where an image's own lie beyond what chance explains (NOTE: Gong et al. 2022).

    The standard error of a mean over n pixels is ``sqrt(var / n)``, that of an unbiased variance
    ``var * sqrt(2 / (n - 1))``; deviations within ``shrink`` of these are noise (specs/methods.md 3, IABN).

    Args:
        layer: Gives the running statistics.
        x: ``(B, C, H, W)`` float32 or float64 input of the layer.
        shrink: Factor k on the standard errors.
    """
    pixels = x.shape[-2] * x.shape[-1]
    var, mean = torch.var_mean(x, dim=(2, 3), correction=1, keepdim=True)
    own_mean, own_var = (part.to(x).view(1, -1, 1, 1) for part in running(layer))
    mean_error = (own_var / pixels).sqrt()
    var_error = own_var * math.sqrt(2.0 / (pixels - 1))
    mean = own_mean + soft_shrink(mean - own_mean, shrink * mean_error)
    return mean, own_var + soft_shrink(var - own_var, shrink * var_error)


def _normalised(find: Callable[[nn.BatchNorm2d, Tensor], Moments2], layer: nn.BatchNorm2d, x: Tensor) -> Tensor:
    exact = x.to(torch.promote_types(x.dtype, torch.float32))
    mean, var = find(layer, exact)
    y = (exact - mean) * (var + layer.eps).rsqrt()
    if layer.affine:
        y = y * layer.weight.to(exact).view(1, -1, 1, 1) + layer.bias.to(exact).view(1, -1, 1, 1)
    return y.to(x.dtype)


@contextmanager
def mixed_statistics(
    layers: list[nn.BatchNorm2d], find: Callable[[nn.BatchNorm2d, Tensor], Moments2]
) -> Iterator[None]:
    """Lets ``layers`` normalise with what ``find`` makes of layer and input; no buffer moves."""
    for layer in layers:
        # On the instance: hooks of the layer still see its input and output.
        layer.__dict__["forward"] = functools.partial(_normalised, find, layer)
    try:
        yield
    finally:
        for layer in layers:
            del layer.__dict__["forward"]
