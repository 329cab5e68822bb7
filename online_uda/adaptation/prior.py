"""Answers weighed by how often their classes appear in the frame (ROID's prior correction; specs/methods.md 3)."""

from __future__ import annotations

from dataclasses import replace

import torch

from online_uda.networks.segmenter import Segmentation


def corrected_by_prior(prediction: Segmentation) -> Segmentation:
    """Multiplies probabilities by ``(pbar + s) / (1 + s C)``, pbar the mean over pixels, ``s = 1 / (C max pbar)``.

    A constant a class is added to the logits, so that the answer at full size is corrected alike.
    """
    logits = prediction.logits.to(torch.promote_types(prediction.logits.dtype, torch.float32))
    mean = logits.softmax(1).mean((2, 3), keepdim=True)
    classes = logits.shape[1]
    smooth = 1.0 / (classes * mean.amax(1, keepdim=True))
    return replace(prediction, logits=logits + ((mean + smooth) / (1.0 + smooth * classes)).log())
