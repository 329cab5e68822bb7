"""The camera of the town: from the light of a row of pixels to its bytes."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from streams.city import _env as E
from streams.city._math import clamp, inlined


@inlined
def develop(
    env: NDArray[np.float64], lit: NDArray[np.float64], grain: NDArray[np.float32], grain_x: int, ny: float,
    pixels: NDArray[np.uint8],
) -> None:  # fmt: skip
    """Exposure, vignette, colour cast, contrast, saturation and noise, to 8 bits.

    Args:
        env: Numbers of the drive.
        lit: ``(4, W)`` red, green and blue of a row, and scratch space; overwritten.
        grain: ``(TILE,)`` noise of the row.
        grain_x: Column of ``grain`` at the left edge.
        ny: Height of the row in the image, -1 to 1.
        pixels: ``(W, 3)``, filled.
    """
    width = pixels.shape[0]
    red, green, blue, shot = lit[0], lit[1], lit[2], lit[3]
    for col in range(width):
        shot[col] = grain[(col + grain_x) & 255]
    # Out of the loop by hand: for all the compiler knows, writing a pixel may change them.
    warm, noisy, contrast = env[E.WARM], env[E.GRAIN], env[E.CONTRAST]
    exposure, falloff = env[E.EXPOSURE], 0.5 * env[E.VIGNETTE]
    chroma = env[E.SATURATION] * contrast
    for col in range(width):
        nx = (2.0 * (col + 0.5) - width) / width
        gain = exposure * (1.0 - falloff * (nx * nx + ny * ny))
        r = red[col] * (gain * (1.0 + warm))
        g = green[col] * gain
        b = blue[col] * (gain * (1.0 - warm))
        grey = 0.30 * r + 0.59 * g + 0.11 * b
        bright = (grey - 110.0) * contrast + 110.0 + noisy * shot[col]
        red[col] = clamp(bright + (r - grey) * chroma, 0.0, 255.0)
        green[col] = clamp(bright + (g - grey) * chroma, 0.0, 255.0)
        blue[col] = clamp(bright + (b - grey) * chroma, 0.0, 255.0)
    for col in range(width):  # apart: interleaved bytes would keep the loop above from becoming vector instructions
        pixels[col, 0] = np.uint8(np.int32(red[col]))
        pixels[col, 1] = np.uint8(np.int32(green[col]))
        pixels[col, 2] = np.uint8(np.int32(blue[col]))
