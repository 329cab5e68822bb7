"""How a frame is put before a network: whole or in tiles, at several scales, mirrored; and how many passes that takes.

Knows no torch, so that a command line can be checked, and its cost told, before anything heavy is loaded.
"""

from __future__ import annotations

import math
import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, model_validator
from typing_extensions import Self

from streams.yaml_config import ConfigModel, KeyedError

Size = tuple[int, int]
"""Height and width in pixels."""
Box = tuple[int, int, int, int]
"""Top, left, bottom and right edge in pixels; bottom and right are one past the last row and column."""
OVERLAP = 1.0 / 3.0
SMALLEST_TILE, LARGEST_TILE = 32, 8192


def parse_tile(value: Any) -> Any:
    """``512x1024`` as ``(512, 1024)``: height, then width; one number is a square."""
    if isinstance(value, str):
        match = re.fullmatch(r"\s*([0-9]{1,5})(?:x([0-9]{1,5}))?\s*", value)
        if match is None:
            raise ValueError(f"expected a number such as 512, or HEIGHTxWIDTH such as 512x1024, got {value!r}")
        return int(match[1]), int(match[2] or match[1])
    if isinstance(value, int) and not isinstance(value, bool):
        return value, value
    return tuple(value) if isinstance(value, list) else value


def check_tile(tile: Size | None) -> Size | None:
    """Refuses tiles that networks cannot work on."""
    if tile is not None and not all(SMALLEST_TILE <= side <= LARGEST_TILE for side in tile):
        raise ValueError(f"expected sides of {SMALLEST_TILE} to {LARGEST_TILE} pixels, got {tile[0]}x{tile[1]}")
    return tile


class InferenceSettings(ConfigModel):
    """The key ``inference`` of a run: how frames are answered, by the adapted network and the frozen one alike.

    Logits of all views are averaged: of overlapping tiles where they overlap, of scales and mirror images everywhere.
    Learning sees whole frames at their own size whatever is set here.

    Attributes:
        mode: ``whole``, or ``slide``: tiles side by side, those at the border shifted inwards.
        tile: Height and width of a tile; None takes a square of the frame's shorter side. A scale above 1 enlarges it.
        overlap: Least share of a tile's side that it has in common with its neighbour; in mmsegmentation's words,
            ``stride = (1 - overlap) * crop_size``.
        scales: Sizes of the frame that are answered, as shares of its own.
        flip: Whether the mirror image is answered too.
    """

    mode: Literal["whole", "slide"] = "whole"
    tile: Annotated[Size | None, BeforeValidator(parse_tile), AfterValidator(check_tile)] = None
    overlap: Annotated[float, Field(ge=0.0, le=0.9)] = OVERLAP
    scales: tuple[Annotated[float, Field(ge=0.1, le=4.0)], ...] = (1.0,)
    flip: bool = False

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.mode == "whole":
            for key in ("tile", "overlap"):
                if key in self.model_fields_set and getattr(self, key) != type(self).model_fields[key].default:
                    raise KeyedError("cuts frames only in mode slide; add run.inference.mode=slide", key)
        if not self.scales or len(set(self.scales)) < len(self.scales):
            raise KeyedError("expected one scale or several that differ, such as [0.5, 1.0, 2.0]", "scales")
        return self

    @property
    def is_plain(self) -> bool:
        """Whether a frame is answered in one pass as it is."""
        return self.mode == "whole" and self.scales == (1.0,) and not self.flip

    def view_sizes(self, size: Size) -> list[Size]:
        """Height and width of what the network is shown, for a frame of ``size``: one entry a scale."""
        return [box_size(self.boxes(scaled_size(size, scale), scale, size)[0]) for scale in self.scales]

    def boxes(self, scaled: Size, scale: float, size: Size) -> list[Box]:
        """The tiles of a frame of ``size`` that was brought to ``scaled``; all of one size, row by row."""
        if self.mode == "whole":
            return [(0, 0, *scaled)]
        tile = self.tile or (min(size), min(size))
        height, width = (max(1, round(side * max(1.0, scale))) for side in tile)
        rows = tile_starts(scaled[0], height, self.overlap)
        columns = tile_starts(scaled[1], width, self.overlap)
        height, width = min(height, scaled[0]), min(width, scaled[1])
        return [(top, left, top + height, left + width) for top in rows for left in columns]

    def forwards(self, size: Size) -> int:
        """Forward passes that a frame of ``size`` takes."""
        return sum(len(boxes) for boxes in self._all_boxes(size)) * (1 + self.flip)

    def passes(self, size: Size) -> float:
        """The same as multiples of a pass over the whole frame at its own size: pixels shown over pixels there."""
        shown = sum(math.prod(box_size(boxes[0])) * len(boxes) for boxes in self._all_boxes(size))
        return shown * (1 + self.flip) / math.prod(size)

    def _all_boxes(self, size: Size) -> list[list[Box]]:
        return [self.boxes(scaled_size(size, scale), scale, size) for scale in self.scales]


WHOLE = InferenceSettings()


def scaled_size(size: Size, scale: float) -> Size:
    """The size of a frame at ``scale``, to the nearest pixel and at least one."""
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def box_size(box: Box) -> Size:
    """Height and width of a box."""
    return box[2] - box[0], box[3] - box[1]


def tile_starts(side: int, tile: int, overlap: float) -> list[int]:
    """Where tiles along a side begin: a stride apart from 0 on, the last one shifted back to end with the side.

    These are the windows of mmsegmentation's slide mode, with ``stride = ceil((1 - overlap) * tile)``.

    Args:
        side: Pixels to cover.
        tile: Pixels of a tile; one that is longer than the side covers it alone.
        overlap: Least share of a tile that the next one shows too, in [0, 1).
    """
    stride = max(1, math.ceil(round((1.0 - overlap) * tile, 6)))  # rounding: 0.3 * 10 must not be 4
    steps = math.ceil(max(side - tile, 0) / stride)
    return [min(step * stride, max(side - tile, 0)) for step in range(steps + 1)]
