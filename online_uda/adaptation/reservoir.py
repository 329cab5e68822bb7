"""A bank of models by style: each look of the stream learns weights of its own (ReservoirTTA, Vray et al. 2025).

The style of a frame is the log variance of the channels of the source network's first map. The nearest centre's model
is at work; a style farther from all centres than source images lie from theirs gets a model of its own, which starts as
the one at hand whose answers have the largest mutual information with the frame (specs/methods.md 3). It works around
any method: it changes which weights are at work, not how they learn. Published predictions are of an average of models
weighed by similarity; here of the nearest one alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from online_uda.adaptation.memory import live_tensors
from online_uda.adaptation.objectives.entropy import pixel_entropy
from online_uda.adaptation.objectives.soft import exact
from online_uda.adaptation.settings.reservoir import ReservoirSettings
from online_uda.adaptation.views import Answer

SMALLEST_VARIANCE = 1e-6
Changes = dict[int, Tensor]


def style_of(features: Tensor) -> Tensor:
    """Log variance of every channel of a ``(1, D, h, w)`` map: ``(D,)`` float32."""
    return exact(features)[0].flatten(1).var(1, correction=0).clamp(min=SMALLEST_VARIANCE).log()


def mutual_information(logits: Tensor) -> Tensor:
    """``H(mean p) - mean H(p)`` in nats: high where answers are sure and of many classes."""
    mean = exact(logits).softmax(1).mean((0, 2, 3))
    return -torch.special.xlogy(mean, mean).sum() - pixel_entropy(logits).mean()


class Reservoir:
    """Chooses the model at work by the stream's style.

    Args:
        networks: What learns, and what is averaged from it. Their present state is the first model's.
        settings: The slot.
        first_map: The source network's first map of a frame.
        answer: The student as it stands.
        images: Source images, whose styles say how far one domain reaches.
    """

    def __init__(
        self,
        networks: Sequence[nn.Module],
        settings: ReservoirSettings,
        *,
        first_map: Callable[[Tensor], Tensor],
        answer: Answer,
        images: Iterable[Tensor],
    ) -> None:
        self._settings, self._first_map, self._answer = settings, first_map, answer
        self._live = live_tensors(networks)
        self._source = [tensor.clone() for tensor in self._live]
        styles = torch.stack([style_of(first_map(image)) for image in images])
        centre = styles.mean(0)
        self.reach = float(torch.quantile((styles - centre).norm(dim=1), settings.quantile)) * settings.slack
        self.centres: list[Tensor] = [centre]
        self._models: list[Changes] = [{}]
        self.active = 0
        self._style: Tensor | None = None
        self._wanted: int | None = None

    def watch(self, frames: Tensor) -> None:
        """Follows the style of the stream; no weight moves.

        Args:
            frames: ``(1, 3, H, W)`` float32 RGB in [0, 1].
        """
        style, slot = style_of(self._first_map(frames)), self._settings
        self._style = style if self._style is None else self._style.lerp(style, 1.0 / slot.window)
        apart = torch.stack([(self._style - centre).norm() for centre in self.centres])
        nearest = int(apart.argmin())
        is_new = float(apart[nearest]) > self.reach and len(self.centres) < slot.models
        if not is_new:
            self.centres[nearest] = self.centres[nearest].lerp(self._style, slot.rate)
        self._wanted = len(self.centres) if is_new else nearest

    @torch.no_grad()
    def settle(self, frames: Tensor) -> str | None:
        """Puts the wanted model to work; tells what has happened, None where it is at work already."""
        wanted, self._wanted = self._wanted, None
        if wanted is None or wanted == self.active:
            return None
        self._models[self.active] = {
            index: now - source
            for index, (now, source) in enumerate(zip(self._live, self._source, strict=True))
            if not torch.equal(now, source)
        }
        if wanted < len(self.centres):
            self._put(self._models[wanted])
            self.active = wanted
            return f"model {wanted + 1} of {len(self.centres)}"
        assert self._style is not None
        start = max(self._models, key=lambda model: self._worth(model, frames))
        self._put(start)
        self.centres.append(self._style.clone())
        self._models.append({})
        self.active = wanted
        return f"a new model, {len(self.centres)} of at most {self._settings.models}"

    def _worth(self, model: Changes, frames: Tensor) -> float:
        self._put(model)
        return mutual_information(self._answer(frames).logits).item()

    def _put(self, model: Changes) -> None:
        torch._foreach_copy_(self._live, self._source)
        for index, change in model.items():
            self._live[index] += change.to(self._live[index])

    def state_dict(self) -> dict[str, Any]:
        """Centres, models, and where the stream is."""
        return {
            "centres": list(self.centres), "models": [dict(model) for model in self._models], "active": self.active,
            "style": self._style, "wanted": self._wanted,
        }  # fmt: skip

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores `state_dict`."""
        self.centres = list(state["centres"])
        self._models = [dict(model) for model in state["models"]]
        self.active, self._style, self._wanted = int(state["active"]), state["style"], state["wanted"]
