"""Positions in the flat vector of numbers that describes a drive to the compiled code.

World axes: x to the right, y up, z forward along the street, metres. The street bends by a shear: its middle lies at
``x = bend(z)``, so the street coordinate along it is z itself and its inverse is exact.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from streams.city._math import kernel

SUN = 0  # 3: direction to the sun
SUN_RGB = 3  # 3: light of the sun on a surface that faces it
AMBIENT_RGB = 6  # 3: light of the sky
HAZE_RGB = 9  # 3: colour far things fade to
HAZE_M = 12  # distance over which they do
EXPOSURE = 13
SATURATION = 14
CONTRAST = 15
ZENITH_RGB = 16  # 3
CLOUD = 19  # share of the sky under clouds, 0-1
CLOUD_SHIFT = 20  # 2: where in the noise tile
LANES = 22  # lanes for each direction
LANE_M = 23
PARKING_M = 24  # width of the parking strip, 0 = none
BIKE_M = 25  # width of the cycle lane, 0 = none
HALF_M = 26  # half width of the carriageway, parking included
SIDEWALK_M = 27
VERGE_M = 28  # width of the grass strip in the sidewalk, 0 = none
BEND = 29  # 6: amplitude, angular frequency, phase of two waves
BLOCK_M = 35
TRAM = 36  # 1 = rails in the middle lanes
ASPHALT_RGB = 37  # 3
PAVING_RGB = 40  # 3
PAVING_KIND = 43  # 0 slabs, 1 small blocks, 2 asphalt-like
GRASS_RGB = 44  # 3
BIKE_RED = 47  # 1 = cycle lane with red surface
MARKING = 48  # brightness of road markings
SHADOW = 49  # darkness of cast shadows, 0-1
SEED = 50
GRAIN = 51  # deviation of camera noise, in 8-bit steps
VIGNETTE = 52
TIME_S = 53
TABLE_Z = 54  # z of the first row of the lot table
FIRST_BLOCK = 55  # index of the first row of the crossing table
WARM = 56  # colour cast: red up, blue down
SKYLINE = 57  # height of the far silhouette, as a slope
SIZE = 58


@kernel
def bend(env: NDArray[np.float64], z: float) -> float:
    """x of the middle of the street at z."""
    return env[BEND] * math.sin(env[BEND + 1] * z + env[BEND + 2]) + env[BEND + 3] * math.sin(
        env[BEND + 4] * z + env[BEND + 5]
    )
