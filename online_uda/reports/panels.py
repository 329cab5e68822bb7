"""Pictures of one frame: image, truth, frozen and adapted prediction side by side in the colours of the classes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from online_uda.reports.record import FrameRecord

HEADER_PX = 18
_GREY = 48


def colour_table(palette: Sequence[tuple[int, int, int]]) -> NDArray[np.uint8]:
    """``(256, 3)`` uint8 RGB lookup table of a palette; ids without a colour, 255 among them, are black."""
    table = np.zeros((256, 3), dtype=np.uint8)
    table[: len(palette)] = palette
    return table


def tile(picture: NDArray[np.uint8], height: int, width: int, smooth: bool) -> NDArray[np.uint8]:
    """Resize ``(H, W, 3)`` uint8 to ``(height, width, 3)``: area average if ``smooth``, else nearest pixel."""
    import cv2

    return np.asarray(
        cv2.resize(picture, (width, height), interpolation=cv2.INTER_AREA if smooth else cv2.INTER_NEAREST_EXACT),
        dtype=np.uint8,
    )


def compose_panel(
    record: FrameRecord, palette: Sequence[tuple[int, int, int]], tile_width: int = 320
) -> NDArray[np.uint8]:
    """Draw one frame as four titled tiles in a row: image, truth, frozen, adapted.

    Args:
        record: A record with ``images``; a missing truth or frozen prediction gives a grey tile.
        palette: One RGB triple a class.
        tile_width: Width of a tile in pixels; the height keeps the image's aspect.

    Returns:
        ``(HEADER_PX + h, 4 * tile_width, 3)`` uint8 RGB.

    Raises:
        ValueError: The record has no images.
    """
    import cv2

    images = record.images
    if images is None:
        raise ValueError(f"frame {record.frame} came without images; there is nothing to draw")
    height = max(1, round(images.image.shape[0] * tile_width / images.image.shape[1]))
    table = colour_table(palette)
    panel = np.zeros((HEADER_PX + height, 4 * tile_width, 3), dtype=np.uint8)
    titles = (
        f"{record.frame} {record.domain}",
        "truth" if images.truth is not None else "no truth",
        _titled("frozen", record.miou_frozen),
        _titled("adapted", record.miou),
    )
    for i, ids in enumerate((None, images.truth, images.frozen, images.adapted)):
        columns = slice(i * tile_width, (i + 1) * tile_width)
        if i == 0:
            panel[HEADER_PX:, columns] = tile(images.image, height, tile_width, smooth=True)
        elif ids is not None:
            panel[HEADER_PX:, columns] = tile(table[ids], height, tile_width, smooth=False)
        else:
            panel[HEADER_PX:, columns] = _GREY
        header = np.zeros((HEADER_PX, tile_width, 3), dtype=np.uint8)
        cv2.putText(header, titles[i], (4, 13), cv2.FONT_HERSHEY_SIMPLEX, 0.42, (255, 255, 255), 1, cv2.LINE_AA)
        panel[:HEADER_PX, columns] = header
    return panel


def _titled(name: str, miou: float | None) -> str:
    return name if miou is None else f"{name} {miou:.1f}"
