"""TensorBoard files read back with TensorBoard's own reader."""

from __future__ import annotations

import io
import re
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.custom_scalar import layout_pb2

from online_uda.reports.tensorboard import TensorBoardSink, custom_layout, event_files


def read(path):
    events = EventAccumulator(str(path), size_guidance={"images": 0, "scalars": 0, "tensors": 0})
    events.Reload()
    return events


def steps(events, tag):
    return [event.step for event in events.Scalars(tag)]


def run(path, toy_classes, record, frames, summary=None, images=True, **options):
    with TensorBoardSink(path, toy_classes, tile_width=32, **options) as sink:
        for frame in frames:
            sink.write(record(frame, images=images))
        if summary is not None:
            sink.finish(summary)


def test_scalars_are_grouped_by_domain(tmp_path, toy_classes, record, toy_summary):
    run(tmp_path, toy_classes, record, range(12), toy_summary)
    events = read(tmp_path)
    assert steps(events, "rain/miou") == [4, 5, 6, 7]
    assert steps(events, "clear/frame_miou_frozen") == [0, 1, 2, 3, 8, 9, 10, 11]
    assert [event.value for event in events.Scalars("rain/miou_frozen")] == [52.5, 53.5, 54.5, 55.5]
    assert {event.value for event in events.Scalars("rain/gain")} == {3.5}
    assert [event.step for event in events.Scalars("signal/detected") if event.value] == [5]
    assert [event.step for event in events.Scalars("signal/boundary") if event.value] == [4, 8]
    assert events.Scalars("loss/entropy")[3].value == 3.5
    assert events.Scalars("update/lr")[0].value == pytest.approx(1e-3)
    assert events.Scalars("latency_ms/predict")[0].value == 20.0
    assert "latency_ms/adapt" not in events.Tags()["scalars"]
    table = events.Tensors("summary/text_summary")[0].tensor_proto.string_val[0].decode()
    assert "harmonic mean" in table


def charts(events, which=-1):
    layout = layout_pb2.Layout()
    layout.ParseFromString(events.Tensors("custom_scalars__config__")[which].tensor_proto.string_val[0])
    return {
        category.title: {chart.title: list(chart.multiline.tag) for chart in category.chart}
        for category in layout.category
    }


def test_layout_opens_on_adapted_against_frozen_and_finds_every_tag(tmp_path, toy_classes, record, toy_summary):
    run(tmp_path, toy_classes, record, range(12), toy_summary, domains=["clear"])
    events = read(tmp_path)
    assert list(charts(events, 0)["Adapted against frozen"]) == ["clear"]
    layout = charts(events)
    assert next(iter(layout)) == "Adapted against frozen"
    assert list(layout["Adapted against frozen"]) == ["clear", "rain"]
    scalars = events.Tags()["scalars"]
    found = [tag for tag in scalars if re.match(layout["Adapted against frozen"]["rain"][0], tag)]
    assert found == ["rain/miou"]
    for category in layout.values():
        for patterns in category.values():
            for pattern in patterns:
                assert any(re.match(pattern, tag) for tag in scalars), pattern


def test_odd_domain_names_stay_in_one_group_and_match_themselves():
    (name, (kind, patterns)) = next(iter(custom_layout(["a/b+c"])["Adapted against frozen"].items()))
    assert (name, kind) == ("a_b+c", "Multiline")
    assert re.match(patterns[0], "a_b+c/miou")
    assert not re.match(patterns[0], "a_b+c/miou_frozen")


def test_panels_at_visit_starts_ends_and_detections(tmp_path, toy_classes, record, toy_summary):
    run(tmp_path, toy_classes, record, range(12), toy_summary)
    events = read(tmp_path)
    panels = {tag: [image.step for image in events.Images(tag)] for tag in events.Tags()["images"]}
    assert panels == {
        "panels/00_clear/start": [0], "panels/00_clear/end": [3], "panels/01_rain/start": [4],
        "panels/01_rain/end": [7], "panels/02_clear/start": [8], "panels/02_clear/end": [11], "panels/detected": [5],
    }  # fmt: skip
    picture = np.array(Image.open(io.BytesIO(events.Images("panels/01_rain/start")[0].encoded_image_string)))
    assert picture.shape == (18 + 16, 4 * 32, 3)
    assert tuple(picture[-1, 0]) == (200, 200, 200)
    assert tuple(picture[-1, 40]) == toy_classes.palette[1]


def test_panels_are_bounded_and_need_images(tmp_path, toy_classes, record):
    run(tmp_path / "few", toy_classes, record, range(12), max_panels=2)
    assert read(tmp_path / "few").Tags()["images"] == ["panels/00_clear/start", "panels/00_clear/end"]
    run(tmp_path / "none", toy_classes, record, range(12), images=False)
    assert read(tmp_path / "none").Tags()["images"] == []


def test_resume_hides_what_came_after_the_snapshot(tmp_path, toy_classes, record):
    run(tmp_path, toy_classes, record, range(7))
    run(tmp_path, toy_classes, record, range(5, 12), purge_step=5)
    events = read(tmp_path)
    assert steps(events, "signal/value") == list(range(12))


def test_a_long_run_starts_new_files_and_removes_the_oldest(tmp_path, toy_classes, record):
    with TensorBoardSink(tmp_path, toy_classes, ["clear"], part_bytes=30_000, kept_parts=2) as sink:
        for frame in range(1500):
            sink.write(replace(record(frame % 12), frame=frame))
            if frame % 64 == 63:
                sink._writer.flush()
    files = event_files(tmp_path)
    assert len(files) == 3
    assert all(30_000 <= file.stat().st_size < 120_000 for file in files[:-1])
    events = EventAccumulator(str(tmp_path), size_guidance={"scalars": 0, "tensors": 0})
    events.Reload()
    seen = steps(events, "signal/value")
    assert seen == list(range(seen[0], 1500))
    assert 0 < seen[0] < 1400
    assert next(iter(charts(events)["Adapted against frozen"])) == "clear"


def test_unlabelled_frames_write_no_score(tmp_path, toy_classes, record):
    with TensorBoardSink(tmp_path, toy_classes) as sink:
        sink.write(record(0, miou=None, miou_frozen=None, visit_miou=None, visit_miou_frozen=None))
    assert not [tag for tag in read(tmp_path).Tags()["scalars"] if tag.startswith("clear/")]


def test_writing_before_opening_is_an_error(tmp_path, toy_classes, record):
    with pytest.raises(ValueError, match="not open"):
        TensorBoardSink(tmp_path, toy_classes).write(record(0))
