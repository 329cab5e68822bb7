"""Domain-adversarial alignment: a discriminator learns where an answer comes from, the segmenter to leave it open.

Domain labels are 0 for replayed source images and 1 for the stream's frame (specs/seed-systems.md 3 and 9).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from online_uda.adaptation.discriminators import Discriminator
from online_uda.adaptation.frame_pass import FramePass
from online_uda.adaptation.gradient_reversal import reversal_strength, reverse_gradient
from online_uda.adaptation.pieces import Pieces
from online_uda.adaptation.settings.domains import AdversarialSettings
from online_uda.adaptation.views import Answer
from online_uda.networks.segmenter import Segmentation

BETAS = (0.9, 0.99)


class AdversarialStep:
    """Gradients of the domain loss for the segmenter, and steps of the discriminator.

    Args:
        settings: The objective.
        run: How the student runs on the stream's frame.
        on_source: How it runs on replayed images.
        answer: The source network, whose maps have the student's sizes.
    """

    def __init__(self, settings: AdversarialSettings, run: FramePass, on_source: FramePass, answer: Answer) -> None:
        self._settings, self._run, self._on_source = settings, run, on_source
        student = run.student
        place = next(student.parameters())
        channels = [int(found.shape[1]) for found in answer(torch.zeros(1, 3, 64, 64).to(place)).features]
        with torch.random.fork_rng([]):
            torch.manual_seed(int(torch.randint(2**31, (), generator=run.generator).item()))
            self.discriminator = Discriminator(settings.sees, channels, student.classes, settings.width)
        self.discriminator.to(device=place.device, dtype=torch.promote_types(place.dtype, torch.float32))
        self._optimizer = torch.optim.Adam(self.discriminator.parameters(), settings.learning_rate, betas=BETAS)
        self._steps = 0

    @property
    def strength(self) -> float:
        """The factor on the reversed gradient at this moment."""
        ramp = self._settings.ramp
        return reversal_strength(min(1.0, self._steps / ramp), self._settings.reversal) if ramp else (
            self._settings.reversal
        )  # fmt: skip

    def pieces(self, frames: Tensor, images: Tensor) -> Pieces[float]:
        """Adds the segmenter's gradients, steps the discriminator; gives the unweighted loss.

        Args:
            frames: ``(1, 3, H, W)`` of the stream.
            images: ``(B, 3, h, w)`` of the source.
        """
        slot, total = self._settings, 0.0
        self.discriminator.requires_grad_(slot.phase != "seg_only")
        self._optimizer.zero_grad(set_to_none=True)
        for domain, (run, seen) in enumerate(((self._on_source, images), (self._run, frames))):
            name = f"adversarial.{'stream' if domain else 'source'}"
            if slot.phase == "disc_only" or self.strength == 0.0:
                yield f"{name}.answer"
                loss = self._loss(run.answer(seen), domain, 0.0)
                if loss.requires_grad:
                    (slot.weight * loss).backward()
            else:
                passed = yield from run.forward(seen, name)
                yield f"{name}.loss"
                loss = self._loss(passed.output, domain, self.strength)
                if loss.requires_grad:
                    yield from run.backward(passed, slot.weight * loss, name)
            total += loss.item()
        if slot.phase != "seg_only":
            yield "adversarial.update"
            self._optimizer.step()
        self._steps += 1
        return total

    def _loss(self, answer: Segmentation, domain: int, strength: float) -> Tensor:
        """Mean over parts and verdicts of the distance to the domain's label."""
        shown = [reverse_gradient(x, strength) for x in self.discriminator.looks_at(answer)]
        terms = []
        for verdict in self.discriminator(shown):
            label = torch.full_like(verdict, float(domain))
            if self._settings.loss == "least_squares":
                terms.append((verdict - label).square().mean())
            else:
                terms.append(F.binary_cross_entropy_with_logits(verdict, label))
        return torch.stack(terms).mean()

    def shifted(self) -> None:
        """The domain has changed: the reversal rises anew."""
        self._steps = 0

    def forget(self) -> None:
        """The segmenter begins anew; the discriminator keeps what it knows, and the reversal rises anew."""
        self._steps = 0

    def state_dict(self) -> dict[str, Any]:
        """Discriminator, its optimiser and the steps since the last change."""
        return {
            "discriminator": self.discriminator.state_dict(), "optimizer": self._optimizer.state_dict(),
            "steps": self._steps,
        }  # fmt: skip

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores `state_dict`."""
        self.discriminator.load_state_dict(state["discriminator"])
        self._optimizer.load_state_dict(state["optimizer"])
        self._steps = int(state["steps"])
