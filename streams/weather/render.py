"""Render weather onto one frame: a pure function from arguments to bytes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from streams.errors import StreamError
from streams.frame import Scene
from streams.weather.colour import to_uint8
from streams.weather.effect import Effect, Finishes, Metadata, Relabels, Relights
from streams.weather.parse import Weather, parse_effect
from streams.weather.view import Moment, SceneStatistics, View, estimate_statistics, make_view


def apply_effects(view: View, effects: tuple[Effect, ...]) -> tuple[NDArray[np.float32], tuple[Metadata, ...]]:
    """Apply effects one after the other to the sRGB image of ``view``, in [0, 1]; what the camera adds comes last.

    Returns:
        ``(H, W, 3)`` float32 sRGB and one record an effect.
    """
    records = []
    for effect in effects:
        rgb, record = effect.apply(view)
        after = effect.relight(view.statistics) if isinstance(effect, Relights) else view.statistics
        view = replace(view, rgb=rgb, statistics=after)
        records.append(record)
    for effect in reversed(effects):  # lens drops of rain before the sensor noise of the night that comes first
        if isinstance(effect, Finishes):
            view = replace(view, rgb=effect.finish(view))
    return view.rgb, tuple(records)


def render(
    scene: Scene,
    event: str,
    params: object = None,
    *,
    frame_index: int = 0,
    t_seconds: float = 0.0,
    seed: int = 0,
    ego_speed_mps: float = 0.0,
    statistics: SceneStatistics | None = None,
    sky_id: int | None = None,
    progress: float = 0.0,
) -> tuple[NDArray[np.uint8], Metadata]:
    """Render one event onto a scene (spec section 1). The same arguments give the same bytes.

    Args:
        scene: Image with optional depth, intrinsics and label; nothing in it is written.
        event: Key in `streams.weather.EVENTS`.
        params: Number (the event's main parameter), mapping of parameters, effect, or None for defaults.
        frame_index: Index in the stream.
        t_seconds: Time in the segment.
        seed: Seed of the stream's weather.
        ego_speed_mps: Forward speed of the camera, constant over the segment.
        statistics: Statistics of the segment; None estimates them from this scene alone.
        sky_id: Id of sky in ``scene.label`` for pixels without depth. None never reads the label.
        progress: How far the segment has come, in [0, 1]; only for parameters that change.

    Returns:
        ``(H, W, 3)`` uint8 RGB and the record of what was done.

    Raises:
        StreamError: Unknown event or parameter, a scene whose parts differ in size, or a wildfire under a ``sky_id``
            that the label does not hold.
    """
    effect = parse_effect(event, params)
    if event == "wildfire" and sky_id is not None and scene.label is not None and not (scene.label == sky_id).any():
        found = ", ".join(map(str, np.unique(scene.label)[:20]))
        raise StreamError(f"weather wildfire: sky_id {sky_id} is not in the label, which holds {found}")
    image, records = render_weather(
        scene, Weather((effect,)), Moment(frame_index, t_seconds, seed, ego_speed_mps, progress),
        statistics or estimate_statistics(scene, sky_id), sky_id,
    )  # fmt: skip
    return image, records[0]


def relabel(
    scene: Scene,
    label: NDArray[np.uint8],
    weather: Weather,
    moment: Moment,
    statistics: SceneStatistics,
    sky_id: int | None = None,
) -> NDArray[np.uint8]:
    """The label as it shall be scored under ``weather``; ``label`` itself where no effect hides anything."""
    effects = [effect for effect in weather.at(moment) if isinstance(effect, Relabels)]
    if effects:
        view = make_view(scene, moment, statistics, sky_id)
        for effect in effects:
            label = effect.relabel(view, label)
    return label


def render_weather(
    scene: Scene, weather: Weather, moment: Moment, statistics: SceneStatistics, sky_id: int | None = None
) -> tuple[NDArray[np.uint8], tuple[Metadata, ...]]:
    """Render all effects of ``weather`` in order. Clear weather returns ``scene.image`` itself.

    Returns:
        ``(H, W, 3)`` uint8 RGB and one record an effect.
    """
    if not weather.effects:
        return scene.image, ()
    rgb, records = apply_effects(make_view(scene, moment, statistics, sky_id), weather.at(moment))
    return to_uint8(np.ascontiguousarray(rgb)), records
