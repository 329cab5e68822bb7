"""Panels: four tiles in class colours."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from online_uda.reports.panels import HEADER_PX, colour_table, compose_panel
from online_uda.reports.record import FrameImages


def test_tiles_show_image_truth_frozen_and_adapted(record, toy_classes):
    label = np.zeros((10, 20), np.uint8)
    label[:, 10:] = 255
    images = FrameImages(
        np.full((5, 10, 3), 7, np.uint8), adapted=np.full((10, 20), 2, np.uint8),
        frozen=np.full((10, 20), 1, np.uint8), truth=label,
    )  # fmt: skip
    panel = compose_panel(record(0, images=images), toy_classes.palette, tile_width=40)
    assert panel.shape == (HEADER_PX + 20, 160, 3)
    body = panel[HEADER_PX:]
    assert (body[:, :40] == 7).all()
    assert (body[:, 40:60] == toy_classes.palette[0]).all()
    assert (body[:, 60:80] == 0).all()
    assert (body[:, 80:120] == toy_classes.palette[1]).all()
    assert (body[:, 120:] == toy_classes.palette[2]).all()
    titles = [panel[:HEADER_PX, 40 * i : 40 * i + 40].max() for i in range(4)]
    assert min(titles) > 128


def test_missing_truth_and_frozen_are_grey_and_the_scores_are_in_the_titles(record, toy_classes):
    images = FrameImages(np.zeros((4, 8, 3), np.uint8), np.zeros((4, 8), np.uint8))
    bare = record(0, images=images, miou=None)
    panel = compose_panel(bare, toy_classes.palette, tile_width=100)
    assert len(np.unique(panel[HEADER_PX:, 100:300])) == 1
    scored = compose_panel(dataclasses.replace(bare, miou=61.2), toy_classes.palette, tile_width=100)
    assert (scored[:HEADER_PX, 300:] != panel[:HEADER_PX, 300:]).any()
    assert np.array_equal(scored[:, :300], panel[:, :300])


def test_a_record_without_images_cannot_be_drawn(record, toy_classes):
    with pytest.raises(ValueError, match="frame 3 came without images"):
        compose_panel(record(3), toy_classes.palette)


def test_ids_without_a_colour_are_black(toy_classes):
    table = colour_table(toy_classes.palette)
    assert table.shape == (256, 3)
    assert table[3:].max() == 0
    assert tuple(table[2]) == toy_classes.palette[2]
