"""SHIFT (Sun et al. 2022): a simulated town whose weather and daylight differ from or within sequences.

Layout of the download script: ``discrete/RATE/SPLIT/VIEW/GROUP.zip`` and ``continuous/RATE/1x|10x|100x/SPLIT/VIEW/
GROUP.zip`` with groups img, semseg, depth and ``seq.csv``; in an archive stands ``SEQUENCE/00000000_img_front.jpg``,
and ``semseg_front.png`` and ``depth_front.png`` likewise. An archive may be a folder of its name, or unpacked beside
it. Class ids are CARLA's, in the red channel. Depth is packed into 24 bits: the loader of vis4d divides by 256^3 /
1000 (metres), as CARLA does; an early version of the authors' own loader divided by 1000, which would be 16.8 times
as far. The columns of seq.csv (video, start_weather_coarse, start_weather_fine, start_timeofday_coarse,
start_timeofday_fine) are those that public evaluation code reads. Cameras see 90 degrees (1280 x 800: focal length
640 pixels). Videos (10 frames/s) must be unpacked with the authors' tool first.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from typing_extensions import Self

from streams._messages import one_line
from streams.classes import SHIFT_14
from streams.datasets.base import DatasetSettings, Listing, Sample
from streams.datasets.depth import depth_file, packed_to_depth
from streams.datasets.labels import LabelFormat
from streams.datasets.trees import content
from streams.errors import StreamError
from streams.frame import Intrinsics
from streams.sources.files import File, ZippedFile, list_zip, read_bytes
from streams.sources.folder import natural_key

FAR_M = 1000.0
CAMERA = Intrinsics(fx=640.0, fy=640.0, cx=640.0, cy=400.0)
"""Of images at their full size, 1280 x 800."""

_LENGTHS = ("discrete", "1x", "10x", "100x")
_SPLITS = ("train", "val", "minival", "test", "minitest")


class Shift(DatasetSettings):
    """SHIFT.

    Attributes:
        shift: ``discrete`` or how fast weather changes within a sequence: ``1x``, ``10x``, ``100x``.
        rate: ``images`` (1 frame/s) or ``videos`` (10 frames/s).
        split: Part of the data; ``test`` has no public labels.
        view: Camera.
        weather: Weather at the start of the sequence: clear, cloudy, overcast, rainy, foggy, or a fine one such as
            ``small_rain``; None takes all.
        time: Daylight at the start, likewise: daytime, dawn/dusk, night, or a fine one; None takes all.
        sequence: One sequence alone.
    """

    NAME: ClassVar[str] = "shift"
    TITLE: ClassVar[str] = "SHIFT"
    PARTS: ClassVar[tuple[str, ...]] = ("shift", "split")

    shift: Literal["discrete", "1x", "10x", "100x"] = "discrete"
    rate: Literal["images", "videos"] = "images"
    split: Literal["train", "val", "minival", "test", "minitest"] = "val"
    view: Literal["front", "left_45", "left_90", "right_45", "right_90", "left_stereo"] = "front"
    weather: str | None = None
    time: str | None = None
    sequence: str | None = None

    def _folder(self) -> Path:
        assert self.root is not None
        if self.shift == "discrete":
            return self.root / "discrete" / self.rate / self.split / self.view
        return self.root / "continuous" / self.rate / self.shift / self.split / self.view

    def scan(self) -> Listing:
        base, folder = self.base, self._folder()
        if not folder.is_dir():
            there = ", ".join(sorted({f"{part.shift}/{part.split}" for part in self.parts()}))
            raise StreamError(f"{folder}: no such folder; there is {there or f'nothing of SHIFT: {content(base)}'}")
        images = self._group(folder, "img", "jpg", "png")
        if not images:
            raise StreamError(f"{folder}: no img.zip and no unpacked images in it; {content(folder)}")
        wanted = self._sequences(folder, {sequence for sequence, _ in images})
        labels, depths = self._group(folder, "semseg", "png"), self._group(folder, "depth", "png")
        samples = tuple(
            Sample(f"{sequence}/{frame}", image, labels.get((sequence, frame)), depths.get((sequence, frame)))
            for (sequence, frame), image in images.items()
            if sequence in wanted
        )
        chosen = " ".join(filter(None, (self.shift, self.split, self.weather, self.time, self.sequence)))
        return Listing(
            f"{self.NAME} {chosen}", base, samples, LabelFormat(SHIFT_14, first_channel=True) if labels else None,
            read_depth if depths else None, _camera,
        )  # fmt: skip

    def _group(self, folder: Path, group: str, *suffixes: str) -> dict[tuple[str, str], File]:
        """Files of a data group by sequence and frame number, in the order of play."""
        endings = tuple(f"_{group}_{self.view}.{suffix}" for suffix in suffixes)
        archive, found = folder / f"{group}.zip", {}
        files: list[File] = []
        if archive.is_file():
            files = list(list_zip(archive))
        else:
            for place in (folder / group, folder):
                files = [path for ending in endings for path in place.glob(f"*/*{ending}")]
                if files:
                    break
        for file in files:
            ending = next((ending for ending in endings if file.name.endswith(ending)), None)
            if ending is not None:
                parent = file.member.split("/")[-2] if isinstance(file, ZippedFile) and "/" in file.member else ""
                sequence = parent if isinstance(file, ZippedFile) else file.parent.name
                found[sequence, file.name[: -len(ending)]] = file
        return {key: found[key] for key in sorted(found, key=lambda key: (natural_key(key[0]), natural_key(key[1])))}

    def _sequences(self, folder: Path, there: set[str]) -> set[str]:
        if self.sequence is not None:
            if self.sequence not in there:
                raise StreamError(f"{folder}: no sequence {self.sequence!r} in it; the first is {min(there)}")
            there = {self.sequence}
        if self.weather is None and self.time is None:
            return there
        rows = read_sequences(folder / "seq.csv")
        wanted = {
            video
            for video, row in rows.items()
            if all(
                value is None
                or _plain(value) in {_plain(row.get(f"start_{kind}_{grade}", "")) for grade in ("coarse", "fine")}
                for kind, value in (("weather", self.weather), ("timeofday", self.time))
            )
        }
        if not wanted & there:
            known = sorted(
                {
                    _plain(row.get(f"start_{kind}_coarse", ""))
                    for row in rows.values()
                    for kind in ("weather", "timeofday")
                }
            )
            raise StreamError(
                f"{folder / 'seq.csv'}: no sequence with {' and '.join(filter(None, (self.weather, self.time)))}; "
                f"there is {', '.join(filter(None, known))}"
            )
        return wanted & there

    def parts(self) -> tuple[Self, ...]:
        if self.root is None:
            return ()
        found = []
        for shift in _LENGTHS:
            for rate in ("images", "videos"):
                for split in _SPLITS:
                    part = self.model_copy(update={"shift": shift, "rate": rate, "split": split})
                    images = part._group(part._folder(), "img", "jpg", "png") if part._folder().is_dir() else {}
                    if images:
                        found += part._conditions(images)
        return tuple(found)

    def _conditions(self, images: Iterable[tuple[str, str]]) -> list[Self]:
        """One part a weather and time of day, where seq.csv tells them."""
        file = self._folder() / "seq.csv"
        if not file.is_file():
            return [self]
        there = {sequence for sequence, _ in images}
        rows = [row for video, row in read_sequences(file).items() if video in there]
        kinds = {
            (_plain(row.get("start_weather_coarse", "")), _plain(row.get("start_timeofday_coarse", ""))) for row in rows
        }
        return [
            self.model_copy(update={"weather": weather or None, "time": time or None})
            for weather, time in sorted(kinds)
        ]

    def for_training(self) -> tuple[Self, Self | None]:
        return self.model_copy(update={"split": "train"}), self.model_copy(update={"split": "val"})


def read_sequences(file: Path) -> dict[str, dict[str, str]]:
    """Rows of a seq.csv by sequence.

    Raises:
        StreamError: There is none, or it has no column ``video``.
    """
    if not file.is_file():
        raise StreamError(f"{file}: no such file; it tells weather and time of day (download.py --group '[seq]')")
    reader = csv.DictReader(io.StringIO(read_bytes(file).decode("utf-8-sig", errors="replace")))
    try:
        columns = reader.fieldnames or ()
        if "video" not in columns:
            found = one_line(", ".join(columns)[:200]) or "nothing"
            raise StreamError(f"{file}: has no column 'video', but {found}")
        return {row["video"]: {key: value or "" for key, value in row.items() if key} for row in reader if row["video"]}
    except csv.Error as error:
        raise StreamError(f"{file}: not a table of comma-separated values: {error}") from None


def _plain(text: str) -> str:
    """``Small Rain``, ``small_rain`` and ``small rain`` are one."""
    return " ".join(text.lower().replace("_", " ").replace("-", " ").split())


def read_depth(sample: Sample) -> NDArray[np.float32]:
    """Metres along the optical axis; 0 where there is no surface."""
    return packed_to_depth(depth_file(sample), FAR_M)


def _camera(_: Sample) -> Intrinsics | None:
    return CAMERA
