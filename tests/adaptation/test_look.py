"""The look of a stream: nothing is moved near the source, all of the way is gone far from it, and state is exact."""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import replace
from itertools import chain
from typing import Any

import pytest
import torch
from recipe_kit import SourceSet, make_recipe, settings_of, stream, trained
from torch import Tensor

from online_uda.adaptation.deployed import deployed_alignment
from online_uda.adaptation.look import StreamLook
from online_uda.adaptation.settings import AlignmentSettings
from online_uda.adaptation.trigger.base import FAR_FULL_AT as FULL_AT
from online_uda.adaptation.trigger.base import FAR_STARTS_AT as STARTS_AT
from online_uda.adaptation.trigger.base import Decision
from online_uda.networks.alignment import Look, mean_look, moments, to_frame, to_opponent
from online_uda.networks.haze import mean_transmission, transmission_by_height

NEAR, FAR = Decision(False, distance=0.2), Decision(True, distance=2.0)


def look_of(**settings: Any) -> StreamLook:
    slot = AlignmentSettings(**settings)
    images = [SourceSet()[index].image for index in range(8)]
    clear = mean_transmission(to_frame(image, torch.device("cpu")) for image in images)
    return StreamLook(mean_look(images, (slot.rows, slot.columns), torch.device("cpu")), slot, clear)


def shown(look: StreamLook, frames: Iterator[Tensor], decision: Decision) -> Tensor:
    """Shows frames and gives the last, moved."""
    for frame in frames:
        look.watch(frame, decision)
    return look(frame)


def cells(frame: Tensor) -> Look:
    return moments(to_opponent(frame), (4, 1))


@pytest.mark.parametrize(
    ("distance", "strength"),
    [(0.0, 0.0), (STARTS_AT, 0.0), ((STARTS_AT + FULL_AT) / 2, 0.3), (FULL_AT, 0.6), (9.0, 0.6), (None, 0.6)],
)
def test_the_strength_follows_the_distance(distance: float | None, strength: float) -> None:
    look = look_of(strength=0.6)
    frame = next(stream(1, haze=0.6))
    assert look(frame) is frame  # nothing is known of the stream yet
    out = shown(look, iter([frame]), Decision(True, distance=distance))
    assert look.strength == pytest.approx(strength)
    assert (out is frame) is (strength == 0.0)


def test_frames_go_towards_the_source_look_and_near_ones_are_left_alone() -> None:
    look = look_of(own=0.0)
    source, hazy = look.wanted, next(stream(1, haze=0.6))
    assert shown(look, stream(3, haze=0.0), NEAR) is not None
    clear = next(stream(1, haze=0.0))
    assert torch.equal(look(clear), clear)
    out = shown(look, iter([hazy] * 20), FAR)
    for before, after, wanted in zip(cells(hazy), cells(out), source, strict=True):
        assert (after - wanted).abs().mean() < 0.75 * (before - wanted).abs().mean()


def test_own_is_the_share_of_the_streams_own_near_look() -> None:
    wanted = {}
    for own in (0.0, 0.5, 1.0):
        look = look_of(own=own)
        shown(look, (frame * 0.5 for frame in stream(40, haze=0.0)), NEAR)
        wanted[own] = look.wanted[0]
        shown(look, stream(40, haze=0.9), FAR)  # far frames are no part of it
        assert torch.equal(look.wanted[0], wanted[own])
    assert (wanted[1.0][:, 0] < 0.75 * wanted[0.0][:, 0]).all()
    torch.testing.assert_close(wanted[0.5], (wanted[0.0] + wanted[1.0]) / 2)


def test_haze_is_taken_away_as_far_as_the_stream_is_far() -> None:
    look, hazy = look_of(haze=0.8, half_life_frames=0.01), next(stream(1, haze=0.6))
    shown(look, stream(4, haze=0.0), NEAR)
    assert look.haze == 0.0
    moved = shown(look_of(haze=0.0), iter([hazy] * 5), FAR)
    out = shown(look, iter([hazy] * 5), FAR)
    assert look.haze == 0.8
    assert transmission_by_height(out).mean() > transmission_by_height(moved).mean()
    exported = deployed_alignment({"look": look.state_dict()})
    assert exported is not None
    assert exported.haze == 0.8
    torch.testing.assert_close(exported(hazy), out)


def test_haze_is_taken_away_as_far_as_the_stream_has_gone_the_way_of_haze() -> None:
    look, frame = look_of(haze=0.8, half_life_frames=3.0), next(stream(1, haze=0.6))
    shares = []
    for haze in (0.1, 0.1, 2.0, 2.0, 2.0, 2.0):
        look.watch(frame, Decision(True, distance=2.0, haze=haze))
        shares.append(look.haze)
    assert shares[:2] == [0.0, 0.0], "far by night: no haze there"
    assert 0.0 < shares[2] <= shares[3] <= shares[5] == 0.8, "smoothed over frames"
    look.watch(frame, Decision(True, distance=2.0, haze=0.1, confirmed=True))
    assert look.haze == 0.0
    look.watch(frame, Decision(False, distance=0.1, haze=2.0))
    assert look.haze == 0.0, "near the source nothing is taken"


def test_rows_go_by_their_own_moments_as_far_as_the_stream_has_gone_the_way_of_haze() -> None:
    """Another street by night: what its rows differ in is no light, and all of the frame is moved alike."""
    frame = next(stream(1, haze=0.0)) * 0.4
    frame[..., : frame.shape[-2] // 4, :] *= 0.3  # dark roofs where the source has sky

    def out(haze: float, **settings: Any) -> Tensor:
        look = look_of(**settings)
        moved = shown(look, iter([frame]), Decision(True, distance=2.0, haze=haze))
        exported = deployed_alignment({"look": look.state_dict()})
        assert exported is not None
        torch.testing.assert_close(exported(frame), moved)
        return moved

    night, half, veiled = out(0.0), out((STARTS_AT + FULL_AT) / 2), out(2.0)
    alone = out(2.0, rows=1)  # up to how moments are averaged over source images
    assert (night - alone).abs().mean() < (half - alone).abs().mean() < (veiled - alone).abs().mean()
    assert (veiled - night).abs().mean() > 0.01


def test_without_haze_a_frame_is_moved_alone() -> None:
    plain, taking, night = look_of(haze=0.0), look_of(haze=0.8), next(stream(1, haze=0.0)) * 0.3
    for look in (plain, taking):
        look.watch(night, Decision(True, distance=2.0, haze=0.0))
    assert torch.equal(plain(night), taking(night))
    taking.watch(night, Decision(True, distance=2.0, haze=2.0, confirmed=True))
    assert not torch.equal(plain(night), taking(night))


def test_a_change_starts_the_look_afresh() -> None:
    dark, bright = next(stream(1, haze=0.8)) * 0.9, next(stream(1, haze=0.9))
    remembers, starts_afresh = look_of(), look_of()
    for look, detected in ((remembers, False), (starts_afresh, True)):
        shown(look, iter([dark] * 30), FAR)
        look.watch(bright, Decision(True, distance=2.0, confirmed=detected))
    fresh = look_of()
    fresh.watch(bright, FAR)
    assert torch.equal(starts_afresh(bright), fresh(bright))
    assert not torch.allclose(remembers(bright), fresh(bright), atol=0.01)


def test_a_sudden_cut_to_another_light_is_moved_by_its_own_look_at_once() -> None:
    """From fog into the night in one frame: the haze of the frames before must not be taken out of the dark."""
    foggy, night = next(stream(1, haze=0.9)), next(stream(1, haze=0.0)) * 0.15
    look, fresh = look_of(), look_of()
    shown(look, iter([foggy] * 10), FAR)
    fresh.watch(night, FAR)
    assert torch.equal(look(night), fresh(night))
    look.watch(night, FAR)  # nothing was detected, and yet the fog is forgotten
    assert torch.equal(look(night), fresh(night))
    close = (foggy - 0.05).clamp(0, 1)
    shown(look, iter([foggy] * 10), FAR)
    fresh.watch(close, Decision(True, distance=2.0, confirmed=True))
    assert not torch.equal(look(close), fresh(close))  # a drift is followed, not jumped to


def test_state_goes_through_a_file_and_a_part_of_it_through_another() -> None:
    look, resumed = look_of(columns=2, haze=0.5), look_of(columns=2, haze=0.5)
    shown(look, chain(stream(4, haze=0.0)), NEAR)
    assert deployed_alignment({"look": look.state_dict()}) is None
    shown(look, stream(3, haze=0.7), replace(FAR, haze=0.7))
    file = io.BytesIO()
    torch.save(look.state_dict(), file)
    file.seek(0)
    state = torch.load(file, weights_only=True)
    resumed.load_state_dict(state)
    frame = next(stream(1, haze=0.8))
    for one in (look, resumed):
        one.watch(frame, replace(FAR, haze=0.5))
    assert 0.0 < look.haze < 0.5
    assert torch.equal(look(frame), resumed(frame))
    exported = deployed_alignment({"look": look.state_dict()})
    assert exported is not None
    assert exported.strength == look.strength
    assert torch.allclose(exported.mean, look.wanted[0])
    assert deployed_alignment({}) is None


def test_a_method_may_move_frames_and_learn_nothing() -> None:
    """The network stays the source's to the bit, and its answers do not."""
    network = trained("batchnorm")
    settings = settings_of({"scope": {"parameters": "none"}, "alignment": {"own": 0.0}})
    assert settings.needs_source
    assert not settings.keeps_the_source
    recipe = make_recipe(settings, network)
    frames = [*stream(3, haze=0.6)]
    for frame in frames:
        answer = recipe.predict(frame)
        assert not recipe.observe(frame, answer).updated
    plain = network(frames[-1]).logits
    assert not torch.allclose(answer.logits, plain)
    weights = network.state_dict()
    assert all(torch.equal(tensor, weights[name]) for name, tensor in recipe.student.state_dict().items())
