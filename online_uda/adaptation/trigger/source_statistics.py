"""What the domain detector looks at: statistics of the first stage map, and how generic corruptions move them.

A domain shift moves the channel means and spreads of the early features (specs/hamlet.md section 7, S3). The upper and
the lower half of the view are kept apart: sky and road answer weather differently, and scenes vary less within each.

A distance over all statistics mixes the shift with every way in which scenes differ. Corrupting the source images
themselves shows, without a label or a target frame, in which directions the statistics move when the *imaging* changes
and the scene does not; those directions carry most of a weather's shift and little of the scenes' variation.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import cv2
import torch
import torch.nn.functional as F
from torch import Tensor

from online_uda.adaptation.replay.buffer import ReplayBuffer
from online_uda.networks.segmenter import Segmenter

CORRUPTED_IMAGES = 32
"""Source images that are corrupted: enough for a mean shift, few enough to calibrate in seconds."""
_SPREAD_FLOOR = 1e-6
_BATCH = 8
_SEED = 20231002


@contextmanager
def _evaluating(stage: torch.nn.Module) -> Iterator[None]:
    """Statistics must not depend on, or touch, the batch statistics of a network that is being trained."""
    modes = [(module, True) for module in stage.modules() if module.training]
    for module, _ in modes:  # none, as a rule; to walk the stage once is cheaper than `eval`
        module.training = False
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


def band_moments(features: Tensor) -> Tensor:
    """Channel means and log spreads of the upper and the lower half of a map: (B, C, H, W) to (B, 4 C) float64."""
    cells = features.float().permute(0, 2, 3, 1)
    middle = cells.shape[1] // 2
    moments = []
    for band in (cells[:, :middle].flatten(1, 2), cells[:, middle:].flatten(1, 2)):
        # Around a rounded mean, and corrected for its rounding: float64's digits at a third of its time.
        about = band.mean(1, keepdim=True)
        apart = band - about
        rest = apart.mean(1).double()
        spread = (apart.square_().mean(1).double() - rest.square()).clamp_min(0.0).sqrt()
        moments += [about[:, 0].double() + rest, (spread + _SPREAD_FLOOR).log()]
    return torch.cat(moments, 1)


def shrunk(frames: Tensor, scale: float) -> Tensor:
    """Frames (B, 3, H, W) with sides ``scale`` times as long, by area; a map of half the side costs a quarter."""
    if scale >= 1.0:
        return frames
    height, width = (max(1, round(side * scale)) for side in frames.shape[-2:])
    if frames.device.type == "cpu" and len(frames) == 1 and (height * 2, width * 2) == tuple(frames.shape[-2:]):
        # The same mean of four pixels, at a fifth of the time for a frame in a camera's memory order.
        image = cv2.resize(frames[0].permute(1, 2, 0).numpy(), (width, height), interpolation=cv2.INTER_AREA)
        return torch.from_numpy(image).permute(2, 0, 1)[None]
    return F.interpolate(frames, (height, width), mode="area")


@torch.inference_mode()
def _look(network: Segmenter, frames: Tensor) -> Tensor:
    with _evaluating(network.first_stage()):
        return band_moments(network.encode(network.normalise(frames)[0], 1)[0]).cpu()


def stage_statistics(
    network: Segmenter, frames: Tensor, *, scale: float = 0.5, features: Tensor | None = None
) -> Tensor:
    """Statistics of the first stage map of one frame, the detector's view of it.

    Args:
        network: The frozen source network; runs as in evaluation whatever its mode, and keeps its mode.
        frames: (1, 3, H, W) float32 RGB in [0, 1], any size.
        scale: Side of the frame that is looked at, as a share of the full one; 0.5 separates domains as well as 1.
        features: The first stage map of ``frames`` (1, C, h, w), where a method that does not train stage 1 has it
            already; then nothing is computed twice. It counts as ``scale=1``: calibrate with that.

    Returns:
        (4 C,) float64 on the CPU: for the upper, then the lower half, C channel means and C log spreads.
    """
    if features is not None:
        return band_moments(features.detach())[0].cpu()
    return _look(network, shrunk(frames, scale))[0].clone()


def _blend(frames: Tensor, target: Tensor | float, share: float) -> Tensor:
    return frames * (1 - share) + target * share


def _blur(frames: Tensor, generator: torch.Generator) -> Tensor:
    offsets = torch.arange(-4, 5, device=frames.device, dtype=frames.dtype)
    kernel = torch.exp(-0.5 * (offsets / 1.5) ** 2)
    kernel = (kernel / kernel.sum()).view(1, 1, 1, -1).expand(3, 1, 1, -1)
    frames = F.conv2d(F.pad(frames, (4, 4, 0, 0), mode="replicate"), kernel, groups=3)
    return F.conv2d(F.pad(frames, (0, 0, 4, 4), mode="replicate"), kernel.transpose(2, 3), groups=3)


def _noise(frames: Tensor, generator: torch.Generator) -> Tensor:
    return frames + 0.06 * torch.randn(frames.shape, generator=generator).to(frames.device)


def _streaks(frames: Tensor, generator: torch.Generator) -> Tensor:
    batch, _, height, width = frames.shape
    spots = (torch.rand((batch, 1, height + 14, width), generator=generator) < 0.01).float()
    return frames + 1.5 * F.avg_pool2d(spots, (15, 1), stride=1).to(frames.device)


def _warm(frames: Tensor, generator: torch.Generator) -> Tensor:
    return frames * frames.new_tensor([1.1, 1.0, 0.8]).view(1, 3, 1, 1)


Corruption = Callable[[Tensor, torch.Generator], Tensor]
CORRUPTIONS: dict[str, Corruption] = {
    "dark": lambda frames, _: frames * 0.6,
    "night": lambda frames, _: frames * 0.2,
    "bright": lambda frames, _: _blend(frames, 1.0, 0.4),
    "haze": lambda frames, _: _blend(frames, 0.75, 0.4),
    "flat": lambda frames, _: _blend(frames, frames.mean((1, 2, 3), keepdim=True), 0.4),
    "grey": lambda frames, _: _blend(frames, frames.mean(1, keepdim=True), 0.6),
    "warm": _warm,
    "noise": _noise,
    "blur": _blur,
    "streaks": _streaks,
}
"""Generic changes of imaging, mild enough to stay on the local linear part of the statistics."""
HAZE_AXIS = list(CORRUPTIONS).index("haze")
"""Which element of a signature is haze."""


@dataclass(frozen=True, slots=True)
class SourceSample:
    """Statistics of the source images, clean and corrupted.

    Attributes:
        vectors: (N, D) float64, in the order of the source images.
        corrupted: (K, M, D) float64, under K corruptions.
        of: (M,) int64, the image that ``corrupted[:, m]`` was made of.
    """

    vectors: Tensor
    corrupted: Tensor
    of: Tensor


def sample_source(
    network: Segmenter, buffer: ReplayBuffer, *, scale: float = 0.5, images: int = CORRUPTED_IMAGES
) -> SourceSample:
    """Statistics of every image of a replay buffer, in source order, and of some of them under `CORRUPTIONS`.

    Args:
        network: The frozen source network.
        buffer: Source images; neighbours in the source set are kept together for the detector's hold-out.
        scale: As in `stage_statistics`; the stream must be looked at in the same way.
        images: How many images are corrupted, evenly spaced.
    """
    device = network.get_buffer("mean").device
    order = torch.tensor(buffer.indices).argsort(stable=True)
    of = torch.linspace(0, len(order) - 1, min(images, len(order))).round().long()
    generator = torch.Generator().manual_seed(_SEED)

    def batches(positions: Tensor) -> Iterator[Tensor]:
        for part in positions.split(_BATCH):
            pixels = torch.from_numpy(buffer.images[order[part].numpy()])
            yield shrunk(pixels.permute(0, 3, 1, 2).to(device).float() / 255.0, scale)

    vectors = torch.cat([_look(network, frames) for frames in batches(torch.arange(len(order)))])
    corrupted: list[list[Tensor]] = [[] for _ in CORRUPTIONS]
    for frames in batches(of):
        for rows, corrupt in zip(corrupted, CORRUPTIONS.values(), strict=True):
            rows.append(_look(network, corrupt(frames, generator).clamp(0.0, 1.0)))
    return SourceSample(vectors.clone(), torch.stack([torch.cat(rows) for rows in corrupted]).clone(), of)
