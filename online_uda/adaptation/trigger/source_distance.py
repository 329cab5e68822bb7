"""How far a frame is from the source domain, in units of what held-out source frames show.

Statistics are whitened by the source's own covariance. Two distances follow: the largest coordinate along a *shift
axis* (the mean direction in which one corruption moves the source images), and the root mean square over all
directions, for shifts that no corruption resembles. The first is the sensitive one: scenes differ a little in every
direction, and the maximum over a few directions sees little of it. Each is divided by its own limit, a stated quantile
of the distances of source frames that were held out; the larger one counts. So 1.0 means "as odd as the oddest few per
cent of unseen source frames" for every network and data set.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from statistics import NormalDist
from typing import Any

import torch
from torch import Tensor

from online_uda.adaptation.trigger.source_statistics import SourceSample
from online_uda.errors import UserError

MIN_IMAGES = 4
FOLDS = 8
SHRINKAGE = 0.1
"""Share of the identity in the correlation matrix, so that directions no source frame uses keep a finite variance."""
_FLAT = 1e-3
_ALL_QUANTILE = 0.9999
"""Over all directions unusual streets are far off as well, so that only what source frames never show may count."""


@dataclass(frozen=True, slots=True)
class _Space:
    """Affine maps from statistics to whitened coordinates and to coordinates along the shift axes."""

    mean: Tensor
    whiten: Tensor
    axes: Tensor


def _whitened_space(sample: SourceSample, keep: Tensor) -> _Space:
    """Fits mean, whitening and shift axes on the images ``keep`` (N,) bool."""
    vectors = sample.vectors[keep]
    mean, std = vectors.mean(0), vectors.std(0)
    std = std.clamp_min(_FLAT * float(std.mean()) + 1e-12)
    scaled = (vectors - mean) / std
    correlation = scaled.T @ scaled / (len(scaled) - 1)
    correlation = (1 - SHRINKAGE) * correlation + SHRINKAGE * torch.eye(len(std), dtype=torch.float64)
    values, rotation = torch.linalg.eigh(correlation)
    whiten = (rotation / values.sqrt()) @ rotation.T / std.unsqueeze(1)
    used = keep[sample.of]
    moved = (sample.corrupted[:, used] - sample.vectors[sample.of[used]]) @ whiten
    shifts = moved.mean(1)
    axes = shifts / shifts.norm(dim=1, keepdim=True).clamp_min(1e-12)
    return _Space(mean, whiten, axes.T.contiguous())


def _distances(space: _Space, vectors: Tensor) -> tuple[Tensor, Tensor]:
    """Of ``vectors`` (N, D): the largest coordinate along an axis, and the root mean square over all directions."""
    whitened = (vectors - space.mean) @ space.whiten
    return (whitened @ space.axes).abs().amax(1), whitened.square().mean(1).sqrt()


def _upper(distances: Tensor, quantile: float) -> float:
    """Log-normal quantile: with few source images the largest one seen says little about the tail."""
    logs = distances.clamp_min(1e-12).log()
    return math.exp(float(logs.mean()) + NormalDist().inv_cdf(quantile) * float(logs.std()))


def _scene_scatter(space: _Space, sample: SourceSample) -> float:
    """Relative variance of a shift's size from scene to scene, the median over corruptions.

    A rain of one rate moves an open road's statistics more than a narrow street's. The same holds for corruptions,
    which therefore tell, from source images alone, how much the distance wanders inside one domain.
    """
    moved = (sample.corrupted - sample.vectors[sample.of]) @ space.whiten
    along = torch.einsum("kmd,dk->km", moved, space.axes)
    return float((along.var(1) / along.mean(1).square().clamp_min(1e-12)).median())


@dataclass(frozen=True, slots=True)
class SourceDistance:
    """A calibrated distance from the source domain.

    Attributes:
        mean: (D,) float64.
        whiten: (D, D) float64.
        axes: (D, K) float64, unit shift axes in whitened coordinates, one a corruption.
        axes_limit: Distance along the axes that counts as 1.
        all_limit: Distance over all directions that counts as 1.
        near_limit: Distance, in units of the limits, under which a stream is at home again.
        noise: Standard deviation of the distance among held-out source frames, in units of the limits.
        scatter: Relative variance of a shift's size from scene to scene.
    """

    mean: Tensor
    whiten: Tensor
    axes: Tensor
    axes_limit: float
    all_limit: float
    near_limit: float
    noise: float
    scatter: float

    @classmethod
    def fit(cls, sample: SourceSample, far_quantile: float, near_quantile: float) -> SourceDistance:
        """Calibrates on source statistics; the limits come from contiguous blocks that are held out in turn.

        Contiguous, because neighbours of a recorded sequence resemble each other; images in random order lose nothing.

        Args:
            sample: Statistics of the source images.
            far_quantile: Share of unseen source frames that lie nearer than 1.
            near_quantile: Share of unseen source frames that lie nearer than ``near_limit``.

        Raises:
            UserError: If there are fewer than 4 images, they are all alike, or a statistic is not finite.
        """
        count = len(sample.vectors)
        if count < MIN_IMAGES:
            raise UserError(f"the shift detector needs at least {MIN_IMAGES} source images, got {count}")
        if not (sample.vectors.isfinite().all() and sample.corrupted.isfinite().all()):
            raise UserError("the network's first stage is not finite on the source images: check its weights")
        if float(sample.vectors.std(0).max()) < 1e-9:
            raise UserError("all source images look alike to the network: give a source with different images")
        held_axes, held_all = [], []
        for block in torch.arange(count).tensor_split(min(FOLDS, count // 2)):
            keep = torch.ones(count, dtype=torch.bool)
            keep[block] = False
            if not keep[sample.of].any():
                continue
            along, everywhere = _distances(_whitened_space(sample, keep), sample.vectors[block])
            held_axes.append(along)
            held_all.append(everywhere)
        along, everywhere = torch.cat(held_axes), torch.cat(held_all)
        space = _whitened_space(sample, torch.ones(count, dtype=torch.bool))
        axes_limit = _upper(along, far_quantile)
        return cls(
            mean=space.mean,
            whiten=space.whiten,
            axes=space.axes,
            axes_limit=axes_limit,
            all_limit=_upper(everywhere, max(far_quantile, _ALL_QUANTILE)),
            near_limit=_upper(along, near_quantile) / axes_limit,
            noise=float(along.std()) / axes_limit,
            scatter=_scene_scatter(space, sample),
        )

    def __call__(self, vector: Tensor) -> float:
        """Distance of one frame's statistics (D,) from the source; 1 is the limit of the source domain."""
        along, everywhere = _distances(_Space(self.mean, self.whiten, self.axes), vector.double().view(1, -1))
        return max(float(along) / self.axes_limit, float(everywhere) / self.all_limit)

    def signature(self, vector: Tensor) -> Tensor:
        """Where one frame's statistics (D,) lie: ``(K,)`` coordinates along the shift axes, 1 being the limit."""
        whitened = (vector.double() - self.mean) @ self.whiten
        return whitened @ self.axes / self.axes_limit

    def log_variance(self, distance: float) -> float:
        """Variance of the log distance inside a domain at ``distance``: the source's own, and the scenes' scatter."""
        return (self.noise / distance) ** 2 + self.scatter

    def state_dict(self) -> dict[str, Any]:
        """All fields as tensors and numbers."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    @classmethod
    def from_state_dict(cls, state: Mapping[str, Any]) -> SourceDistance:
        """The distance of a `state_dict`."""
        return cls(**{field.name: state[field.name] for field in fields(cls)})
