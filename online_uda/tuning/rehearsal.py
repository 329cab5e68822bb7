"""A tuning stream: rendered once, with the frozen network's answers, and played from the disk ever after.

Frames, labels and frozen masks are memory-mapped arrays, so that memory stays bounded whatever the streams hold, and a
study that goes on finds them as it left them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from online_uda.networks.segmenter import Segmenter
from online_uda.reports.run_folder import write_atomically
from online_uda.runtime.scoring import to_tensor
from online_uda.tuning.conditions import Condition, Role, draw_visits
from online_uda.tuning.footage import Footage
from streams.frame import Frame, Scene, Truth
from streams.weather import WeatherStream, parse_weather

_DONE = "stream.json"
_ARRAYS = ("frames", "labels", "frozen")


@dataclass(frozen=True)
class Rehearsal:
    """A stream that is ready to play.

    Attributes:
        name: Such as ``search-0``.
        visits: Its conditions, in order.
        length: Frames of a visit.
        frames: ``(N, H, W, 3)`` uint8 RGB.
        labels: ``(N, H, W)`` uint8 train ids.
        frozen: ``(N, H, W)`` uint8, what the frozen network says.
        fps: Frames a second.
    """

    name: str
    visits: tuple[Condition, ...]
    length: int
    frames: NDArray[np.uint8]
    labels: NDArray[np.uint8]
    frozen: NDArray[np.uint8]
    fps: float

    def items(self) -> Iterator[tuple[Frame, Truth, NDArray[np.uint8]]]:
        """Frames with their truth and the frozen mask."""
        for index in range(len(self.frames)):
            visit = index // self.length
            frame = Frame(index, np.array(self.frames[index]), index / self.fps)
            yield frame, Truth(self.visits[visit].name, visit, np.array(self.labels[index])), self.frozen[index]


def rehearse(
    folder: Path,
    footage: Footage,
    network: Segmenter,
    network_digest: str,
    *,
    role: Role,
    number: int,
    seed: int,
    length: int,
    tick: Callable[[], object] = lambda: None,
) -> Rehearsal:
    """Renders a stream into ``folder`` unless it is there already, and opens it.

    Args:
        folder: Of the study's streams.
        footage: Clear frames.
        network: The frozen network.
        network_digest: Of its weights.
        role: ``search`` or ``held_out``.
        number: Which stream of the role.
        seed: Of the study.
        length: Frames of a visit.
        tick: Called after every frame that was made.
    """
    name = f"{role}-{number}"
    visits = draw_visits(role, number, seed)
    place = folder / name
    count, (height, width) = length * len(visits), footage.size
    # A few clear frames stand for the footage: a folder whose pictures changed is rendered anew.
    probes = [footage.read(role, number, visit, 0) for visit in range(len(visits))]
    digest = _digest(name, seed, length, [visit.name for visit in visits], network_digest, probes)
    if not _is_done(place / _DONE, digest):
        place.mkdir(parents=True, exist_ok=True)
        (place / _DONE).unlink(missing_ok=True)
        shapes = {"frames": (count, height, width, 3), "labels": (count, height, width)}
        arrays = {
            key: np.lib.format.open_memmap(
                place / f"{key}.npy", mode="w+", dtype=np.uint8, shape=shapes.get(key, shapes["labels"])
            )
            for key in _ARRAYS
        }
        device = next(network.parameters()).device
        for index, (image, label) in enumerate(_render(footage, role, number, visits, length, seed)):
            arrays["frames"][index], arrays["labels"][index] = image, label
            with torch.inference_mode():
                mask = network(to_tensor(image, device)).labels((height, width))
            arrays["frozen"][index] = mask.cpu().numpy()[0]
            tick()
        for array in arrays.values():
            array.flush()
        write_atomically(place / _DONE, json.dumps({"digest": digest}) + "\n")
    opened = {key: np.load(place / f"{key}.npy", mmap_mode="r") for key in _ARRAYS}
    return Rehearsal(name, visits, length, opened["frames"], opened["labels"], opened["frozen"], footage.fps)


def _render(
    footage: Footage, role: Role, number: int, visits: tuple[Condition, ...], length: int, seed: int
) -> Iterator[tuple[NDArray[np.uint8], NDArray[np.uint8]]]:
    for place, condition in enumerate(visits):
        weather = parse_weather(condition.weather)
        falling: WeatherStream | None = None
        for step in range(length):
            index = place * length + step
            scene, label = footage.read(role, number, place, step)
            image = scene.image
            if weather.effects:
                falling = falling or WeatherStream(weather, seed + number, scene, ego_speed_mps=footage.speed_mps)
                image, _ = falling.render(scene, frame_index=index, t_seconds=index / footage.fps)
            yield image, label


def _digest(*parts: Any) -> str:
    digest = hashlib.sha256()
    for part in parts:
        if isinstance(part, list) and part and isinstance(part[0], tuple):
            for scene, label in part:
                assert isinstance(scene, Scene)
                digest.update(np.ascontiguousarray(scene.image).tobytes() + np.ascontiguousarray(label).tobytes())
        else:
            digest.update(json.dumps(part).encode())
    return digest.hexdigest()


def _is_done(path: Path, digest: str) -> bool:
    try:
        return bool(json.loads(path.read_text(encoding="utf-8"))["digest"] == digest)
    except (OSError, ValueError, KeyError):
        return False
