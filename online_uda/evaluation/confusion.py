"""Confusion matrices and the scores read from them.

The field's mIoU comes from one matrix summed over all frames of a domain visit, never from an average of per-frame
scores (specs/protocols.md section 1). Matrices are ``(C, C)`` int64 with rows = truth and columns = prediction.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from numpy.typing import NDArray

from online_uda.errors import UserError
from streams.frame import IGNORE_ID

if TYPE_CHECKING:
    import torch

    IdMap: TypeAlias = NDArray[np.integer] | torch.Tensor

Matrix: TypeAlias = NDArray[np.int64]

# Pixels counted at a time: OpenCV gives its counts as float32, which is exact up to here.
_STRIP_PIXELS = 1 << 24


def _is_tensor(value: object) -> bool:
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.Tensor)


def _as_bytes(ids: NDArray[np.integer], what: str) -> NDArray[np.uint8]:
    if ids.dtype != np.uint8 and not np.issubdtype(ids.dtype, np.integer):
        raise ValueError(f"{what} must hold integer class ids, got dtype {ids.dtype}")
    if ids.dtype != np.uint8 and ids.size and (ids.min() < 0 or ids.max() > IGNORE_ID):
        raise ValueError(f"{what} holds ids {ids.min()}..{ids.max()}; ids lie in 0..{IGNORE_ID}")
    return np.asarray(ids, dtype=np.uint8)


def _histogram_numpy(truth: NDArray[np.uint8], predicted: NDArray[np.uint8], size: int) -> Matrix:
    """``(size, size)`` counts of the pairs of flat ids below ``size``; pairs with a larger id are left out."""
    import cv2  # here: reading reports and listing methods do without

    counts = np.zeros((size, size), dtype=np.int64)
    for start in range(0, truth.size, _STRIP_PIXELS):
        pair = [truth[start : start + _STRIP_PIXELS], predicted[start : start + _STRIP_PIXELS]]
        # Half the time of numpy's bincount, which widens what it counts to int64.
        counts += cv2.calcHist(pair, [0, 1], None, [size, size], [0, size, 0, size]).astype(np.int64)
    return counts


def _joint_histogram_torch(label: torch.Tensor, prediction: torch.Tensor) -> Matrix:
    import torch

    for what, ids in (("label", label), ("prediction", prediction)):
        if ids.is_floating_point() or ids.is_complex() or ids.dtype == torch.bool:
            raise ValueError(f"{what} must hold integer class ids, got dtype {ids.dtype}")
        if ids.dtype != torch.uint8 and ids.numel() and (int(ids.min()) < 0 or int(ids.max()) > IGNORE_ID):
            raise ValueError(f"{what} holds ids {int(ids.min())}..{int(ids.max())}; ids lie in 0..{IGNORE_ID}")
    pair = label.reshape(-1).to(torch.int32) * 256 + prediction.reshape(-1).to(torch.int32)
    return torch.bincount(pair, minlength=256 * 256).cpu().numpy().reshape(256, 256)


def confusion_matrix(label: IdMap, prediction: IdMap, classes: int) -> Matrix:
    """Count how often each class is predicted on each class of the truth.

    Args:
        label: ``(H, W)`` integer train ids, numpy or torch; 255 is ignored.
        prediction: ``(H, W)`` integer train ids in ``0..classes - 1``, numpy or torch, of the label's size. With a
            tensor among the two, the count runs on its device (the prediction's, if both are tensors).
        classes: Number of classes C, at most 255.

    Returns:
        ``(C, C)`` int64 numpy array, rows = truth, columns = prediction.

    Raises:
        UserError: The label holds an id that is neither a class nor 255.
        ValueError: The sizes differ, or the prediction holds an id that is no class.
    """
    if not 0 < classes <= IGNORE_ID:
        raise ValueError(f"classes must lie in 1..{IGNORE_ID}, got {classes}")
    if tuple(label.shape) != tuple(prediction.shape):
        raise ValueError(
            f"prediction {tuple(prediction.shape)} and label {tuple(label.shape)} differ in size; "
            "predictions are scored at the label's own size"
        )
    if _is_tensor(label) or _is_tensor(prediction):
        import torch

        on_device = torch.as_tensor(prediction, device=None if _is_tensor(prediction) else label.device)
        joint = _joint_histogram_torch(torch.as_tensor(label, device=on_device.device), on_device)
    else:
        truth, predicted = (
            _as_bytes(np.asarray(ids), what).ravel() for ids, what in ((label, "label"), (prediction, "prediction"))
        )
        matrix = _histogram_numpy(truth, predicted, classes)
        if not truth.size or (
            predicted.max() < classes and matrix.sum() + np.count_nonzero(truth == IGNORE_ID) == truth.size
        ):
            return matrix
        joint = _histogram_numpy(truth, predicted, IGNORE_ID + 1)  # all ids, to say which are wrong
    # Every id pair was counted, so ids outside the class set show up here at no extra pass over the pixels.
    strangers = np.flatnonzero(joint[classes:IGNORE_ID].any(axis=1)) + classes
    if strangers.size:
        raise UserError(
            f"label ids {strangers.tolist()} are outside the {classes} classes; "
            f"map them to a class or to {IGNORE_ID} (ignore)"
        )
    if joint[:, classes:].any():
        wrong = np.flatnonzero(joint[:, classes:].any(axis=0)) + classes
        raise ValueError(f"predicted ids {wrong.tolist()} are outside the {classes} classes")
    return joint[:classes, :classes].copy()


def intersection_union(matrix: Matrix) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Return per-class pixel counts ``(intersection, union, truth)``, each ``(..., C)``, of ``(..., C, C)`` counts."""
    intersection = np.diagonal(matrix, axis1=-2, axis2=-1).copy()
    truth = matrix.sum(axis=-1)
    union = truth + matrix.sum(axis=-2) - intersection
    return intersection, union, truth


def iou_from_counts(
    intersection: NDArray[np.int64], union: NDArray[np.int64], truth: NDArray[np.int64]
) -> NDArray[np.float64]:
    """IoU in percent, ``(..., C)`` float64, from per-class counts; NaN for classes without ground-truth pixels."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(truth > 0, 100.0 * intersection / union, np.nan)


def iou_per_class(matrix: Matrix) -> NDArray[np.float64]:
    """Intersection over union of every class, in percent.

    Absent-class rule (specs/protocols.md section 1): a class counts only if the matrix holds ground-truth pixels of
    it. Predicting an absent class is not scored as a class with IoU 0; its pixels still cost the class they belong to.

    Args:
        matrix: ``(C, C)`` counts, rows = truth.

    Returns:
        ``(C,)`` float64 in 0..100; NaN for classes without ground-truth pixels.
    """
    return iou_from_counts(*intersection_union(matrix))


def present_mean(iou: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean over the last axis without the NaN of absent classes; NaN where no class is present."""
    present = ~np.isnan(iou)
    count = present.sum(axis=-1)
    total = np.where(present, iou, 0.0).sum(axis=-1)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def mean_iou(matrix: Matrix) -> float:
    """mIoU in percent: mean IoU over the classes with ground-truth pixels; NaN without any labelled pixel."""
    return float(present_mean(iou_per_class(matrix)))
