"""Weather over one stream segment: statistics from its first clear frame, then a pure function a frame."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from streams.frame import Scene
from streams.weather.effect import Metadata
from streams.weather.parse import Weather
from streams.weather.render import relabel, render_weather
from streams.weather.view import Moment, SceneStatistics, estimate_statistics


class WeatherStream:
    """Renders one weather onto the frames of one segment (a domain visit).

    The only state is what the first clear frame of the segment fixes, so a run that resumes in the middle builds the
    same object from that frame and goes on with identical bytes. Frames may be rendered in any order.

    Args:
        weather: Effects in order.
        seed: Seed of the weather.
        segment_first: First clear frame of the segment, or its statistics where they are known.
        ego_speed_mps: Forward speed of the camera, constant over the segment.
        sky_id: Id of sky in labels of scenes that come with depth; None never reads labels.

    Attributes:
        weather: Effects in order.
        seed: Seed of the weather.
        ego_speed_mps: Forward speed of the camera, constant over the segment.
        sky_id: Id of sky in labels of scenes that come with depth; None never reads labels.
        statistics: Airlight and the like.
    """

    def __init__(
        self,
        weather: Weather,
        seed: int,
        segment_first: Scene | SceneStatistics,
        *,
        ego_speed_mps: float = 0.0,
        sky_id: int | None = None,
    ) -> None:
        self.weather = weather
        self.seed = seed
        self.ego_speed_mps = ego_speed_mps
        self.sky_id = sky_id
        self.statistics: SceneStatistics = (
            segment_first if isinstance(segment_first, SceneStatistics) else estimate_statistics(segment_first, sky_id)
        )

    def render(
        self, scene: Scene, *, frame_index: int, t_seconds: float, progress: float = 0.0
    ) -> tuple[NDArray[np.uint8], tuple[Metadata, ...]]:
        """The frame under this weather.

        Args:
            scene: A clear frame of the segment.
            frame_index: Index in the stream.
            t_seconds: Time since the start of the segment, or any clock that runs through it.
            progress: How far the segment has come, 0 at its first frame and 1 at its last.

        Returns:
            ``(H, W, 3)`` uint8 RGB (``scene.image`` itself in clear weather) and one record an effect.
        """
        moment = Moment(frame_index, t_seconds, self.seed, self.ego_speed_mps, progress)
        return render_weather(scene, self.weather, moment, self.statistics, self.sky_id)

    def relabel(
        self, scene: Scene, label: NDArray[np.uint8], *, frame_index: int, t_seconds: float, progress: float = 0.0
    ) -> NDArray[np.uint8]:
        """The label of the frame as it shall be scored; takes what `render` takes, and never writes ``label``."""
        moment = Moment(frame_index, t_seconds, self.seed, self.ego_speed_mps, progress)
        return relabel(scene, label, self.weather, moment, self.statistics, self.sky_id)
