"""Terms on the feature maps of a pass that is taken anyway: whitening of replayed images, pixel contrast."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import islice

import torch
from torch import Tensor

from online_uda.adaptation.objectives.pixel_contrast import cell_labels, pixel_contrast
from online_uda.adaptation.objectives.soft import exact
from online_uda.adaptation.objectives.whitening import all_pairs, sensitive_pairs, sensitivity, whitening_loss
from online_uda.adaptation.photometric import PhotometricAugmentation
from online_uda.adaptation.settings.domains import ContrastSettings, WhiteningSettings
from online_uda.adaptation.views import Answer
from online_uda.errors import UserError
from streams.frame import ClassSet


class Whitening:
    """RobustNet's loss on the maps of some stages.

    Args:
        settings: The objective.
        answer: The source network, whose maps say which pairs count (ISW).
        images: Source images ``(1, 3, H, W)``.
        generator: CPU generator of the recolouring.

    Raises:
        UserError: A stage that the network does not have.
    """

    def __init__(
        self, settings: WhiteningSettings, answer: Answer, images: Iterable[Tensor], generator: torch.Generator
    ) -> None:
        self._settings = settings
        shown = list(islice(images, settings.frames if settings.kind == "isw" else 1))
        maps = answer(shown[0]).features
        if max(settings.stages) > len(maps):
            raise UserError(
                f"objectives.whitening.stages names stage {max(settings.stages)}, this network has {len(maps)}; drop it"
            )
        if settings.kind != "isw":
            self.masks = [all_pairs(int(maps[stage - 1].shape[1])).to(shown[0].device) for stage in settings.stages]
        else:
            self.masks = self._sensitive(answer, shown, generator)

    def _sensitive(self, answer: Answer, images: Sequence[Tensor], generator: torch.Generator) -> list[Tensor]:
        slot = self._settings
        strength = slot.jitter_strength
        recolour = PhotometricAugmentation(strength, strength, strength, min(strength, 0.5), 1.0, 0.5)
        trials: list[list[Tensor]] = [[] for _ in slot.stages]
        for _ in range(slot.trials):
            pairs = [(answer(image).features, answer(recolour(image, generator)).features) for image in images]
            for row, stage in enumerate(slot.stages):
                both = ((exact(one[stage - 1]), exact(two[stage - 1])) for one, two in pairs)
                trials[row].append(sensitivity(both))
        return [sensitive_pairs(found, slot.clusters).to(images[0].device) for found in trials]

    def __call__(self, features: Sequence[Tensor]) -> Tensor:
        """Mean over the stages of the loss of their maps."""
        slot = self._settings
        margin = slot.margin if slot.kind == "irw" else 0.0
        terms = [
            whitening_loss(exact(features[stage - 1]), mask, margin)
            for stage, mask in zip(slot.stages, self.masks, strict=True)
        ]
        return torch.stack(terms).mean()


class Contrast:
    """Pixel contrast on the last map.

    Args:
        settings: The objective.
        classes: Label space, for the names of classes that are left out.

    Raises:
        UserError: A name that is not among the classes.
    """

    def __init__(self, settings: ContrastSettings, classes: ClassSet) -> None:
        self._settings, self._count = settings, len(classes)
        strange = [name for name in settings.exclude if name not in classes.names]
        if strange:
            raise UserError(
                f"objectives.contrast.exclude: no class {strange[0]!r}; there are {', '.join(classes.names)}"
            )
        self._exclude = [classes.names.index(name) for name in settings.exclude]

    def __call__(self, features: Sequence[Tensor], labels: Tensor, weights: Tensor | None = None) -> Tensor:
        """The loss of full-size ``labels`` (B, H, W) and their weights on the grid of the last map."""
        found, slot = exact(features[-1]), self._settings
        size = (int(found.shape[-2]), int(found.shape[-1]))
        ids = cell_labels(labels, size, self._count, slot.min_share)
        if weights is not None:
            weights = torch.nn.functional.adaptive_avg_pool2d(weights.unsqueeze(1), size)[:, 0]
        return pixel_contrast(found, ids, slot.temperature, weights, self._exclude)
