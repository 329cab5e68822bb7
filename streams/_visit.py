"""One visit of a stream as it is played: items by index, made of the source's frames and the visit's weather."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, TypeAlias
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from streams.frame import Frame, Scene, StreamItem, Truth
from streams.schedule import Visit
from streams.sources.images import FrameFault
from streams.weather import CLEAR, Weather, WeatherStream, parse_weather
from streams.weather.view import SceneStatistics


class Source(Protocol):
    """Frames by index within a visit; the label is handed out apart from what the runtime may see.

    Attributes:
        size: Height and width of frames.
        speed_mps: Forward speed of the camera; 0 where it is not known.
    """

    size: tuple[int, int]
    speed_mps: float

    def read(self, index: int) -> tuple[Scene, NDArray[np.uint8] | None]:
        """Raises `FrameFault` for a frame that cannot be had, `StreamError` for a fault of the user's."""
        ...


@dataclass(frozen=True, slots=True)
class VisitPlan:
    """A domain visit as it will be played.

    Attributes:
        domain: Name of the domain.
        visit: Position in the schedule, from 0.
        first: Stream index of its first frame.
        frames: Number of frames, bad ones included.
    """

    domain: str
    visit: int
    first: int
    frames: int


KnownStatistics: TypeAlias = WeakKeyDictionary[Source, SceneStatistics]


class VisitPlayer:
    """Items of one visit; the weather's scene statistics come from its first readable frame.

    Every visit of a source begins with the same frame, so that all of them share what ``known`` holds of it.
    """

    def __init__(
        self, plan: VisitPlan, visit: Visit, source: Source, seed: int, fps: float, known: KnownStatistics
    ) -> None:
        self._known = known
        self._plan = plan
        self._source = source
        self._seed = seed
        self._fps = fps
        self._weather: Weather = parse_weather(visit.weather) if visit.weather else CLEAR
        self._segment: WeatherStream | None = None

    def holds(self, index: int) -> bool:
        """Whether the frame belongs to this visit."""
        return self._plan.first <= index < self._plan.first + self._plan.frames

    def item(self, index: int) -> StreamItem:
        plan = self._plan
        try:
            scene, label = self._source.read(index - plan.first)
        except FrameFault as fault:
            return StreamItem(index, None, Truth(plan.domain, plan.visit, None), str(fault))
        timestamp_s = index / self._fps
        image, label = self._render(scene, label, index, timestamp_s)
        return StreamItem(index, Frame(index, image, timestamp_s), Truth(plan.domain, plan.visit, label))

    def _render(
        self, scene: Scene, label: NDArray[np.uint8] | None, index: int, timestamp_s: float
    ) -> tuple[NDArray[np.uint8], NDArray[np.uint8] | None]:
        """The frame under the visit's weather, and its label without what the weather takes out of the scores."""
        if not self._weather.effects:
            return scene.image, label
        if self._segment is None:
            first = self._known.get(self._source) or self._first_scene(scene)
            speed = self._source.speed_mps
            self._segment = WeatherStream(self._weather, self._seed, first, ego_speed_mps=speed)
            self._known[self._source] = self._segment.statistics
        # The stream's clock, not the visit's: the same road under the same rain twice meets other drops.
        progress = (index - self._plan.first) / max(1, self._plan.frames - 1)
        image, _ = self._segment.render(scene, frame_index=index, t_seconds=timestamp_s, progress=progress)
        if label is not None:
            label = self._segment.relabel(scene, label, frame_index=index, t_seconds=timestamp_s, progress=progress)
        return image, label

    def _first_scene(self, fallback: Scene) -> Scene:
        for index in range(self._plan.frames):
            try:
                return self._source.read(index)[0]
            except FrameFault:
                continue
        return fallback
