"""A toy stream for the scorebook: three visits of small random labels."""

from __future__ import annotations

import numpy as np
import pytest

from streams.frame import Truth

VISITS = ("clear", "rain", "clear")


def frames_of(per_visit=8, seed=0):
    """Yields (index, truth, adapted, frozen); both networks fail more in the rain, the adapted one less."""
    rng = np.random.default_rng(seed)
    for index in range(per_visit * len(VISITS)):
        visit = index // per_visit
        label = rng.integers(0, 3, (6, 9)).astype(np.uint8)
        label[0, :3] = 255
        wrong_frozen = rng.random(label.shape) < (0.5 if VISITS[visit] == "rain" else 0.2)
        wrong = wrong_frozen & (rng.random(label.shape) < 0.7)
        shown = label % 3
        adapted, frozen = (np.where(w, (shown + 1) % 3, shown).astype(np.uint8) for w in (wrong, wrong_frozen))
        yield index, Truth(VISITS[visit], visit, label), adapted, frozen


@pytest.fixture
def frames():
    """Function (per_visit, seed) that yields (index, truth, adapted, frozen)."""
    return frames_of
