"""What the last frames said, carried along the optical flow into the answer to this one.

Streaks of rain, noise and glare differ from frame to frame, the street behind them does not. So the answer is a
recursive filter along the motion of the picture,

    z'_t = (1 - k) z_t + k W(z'_{t-1}),    k = w s exp(-(d / 8)^2),

with logits z, the warp W by dense inverse search flow (Kroeger et al., ECCV 2016), the setting w, and d the difference
in grey levels between the smoothed frame and the warped last one: where the flow is wrong or something was hidden, the
past has no say. Nor has it where the warp explains too little of the frame as a whole, as with frames a second apart,
which in the dark differ by few grey levels: s rises from 0 to 1 as the share of the smoothed frame's variance that the
warped one accounts for goes from 0.75 to 0.85. While the stream is near the source the past has no say either.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from online_uda.adaptation.settings import FusionSettings
from online_uda.adaptation.trigger.base import Decision, share_of_far
from online_uda.networks.segmenter import Segmentation

FLOW_COLUMNS = 512
"""Wider frames are made this wide before motion is sought."""
SMALLEST_SIDE = 24
"""Frames with a shorter side are answered alone; the search has no patches to go by."""
DIFFERENCE = 8.0
"""Grey levels of 255 at which the past's say has fallen to 1 / e."""
EXPLAINED = (0.75, 0.85)
"""Shares of a frame's variance that the warped last frame must account for: to have a say, and to have its full say."""
_SMOOTHING = 2.0

Grey = NDArray[np.uint8]
Plane = NDArray[np.float32]


class TemporalFusion:
    """Holds the last frame and its fused logits.

    Args:
        settings: The slot.
    """

    def __init__(self, settings: FusionSettings) -> None:
        self._settings = settings
        self._flow = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_ULTRAFAST)
        self._share = 0.0
        self._last: tuple[Tensor, Tensor] | None = None

    @property
    def weight(self) -> float:
        """Largest say of the past at present."""
        return self._settings.weight * self._share

    def watch(self, decision: Decision) -> None:
        """Takes what the trigger said to a frame."""
        self._share = share_of_far(decision.distance)

    @torch.no_grad()
    def __call__(self, frames: Tensor, answer: Segmentation) -> Segmentation:
        """The answer to ``frames`` (1, 3, H, W) float32 RGB in [0, 1] of the stream, with what was said before."""
        if min(answer.size) < SMALLEST_SIDE:
            return answer
        grey, logits = _grey(frames), answer.logits
        if self.weight > 0.0 and self._last is not None:
            past, before = self._last
            if past.shape == grey.shape and before.shape == logits.shape:
                logits = self._fused(grey.numpy(), past.numpy(), answer, before)
        self._last = (grey, logits.clone())
        return answer if logits is answer.logits else replace(answer, logits=logits)

    def _fused(self, grey: Grey, past: Grey, answer: Segmentation, before: Tensor) -> Tensor:
        flow = np.asarray(self._flow.calc(grey, past, np.zeros((*grey.shape, 2), np.float32)), np.float32)
        height, width = grey.shape
        x, y = np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32))
        x, y = x + flow[..., 0], y + flow[..., 1]
        warped = np.asarray(cv2.remap(past, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE), np.uint8)
        now = _smooth(grey)
        difference = now - _smooth(warped)
        weight = self.weight * _say(now, difference)
        if weight == 0.0:
            return answer.logits
        inside = (x >= 0) & (x <= width - 1) & (y >= 0) & (y <= height - 1)
        trust = (weight * np.exp(-np.square(difference / DIFFERENCE)) * inside).astype(np.float32)

        cells = (int(before.shape[-2]), int(before.shape[-1]))
        # In units of the logits' own grid, which lies over the padded frame.
        across = _on_grid(flow[..., 0] / width, answer) * answer.size[1] / answer.padded[1]
        down = _on_grid(flow[..., 1] / height, answer) * answer.size[0] / answer.padded[0]
        rows, columns = ((np.arange(count, dtype=np.float32) + 0.5) / count for count in cells)
        at = np.stack([columns[None, :] + across, rows[:, None] + down], -1) * 2 - 1
        to = torch.from_numpy(at.astype(np.float32))[None].to(before.device)
        carried = F.grid_sample(before.float(), to, padding_mode="border", align_corners=False)
        say = torch.from_numpy(_on_grid(trust, answer))[None, None].to(before.device)
        return torch.lerp(answer.logits.float(), carried, say).to(answer.logits.dtype)

    def state_dict(self) -> dict[str, Any]:
        """The last frame, in grey, and its logits."""
        return {"share": self._share, "last": None if self._last is None else list(self._last)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores `state_dict`."""
        self._share = float(state["share"])
        self._last = None if state["last"] is None else (state["last"][0].cpu(), state["last"][1])


def _say(now: Plane, difference: Plane) -> float:
    """How much of its weight the past has in a frame, by how well the flow explains the frame."""
    variance = float(now.var())
    if variance == 0.0:
        return 1.0
    explained = 1.0 - float(difference.var()) / variance  # another exposure alone is no other place
    return min(max((explained - EXPLAINED[0]) / (EXPLAINED[1] - EXPLAINED[0]), 0.0), 1.0)


def _grey(frames: Tensor) -> Tensor:
    image = (frames[0].permute(1, 2, 0) * 255.0).round().clamp(0, 255).to(torch.uint8).cpu().numpy()
    height, width = image.shape[:2]
    if width > FLOW_COLUMNS:
        size = (FLOW_COLUMNS, max(round(height * FLOW_COLUMNS / width), SMALLEST_SIDE))
        image = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    return torch.from_numpy(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY))


def _smooth(grey: Grey) -> Plane:
    smooth: Plane = cv2.GaussianBlur(grey, (0, 0), _SMOOTHING).astype(np.float32)
    return smooth


def _on_grid(plane: Plane, answer: Segmentation) -> Plane:
    """A plane over the frame, averaged over the cells of the logits; padding repeats the edge."""
    height, width = plane.shape
    below = round(height * (answer.padded[0] / answer.size[0] - 1))
    right = round(width * (answer.padded[1] / answer.size[1] - 1))
    if below or right:
        plane = np.asarray(cv2.copyMakeBorder(plane, 0, below, 0, right, cv2.BORDER_REPLICATE), np.float32)
    cells = (int(answer.logits.shape[-1]), int(answer.logits.shape[-2]))
    out: Plane = cv2.resize(plane, cells, interpolation=cv2.INTER_AREA).astype(np.float32)
    return out
