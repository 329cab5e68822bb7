"""Class prototypes in feature space, and labels weighed by the distance to them (ProDA, OnDA; specs/methods.md 3)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from online_uda.adaptation.objectives.soft import exact
from online_uda.adaptation.views import Answer

SMALLEST_SPREAD = 1e-3


def class_means(features: Tensor, labels: Tensor, num_classes: int) -> tuple[Tensor, Tensor]:
    """Mean feature of every class and how many cells it is of.

    Args:
        features: ``(B, D, h, w)`` float.
        labels: ``(B, h, w)`` int64; other values than 0 .. C - 1 are left out.
        num_classes: C.

    Returns:
        ``(C, D)``, 0 for absent classes, and ``(C,)`` float.
    """
    inside = (labels >= 0) & (labels < num_classes)
    chosen = features.movedim(1, -1)[inside]
    ids = labels[inside]
    counts = torch.bincount(ids, minlength=num_classes).to(chosen.dtype)
    sums = torch.zeros(num_classes, features.shape[1], dtype=chosen.dtype, device=chosen.device)
    return sums.index_add_(0, ids, chosen) / counts.clamp(min=1.0)[:, None], counts


def prototype_distances(features: Tensor, prototypes: Tensor, spread: Tensor | None = None) -> Tensor:
    """Euclidean distances of ``(B, D, h, w)`` features to ``(C, D)`` prototypes, in units of ``(C, D)`` spread.

    Returns:
        ``(B, C, h, w)``.
    """
    cells = features.movedim(1, -1).unsqueeze(-2) - prototypes  # (B, h, w, C, D)
    return torch.linalg.vector_norm(cells if spread is None else cells / spread, dim=-1).movedim(-1, 1)


def prototype_weights(distances: Tensor, temperature: float) -> Tensor:
    """``softmax(-d / tau)`` over classes of ``(B, C, h, w)`` distances."""
    return (-distances / temperature).softmax(1)


def divergence(target: Tensor, log_p: Tensor) -> Tensor:
    """``sum_c q_c (log q_c - log p_c)`` (KL), a mean over cells, of ``(B, C, h, w)`` probabilities q and log p.

    Classes without weight in the target count nothing, even where log p is -inf.
    """
    present = target > 0.0
    terms = torch.where(present, torch.special.xlogy(target, target) - target * log_p.masked_fill(~present, 0.0), 0.0)
    return terms.sum(1).mean()


class Prototypes:
    """Running mean feature of every class, started on source images with the source network's own labels.

    A class that no source image shows has no prototype, and gets no weight, until the stream shows it.

    Args:
        answer: The source network.
        images: ``(1, 3, H, W)`` float32 in [0, 1].
        num_classes: C.
        rate: Share of a frame's mean in the running one.
        min_cells: Classes with fewer cells in a frame stay.
        spread: Whether distances are in units of each class's standard deviation.
    """

    def __init__(
        self,
        answer: Answer,
        images: Iterable[Tensor],
        num_classes: int,
        rate: float,
        min_cells: int,
        *,
        spread: bool = True,
    ) -> None:
        self._classes, self._rate, self._min_cells = num_classes, rate, min_cells
        totals: list[tuple[Tensor, Tensor, Tensor]] = []
        for image in images:
            said = answer(image)
            features = exact(said.features[-1])
            labels = labels_on(exact(said.logits).softmax(1), features)
            means, counts = class_means(features, labels, num_classes)
            powers, _ = class_means(features.square(), labels, num_classes)
            totals.append((means * counts[:, None], powers * counts[:, None], counts))
        sums, squares, counts = (torch.stack(parts).sum(0) for parts in zip(*totals, strict=True))
        mean = sums / counts.clamp(min=1.0)[:, None]
        variance = squares / counts.clamp(min=1.0)[:, None] - mean.square()
        self.spread = variance.clamp(min=0.0).sqrt().clamp(min=SMALLEST_SPREAD)
        if not spread:
            self.spread = torch.ones_like(self.spread)
        self._start = mean, counts > 0
        self.mean, self.known = mean.clone(), counts > 0

    def weights(self, features: Tensor, temperature: float) -> Tensor:
        """``(B, C, h, w)`` weights of the classes for ``(B, D, h, w)`` features, 0 for classes without a prototype."""
        return prototype_weights(self._distances(features), temperature)

    def log_weights(self, features: Tensor, temperature: float) -> Tensor:
        """Their logarithm, -inf for classes without a prototype."""
        return (-self._distances(features) / temperature).log_softmax(1)

    def _distances(self, features: Tensor) -> Tensor:
        distances = prototype_distances(features, self.mean, self.spread)
        return distances.masked_fill(~self.known.view(1, -1, 1, 1), torch.inf)

    @torch.no_grad()
    def update(self, features: Tensor, labels: Tensor) -> None:
        """Moves the prototypes of the classes that a frame shows enough of."""
        means, counts = class_means(features, labels, self._classes)
        shown = counts >= self._min_cells
        moved = torch.where(self.known[:, None], self.mean.lerp(means, self._rate), means)
        self.mean = torch.where(shown[:, None], moved, self.mean)
        self.known = self.known | shown

    def forget(self) -> None:
        """Those of the source images."""
        self.mean, self.known = self._start[0].clone(), self._start[1].clone()

    def state_dict(self) -> dict[str, Any]:
        """Prototypes, and which there are."""
        return {"mean": self.mean, "known": self.known}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores `state_dict`."""
        self.mean, self.known = state["mean"].to(self.mean), state["known"].to(self.known)


def labels_on(probabilities: Tensor, features: Tensor) -> Tensor:
    """Classes ``(B, h, w)`` on the grid of a feature map, from ``(B, C, H, W)`` probabilities."""
    size = (int(features.shape[-2]), int(features.shape[-1]))
    return F.interpolate(probabilities, size, mode="bilinear", align_corners=False, antialias=True).argmax(1)
