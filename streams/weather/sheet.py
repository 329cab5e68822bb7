"""One scene under rising rain and thickening fog, side by side, to be looked at.

python -m streams.weather.sheet docs/pictures/rain_ladder.png
python -m streams.weather.sheet OUT.png --image FRAME.jpg     (a frame without depth: ground-plane estimate)
"""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from streams.arguments import OneLineParser
from streams.errors import StreamError
from streams.frame import Scene
from streams.picture_file import check_picture_name, write_picture
from streams.weather.parse import parse_weather
from streams.weather.stream import WeatherStream

RATES_MM_H = (0, 25, 50, 75, 100, 200)
VISIBILITIES_M = (750, 375, 150, 75)
_TOWN_SIZE = (320, 640)
_TOWN_FRAME = 60
_EGO_SPEED_MPS = 8.0
_COLUMNS = 2


def make_sheet(scene: Scene, seed: int = 0) -> NDArray[np.uint8]:
    """Panels of ``scene`` at every rate and visibility, two a row, each with its name.

    Returns:
        ``(5 H, 2 W, 3)`` uint8 RGB.
    """
    panels = []
    cases = [("rain", rate, f"rain {rate} mm/h") for rate in RATES_MM_H]
    cases += [("fog", visibility, f"fog {visibility} m") for visibility in VISIBILITIES_M]
    for event, value, name in cases:
        segment = WeatherStream(parse_weather({event: value}), seed, scene, ego_speed_mps=_EGO_SPEED_MPS)
        image, _ = segment.render(scene, frame_index=0, t_seconds=1.0)
        panels.append(with_name(image, name))
    rows = [np.hstack(panels[i : i + _COLUMNS]) for i in range(0, len(panels), _COLUMNS)]
    return np.vstack(rows)


def with_name(image: NDArray[np.uint8], name: str) -> NDArray[np.uint8]:
    """A copy of the picture with its name in the corner."""
    canvas = np.ascontiguousarray(image).copy()
    (width, height), _ = cv2.getTextSize(name, cv2.FONT_HERSHEY_SIMPLEX, 0.6, 1)
    cv2.rectangle(canvas, (0, 0), (width + 12, height + 14), (20, 20, 20), cv2.FILLED)
    cv2.putText(canvas, name, (6, height + 6), cv2.FONT_HERSHEY_SIMPLEX, 0.6, (255, 255, 255), 1, cv2.LINE_AA)
    return canvas


def main(arguments: list[str] | None = None) -> None:
    """Write the sheet of a frame of the built-in town, or of an image file."""
    parser = OneLineParser(prog="python -m streams.weather.sheet", description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path, help="picture to write, such as docs/pictures/rain_ladder.png")
    parser.add_argument("--image", type=Path, help="a frame to use instead of the town")
    parser.add_argument("--seed", type=int, default=5, help="town route and rain drops")
    options = parser.parse_args(arguments)
    try:
        check_picture_name(options.out)
        write_picture(options.out, make_sheet(_scene(options.image, options.seed), options.seed))
    except StreamError as error:
        parser.error(str(error))


def _scene(image: Path | None, seed: int) -> Scene:
    if image is None:
        from streams.city import Drive  # compiled code: only where there is a town

        return Drive("stream", seed, _TOWN_SIZE, 10.0).render(_TOWN_FRAME)
    pixels = cv2.imread(str(image), cv2.IMREAD_COLOR)
    if pixels is None:
        raise StreamError(f"{image}: not a readable image")
    return Scene(np.asarray(np.ascontiguousarray(pixels[..., ::-1]), np.uint8))


if __name__ == "__main__":
    main()
