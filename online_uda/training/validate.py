"""Scores of a network on unseen labelled images."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from online_uda.evaluation.confusion import confusion_matrix, iou_per_class, mean_iou
from online_uda.networks.segmenter import Segmenter
from streams.frame import LabelledSet


@dataclass(frozen=True, slots=True)
class Scores:
    """Scores on a labelled set, in percent.

    Attributes:
        images: Number of images scored.
        miou: Mean over the classes that occur, one confusion matrix over all images.
        iou: IoU of every class that occurs, by name.
        light_agreement: Pixels on which the light head and the main head agree.
    """

    images: int
    miou: float
    iou: dict[str, float]
    light_agreement: float


@torch.no_grad()
def validate(network: Segmenter, images: LabelledSet, indices: Sequence[int], device: torch.device) -> Scores:
    """Scores ``network`` (in eval mode) on the images at ``indices``, at full size and in float32."""
    classes = images.classes
    matrix = np.zeros((len(classes), len(classes)), dtype=np.int64)
    agreeing = pixels = 0
    for index in indices:
        sample = images[index]
        frame = torch.from_numpy(np.ascontiguousarray(sample.image)).to(device).permute(2, 0, 1)[None].float() / 255.0
        prediction = network(frame).labels()[0].cpu().numpy()
        light = network.light(frame).labels()[0].cpu().numpy()
        matrix += confusion_matrix(sample.label, prediction, len(classes))
        agreeing += int((light == prediction).sum())
        pixels += prediction.size
    values = {name: float(iou) for name, iou in zip(classes.names, iou_per_class(matrix), strict=True)}
    occurring = {name: round(iou, 2) for name, iou in values.items() if not math.isnan(iou)}
    return Scores(len(indices), round(mean_iou(matrix), 2), occurring, round(100.0 * agreeing / pixels, 2))
