"""Instance whitening: feature covariances that the look of a scene changes are pulled to zero (RobustNet).

Choi et al. 2021; specs/seed-systems.md 5, fixture F6. IW takes every pair of channels, IRW leaves a share of their sum
free, ISW takes the pairs whose covariance a change of colours moves most.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import kmeans1d
import torch
from torch import Tensor

EPS = 1e-5


def channel_covariance(features: Tensor) -> Tensor:
    """Covariance of the channels of each image, after instance normalisation.

    Args:
        features: ``(B, D, h, w)`` float, more than one cell.

    Returns:
        ``(B, D, D)``: ``Z Z^T / (h w - 1) + eps I``.
    """
    x = features.flatten(2)
    var, mean = torch.var_mean(x, dim=2, correction=0, keepdim=True)
    z = (x - mean) * (var + EPS).rsqrt()
    eye = torch.eye(x.shape[1], dtype=x.dtype, device=x.device)
    return z @ z.transpose(1, 2) / (x.shape[2] - 1) + EPS * eye


def all_pairs(channels: int) -> Tensor:
    """``(D, D)`` bool: every pair once, the upper triangle without the diagonal."""
    return torch.ones(channels, channels, dtype=torch.bool).triu(1)


def whitening_loss(features: Tensor, mask: Tensor, margin: float = 0.0) -> Tensor:
    """Mean absolute covariance over the pairs of a mask.

    Args:
        features: ``(B, D, h, w)``.
        mask: ``(D, D)`` bool, pairs that count.
        margin: What of the mean stays without a penalty.

    Returns:
        Scalar, 0 for an empty mask.
    """
    pairs = mask.sum().clamp(min=1)
    sums = (channel_covariance(features).abs() * mask).sum((1, 2))
    return (sums / pairs - margin).clamp(min=0.0).mean()


def sensitivity(pairs: Iterable[tuple[Tensor, Tensor]]) -> Tensor:
    """Variance of every covariance between an image and its recoloured copy, averaged over pairs of ``(1, D, h, w)``.

    Returns:
        ``(D, D)``, zero on the diagonal and below it.
    """
    found = [torch.cat([channel_covariance(one), channel_covariance(two)]).var(0) for one, two in pairs]
    return torch.stack(found).mean(0).triu(1)


def sensitive_pairs(variances: Sequence[Tensor], clusters: int) -> Tensor:
    """Pairs that lie above the lowest of ``clusters`` clusters of one dimension, in every one of ``variances``.

    The zeros below the diagonal are clustered along, as published.

    Args:
        variances: ``(D, D)`` of `sensitivity`, one a trial.
        clusters: k of k-means.

    Returns:
        ``(D, D)`` bool.
    """
    kept = None
    for variance in variances:
        flat = variance.flatten().tolist()
        labels, _ = kmeans1d.cluster(flat, clusters)
        above = torch.tensor(labels).view_as(variance) > 0
        kept = above if kept is None else kept & above
    assert kept is not None
    return kept & all_pairs(len(kept))
