"""The mixed objective of DACS and HAMLET: source classes pasted over a target crop with the teacher's labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from online_uda.adaptation.mixing import MixedBatch, classmix_mask, mix
from online_uda.adaptation.photometric import PhotometricAugmentation
from online_uda.adaptation.pseudo_labels.confident_share import confident_share_labels
from online_uda.adaptation.replay.rare_class import draw_below
from online_uda.adaptation.settings import MethodSettings
from online_uda.adaptation.soft_paste import Layered, Patch, paste, paste_all, plain

DOUBT_RATE = 0.1


class MixedObjective:
    """Builds mixed images (specs/hamlet.md 2.6, 2.7) from the mixing and pseudo-label slots.

    Args:
        settings: A method whose mixing, pseudo_labels and objectives.mixed slots are filled.
    """

    def __init__(self, settings: MethodSettings) -> None:
        assert settings.mixing is not None
        assert settings.pseudo_labels is not None
        assert settings.objectives.mixed is not None
        self.weight = settings.objectives.mixed.weight
        self._draw = settings.mixing.draw
        self.doubt: Tensor | None = None
        self.opacity = settings.mixing.opacity
        self._near_ratio = settings.mixing.ratio[0]
        self._labels = settings.pseudo_labels
        strength = settings.mixing.jitter_strength
        self._augment = PhotometricAugmentation(
            strength, strength, strength, min(strength, 0.5), settings.mixing.jitter_probability,
            settings.mixing.blur_probability,
        )  # fmt: skip

    @staticmethod
    def crop(frames: Tensor, size: tuple[int, int], generator: torch.Generator) -> Tensor:
        """A random window of ``size`` of the target frames, mirrored half of the time; no label is looked at.

        A frame smaller than the window in some direction is resized to cover it.
        """
        if frames.shape[-2] < size[0] or frames.shape[-1] < size[1]:
            cover = (max(int(frames.shape[-2]), size[0]), max(int(frames.shape[-1]), size[1]))
            frames = torch.nn.functional.interpolate(frames, cover, mode="bilinear", align_corners=False)
        top = draw_below(int(frames.shape[-2]) - size[0] + 1, generator)
        left = draw_below(int(frames.shape[-1]) - size[1] + 1, generator)
        window = frames[..., top : top + size[0], left : left + size[1]]
        return window.flip(-1) if draw_below(2, generator) else window

    def mix(
        self,
        images: Tensor,
        labels: Tensor,
        target: Tensor,
        teacher_logits: Tensor,
        ratio: float | None,
        generator: torch.Generator,
        patches: Sequence[Patch] = (),
    ) -> MixedBatch | Layered:
        """Pastes source classes over the target crop and augments the result.

        Args:
            images: ``(B, 3, h, w)`` float32 source crops in [0, 1].
            labels: ``(B, h, w)`` int64 source labels.
            target: ``(1, 3, h, w)`` float32 target crop.
            teacher_logits: ``(1, C, h, w)`` of the teacher on the target crop.
            ratio: ClassMix ratio m; None takes the near value.
            generator: CPU generator of classes and augmentation.
            patches: Of rare classes, pasted on top.
        """
        slot = self._labels
        taught = confident_share_labels(
            teacher_logits, threshold=slot.confidence, ignore_top=slot.ignore_top, ignore_bottom=slot.ignore_bottom
        )
        count = images.shape[0]
        wanted = None
        if self._draw == "ambiguous":
            self._note(teacher_logits)
            wanted = self.doubt
        mask = classmix_mask(labels, self._near_ratio if ratio is None else ratio, generator, wanted=wanted)
        beneath = target.expand(count, -1, -1, -1)
        under_labels, under_weights = (part.expand(count, -1, -1) for part in (taught.labels, taught.weights))
        if self.opacity < 1.0 or patches:
            made = paste(plain(beneath, under_labels, under_weights), images, labels, mask, self.opacity)
            made = paste_all(made, patches, self.opacity)
            return replace(made, images=self._augment(made.images, generator))
        batch = mix(mask, images, labels, beneath, under_labels, under_weights)
        return MixedBatch(self._augment(batch.images, generator), batch.labels, batch.weights)

    @torch.no_grad()
    def _note(self, logits: Tensor) -> None:
        """The teacher's running doubt, 1 minus its confidence, in what it takes for each class."""
        sure, ids = logits.float().softmax(1).max(1)
        shown = torch.bincount(ids.flatten(), minlength=logits.shape[1]).float()
        doubt = torch.bincount(ids.flatten(), (1.0 - sure).flatten(), minlength=logits.shape[1]) / shown.clamp(min=1.0)
        doubt = doubt.float().cpu()
        if self.doubt is None:
            self.doubt = torch.full_like(doubt, float((1.0 - sure).mean()))
        self.doubt = torch.where(shown.cpu() > 0, self.doubt.lerp(doubt, DOUBT_RATE), self.doubt)

    def forget(self) -> None:
        """No class has been seen."""
        self.doubt = None

    def state_dict(self) -> dict[str, Any]:
        """The running doubt."""
        return {"doubt": self.doubt}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores `state_dict`."""
        self.doubt = None if state["doubt"] is None else state["doubt"].cpu()
