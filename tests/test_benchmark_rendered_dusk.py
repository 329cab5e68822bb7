"""The rendered dusk: dark below, bright above, as exposed as asked for, and a schedule that plays."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks.rendered_dusk import DAY, VISITS, at_dusk, write
from benchmarks.tiny_run import write_inputs
from streams.schedule import load_schedule
from streams.stream import Stream


def scene() -> tuple[np.ndarray, np.ndarray]:
    sky = np.zeros((48, 64), bool)
    sky[:16] = True
    random = np.random.default_rng(0)
    image = random.integers(90, 140, (48, 64, 3)).astype(np.uint8)
    image[sky] = 230
    return image, sky


@pytest.mark.parametrize("exposure", [0.8, 0.95])
def test_the_ground_gets_dark_and_the_frame_is_exposed_as_asked(exposure: float) -> None:
    image, sky = scene()
    out = at_dusk(image, sky, 0.15, exposure, np.random.default_rng(1))
    assert out.mean() == pytest.approx(exposure * image.mean(), rel=0.03)
    inner = np.zeros_like(sky)
    inner[22:] = True
    assert out[sky].mean() / out[inner].mean() > 1.3 * image[sky].mean() / image[inner].mean()
    darker = at_dusk(image, sky, 0.05, exposure, np.random.default_rng(1))
    assert darker[inner].mean() < out[inner].mean()


def test_it_writes_a_schedule_that_plays(tmp_path: Path) -> None:
    write_inputs(tmp_path / "noise", 3)
    for name in (DAY, *(folder for _, folder, _, _ in VISITS)):
        (tmp_path / name).symlink_to(tmp_path / "noise" / "day")
    schedule = write(tmp_path, tmp_path / "out")
    with Stream(load_schedule(str(schedule)), seed=0) as stream:
        items = list(stream.iterate(0))
    assert [item.truth.domain for item in items] == ["day"] * 3 + ["dusk20"] * 3 + ["day"] * 3 + ["dusk12"] * 3 + [
        "day"
    ] * 3
    day, dusk = items[0], items[3]
    assert day.frame is not None
    assert dusk.frame is not None
    assert dusk.frame.image.mean() < 0.9 * day.frame.image.mean()
    assert np.array_equal(day.truth.label, dusk.truth.label)
