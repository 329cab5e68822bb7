"""MMD as an objective: feature cells of the stream's frame and of replayed source images become alike, both moving."""

from __future__ import annotations

from torch import Tensor

from online_uda.adaptation.frame_pass import FramePass
from online_uda.adaptation.objectives.kernel_distance import drawn_cells, kernel_distance
from online_uda.adaptation.objectives.soft import exact
from online_uda.adaptation.pieces import Pieces
from online_uda.adaptation.settings.domains import DiscrepancySettings
from online_uda.adaptation.staged_pass import backward_through


class DiscrepancyStep:
    """Gradients of the distance between source and stream.

    Args:
        settings: The objective.
        run: How the student runs on the stream's frame.
        on_source: How it runs on replayed images.
    """

    def __init__(self, settings: DiscrepancySettings, run: FramePass, on_source: FramePass) -> None:
        self._settings, self._run, self._on_source = settings, run, on_source

    def pieces(self, frames: Tensor, images: Tensor) -> Pieces[float]:
        """Adds the gradients of the weighted loss; gives it unweighted. Both graphs are held at once.

        Args:
            frames: ``(1, 3, H, W)`` of the stream.
            images: ``(B, 3, h, w)`` of the source.
        """
        slot = self._settings
        source = yield from self._on_source.forward(images, "discrepancy.source")
        stream = yield from self._run.forward(frames, "discrepancy.stream")
        yield "discrepancy.loss"
        stage = len(source.output.features) if slot.stage is None else min(slot.stage, len(source.output.features))
        ones, others = (exact(passed.output.features[stage - 1]) for passed in (source, stream))
        count = min(slot.cells, *(len(x) * int(x.shape[-2]) * int(x.shape[-1]) for x in (ones, others)))
        generator = self._run.generator
        loss = kernel_distance(drawn_cells(ones, count, generator), drawn_cells(others, count, generator))
        yield "discrepancy.backward"
        (slot.weight * loss).backward()
        yield from backward_through(source, "discrepancy.source")
        yield from backward_through(stream, "discrepancy.stream")
        return loss.item()
