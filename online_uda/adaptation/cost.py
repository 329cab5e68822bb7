"""What a method costs a frame, in passes of the student over one frame, from its settings alone."""

from __future__ import annotations

from dataclasses import dataclass

from online_uda.adaptation.settings import MethodSettings


@dataclass(frozen=True, slots=True)
class Cost:
    """Passes over one frame's pixels.

    Attributes:
        predict: Forwards of a prediction.
        forwards: Further forwards of one step, of whichever network.
        backwards: Backwards of one step.
        when: In words, when a step is taken.
    """

    predict: float
    forwards: float
    backwards: float
    when: str

    def __str__(self) -> str:
        if not self.forwards and not self.backwards:
            return f"{self.predict:g}F"
        return f"{self.predict:g}F + {self.forwards:.3g}F {self.backwards:.3g}B {self.when}"


def cost_of(settings: MethodSettings) -> Cost:
    """Counts the passes; crops count by their share of the frame, a suffix of modules as the whole network."""
    wanted, forwards, backwards = settings.objectives, 0.0, 0.0
    if wanted.entropy is not None:
        forwards, backwards = forwards + 1, backwards + 1
        forwards += wanted.entropy.shuffle is not None
    if wanted.likelihood is not None:
        passes = 1 + (wanted.likelihood.consistency > 0.0)
        forwards, backwards = forwards + passes, backwards + passes
    if wanted.taught is not None:
        views = wanted.taught.views
        scales = [scale**2 * (1 + views.flip) for scale in views.scales] + [0.0 if 1.0 in views.scales else 1.0]
        forwards += sum(scales) + (wanted.taught.trust != "views") + 1
        backwards += 1
    if wanted.prototype is not None:
        forwards, backwards = forwards + 3, backwards + 1
    if wanted.fused is not None:
        forwards, backwards = forwards + wanted.fused.views + 1, backwards + 1
    if wanted.remembered is not None:
        count = wanted.remembered.frames
        forwards, backwards = forwards + 2 * count, backwards + count
    if wanted.near_source is not None:
        forwards, backwards = forwards + 2, backwards + 1
    if wanted.distilled is not None:
        forwards, backwards = forwards + 1, backwards + 1
    if settings.replay is not None:
        area = settings.replay.crop[0] * settings.replay.crop[1] * settings.replay.batch
        for objective in (wanted.replay, wanted.mixed):
            if objective is not None:
                forwards, backwards = forwards + area, backwards + area
        if wanted.adversarial is not None:
            trains = wanted.adversarial.phase != "disc_only"
            forwards, backwards = forwards + 1 + area, backwards + (1 + area) * trains
        if wanted.transfer is not None:
            forwards, backwards = forwards + 1 + area, backwards + 1 + area
        if wanted.discrepancy is not None:
            forwards, backwards = forwards + 1 + area, backwards + 1 + area
        forwards += area / settings.replay.batch * (wanted.mixed is not None)
        forwards += area * (wanted.feature_distance is not None)
    slot = settings.activations
    if slot is not None and slot.kind == "recompute":
        forwards += backwards  # nearly: heads, and what lies outside of blocks, run once
    elif slot is not None and slot.kind == "prune" and slot.rule == "surgeon":
        forwards, backwards = forwards + slot.crop / slot.every, backwards + slot.crop / slot.every
    twice = 2 if settings.optimizer.sharpness > 0.0 else 1
    times = settings.steps * twice
    looks = settings.norm.views * settings.norm.crop**2 if settings.norm.statistics == "dua" else 0.0
    return Cost(1.0, times * forwards + looks, times * backwards, _when(settings))


def _when(settings: MethodSettings) -> str:
    trigger, bigger = settings.trigger, "" if settings.objectives.distilled is None else ", and the bigger network once"
    if trigger.kind == "always":
        return ("every frame" if trigger.every == 1 else f"every {trigger.every} frames") + bigger
    if trigger.kind == "stride":
        return f"every {trigger.smallest} to {trigger.largest} frames" + bigger
    return "within its budget" if trigger.kind == "hamlet" else "while far from the source"
