"""A contact sheet of one event on one image, from weak to strong."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np
import yaml
from numpy.typing import NDArray

from streams.errors import StreamError
from streams.frame import Intrinsics, Scene
from streams.picture_file import check_picture_name, write_picture
from streams.progress import Progress
from streams.weather.effect import check_number
from streams.weather.parse import parse_effect, parse_weather
from streams.weather.registry import EVENTS
from streams.weather.sheet import with_name
from streams.weather.stream import WeatherStream

LADDERS: dict[str, tuple[float, ...]] = {
    "rain": (25, 50, 100, 150, 200),
    "fog": (750, 375, 150, 75, 40),
    "night": (0.15, 0.3, 0.5, 0.75, 1.0),
    "snow": (0.5, 1, 3, 5, 10),
    "smog": (0.25, 0.5, 1.0, 1.5, 2.0),
    "wildfire": (0.2, 0.4, 0.6, 0.8, 1.0),
    "flood": (0.05, 0.1, 0.2, 0.4, 0.8),
}
TOWN = "town"
_COLUMNS = 2
_TOWN_SIZE, _TOWN_FRAME, _TOWN_FPS = (320, 640), 60, 10.0
_EGO_SPEED_MPS, _T_SECONDS = 8.0, 1.0
_DEPTH_UNITS_PER_M = 256.0


def preview_sheet(
    scene: Scene,
    event: str,
    strengths: Sequence[float],
    options: dict[str, object],
    seed: int = 0,
    progress: Callable[[int], None] = lambda done: None,
) -> NDArray[np.uint8]:
    """Panels of the scene as it is and under every strength, two a row, each named by all that was asked for.

    Args:
        scene: Image with optional depth.
        event: Key in `streams.weather.EVENTS`.
        strengths: Values of its main parameter.
        options: Its other parameters.
        seed: Of drops, flakes and noise.
        progress: Told how many strengths are drawn.

    Returns:
        ``(rows H, 2 W, 3)`` uint8 RGB; a panel that is missing is dark.
    """
    main = EVENTS[event].parameters[0]
    panels = [with_name(scene.image, "as it is")]
    weathers = [parse_weather({event: {main.key: strength, **options}}) for strength in strengths]
    told = [key if value is True else f"{key} {value}" for key, value in options.items()]
    for done, (strength, weather) in enumerate(zip(strengths, weathers, strict=True), 1):
        segment = WeatherStream(weather, seed, scene, ego_speed_mps=_EGO_SPEED_MPS)
        image, _ = segment.render(scene, frame_index=0, t_seconds=_T_SECONDS)
        panels.append(with_name(image, ", ".join([f"{event} {strength:g} {main.unit}".rstrip(), *told])))
        progress(done)
    panels += [np.full_like(scene.image, 20)] * (-len(panels) % _COLUMNS)
    return np.vstack([np.hstack(panels[i : i + _COLUMNS]) for i in range(0, len(panels), _COLUMNS)])


def load_scene(image: str, depth: Path | None, seed: int) -> Scene:
    """The scene of an image file, or of a frame of the built-in town.

    Args:
        image: Path, or ``town``.
        depth: Depth of the image: a 16-bit PNG in 1/256 m (0 unknown), or an .npy file in metres.
        seed: Of the town's streets.

    Raises:
        StreamError: A file cannot be read, or the sizes differ.
    """
    if image == TOWN:
        if depth is not None:
            raise StreamError("--depth: the town has its own depth; leave it out")
        from streams.city import Drive  # compiled code: only where there is a town

        frame = Drive("stream", seed, _TOWN_SIZE, _TOWN_FPS).render(_TOWN_FRAME)
        return Scene(frame.image, None, frame.depth_m, frame.intrinsics)
    pixels = cv2.imread(image, cv2.IMREAD_COLOR)
    if pixels is None:
        raise StreamError(f"{image}: not a readable image (or write {TOWN!r} for the built-in town)")
    rgb = np.ascontiguousarray(pixels[..., ::-1])
    metres = None if depth is None else _load_depth(depth)
    if metres is not None and metres.shape != rgb.shape[:2]:
        raise StreamError(f"{depth}: is {metres.shape}, the image {rgb.shape[:2]}; give both at one size")
    camera: Intrinsics | None = None
    return Scene(np.asarray(rgb, np.uint8), None, metres, camera)


def _load_depth(path: Path) -> NDArray[np.float32]:
    if path.suffix == ".npy":
        try:
            values = np.load(path, allow_pickle=False)
        except (OSError, ValueError) as error:
            raise StreamError(f"{path}: not readable depth ({error})") from None
    else:
        read = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        if read is None or read.dtype != np.uint16:
            raise StreamError(f"{path}: depth must be a 16-bit PNG in 1/256 m, or an .npy file in metres")
        values = read / _DEPTH_UNITS_PER_M
    if values.ndim != 2 or values.dtype.kind not in "fiu":
        raise StreamError(f"{path}: depth must be numbers in rows and columns, got {values.shape} {values.dtype}")
    return np.asarray(values, np.float32)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of ``preview``."""
    parser.add_argument(
        "image", metavar="IMAGE", help=f"picture to render on, or {TOWN!r}: a frame of the built-in town"
    )
    parser.add_argument("--event", required=True, metavar="NAME", help=f"one of {', '.join(EVENTS)}")
    parser.add_argument("--strength", nargs="+", metavar="VALUE", help="values to show (default: from weak to strong)")
    parser.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", help="other parameters, such as wet=true")
    parser.add_argument("--depth", type=Path, metavar="FILE", help="16-bit PNG in 1/256 m, or .npy in metres")
    parser.add_argument("--seed", type=int, default=5, help="of drops, flakes, noise and the town (default: 5)")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="picture to write, .png or .jpg")


def run(arguments: argparse.Namespace) -> None:
    """Writes the sheet.

    Raises:
        StreamError: Something is to be corrected; one line.
    """
    event = arguments.event
    parse_effect(event)
    options: dict[str, object] = {}
    for text in arguments.set:
        key, equals, value = text.partition("=")
        if not equals:
            raise StreamError(f"--set: expected KEY=VALUE, got {text!r}")
        try:
            options[key] = yaml.safe_load(value)
        except yaml.YAMLError:
            raise StreamError(f"--set: {key} has no readable value: {value!r}") from None
    parse_effect(event, options)
    strengths = [_number(text) for text in arguments.strength] if arguments.strength else LADDERS[event]
    check_picture_name(arguments.out)
    scene = load_scene(arguments.image, arguments.depth, arguments.seed)
    # The first picture of an event waits for its compiled code, which is kept from then on.
    with Progress(f"pictures of {event}", len(strengths), every=1) as progress:
        sheet = preview_sheet(scene, event, strengths, options, arguments.seed, progress.update)
    write_picture(arguments.out, sheet)


def _number(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        raise StreamError(f"--strength: expected numbers, got {text!r}") from None
    check_number("preview", "strength", value, -math.inf, math.inf, "")
    return value
