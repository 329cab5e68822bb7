"""What a source training run does: phases of rising resolution, optimiser, schedule, sampling, light head."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Phase:
    """A stretch of training at one resolution.

    Attributes:
        share: Part of all iterations, the shares add up to 1.
        crop: Crop height and width over those of the source images.
        scale: Smallest and largest resize factor before cropping.
        batch: Images a step.
        loss_stride: The loss is taken on every n-th label pixel in each direction.
        photometric: Whether colours are distorted.
    """

    share: float
    crop: float
    scale: tuple[float, float]
    batch: int
    loss_stride: int
    photometric: bool = True


# A transformer from scratch needs many steps before it needs wide views: half-size crops give four times as many.
RISING = (
    Phase(0.55, 0.5, (0.5, 1.2), 16, 2),
    Phase(0.25, 0.75, (0.7, 1.5), 8, 2),
    Phase(0.20, 1.0, (0.9, 1.3), 8, 2),
)


# The light head is to know the source as it comes: what distorts its input is what it has to notice.
AS_IT_COMES = Phase(1.0, 1.0, (1.0, 1.0), 8, 2, photometric=False)


@dataclass(frozen=True, slots=True)
class TrainingPlan:
    """Settings of a source training run.

    Attributes:
        iterations: Optimiser steps of the main training.
        light_iterations: Optimiser steps of the light head afterwards, everything else frozen.
        learning_rate: Peak rate of AdamW.
        light_rate: First rate of AdamW for the light head; it falls linearly to 0.
        weight_decay: For matrices; norms and biases have none.
        warmup: Steps of linear warm-up, at most a tenth of the iterations.
        poly: Exponent of the polynomial decay to 0.
        ema_half_life: Half-life in steps of the weight average that is evaluated and saved.
        clip: Largest gradient norm.
        seed: Of weights, sampling and augmentation.
        phases: See `Phase`.
        light_phase: The light head's only phase.
    """

    iterations: int = 4000
    light_iterations: int = 400
    learning_rate: float = 1e-3
    light_rate: float = 5e-3
    weight_decay: float = 0.01
    warmup: int = 150
    poly: float = 0.9
    ema_half_life: float = 100.0
    clip: float = 5.0
    seed: int = 0
    phases: tuple[Phase, ...] = RISING
    light_phase: Phase = AS_IT_COMES

    def phase_at(self, step: int) -> Phase:
        """The phase of optimiser step ``step`` (0-based)."""
        done = 0.0
        for phase in self.phases:
            done += phase.share
            if step < round(done * self.iterations):
                return phase
        return self.phases[-1]

    def rate_at(self, step: int) -> float:
        """Learning rate of optimiser step ``step``: linear warm-up, then polynomial decay to 0 at ``iterations``."""
        warmup = min(self.warmup, self.iterations // 10)
        if step < warmup:
            return self.learning_rate * (step + 1) / warmup
        left = 1.0 - (step - warmup) / max(1, self.iterations - warmup)
        return self.learning_rate * max(left, 0.0) ** self.poly

    def average_decay_at(self, step: int) -> float:
        """Share of the old weight average kept after step ``step``; small at first, so that the start is forgotten."""
        return min(0.5 ** (1.0 / self.ema_half_life), (1 + step) / (10 + step))
