"""The side of a recipe that answers frames: which network, in which mode of its norms, behind which backend."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor

from online_uda.adaptation.ensemble import DistanceEnsemble
from online_uda.adaptation.fusion import TemporalFusion
from online_uda.adaptation.norm import NormStatistics, named_batch_norms
from online_uda.adaptation.pieces import Pieces
from online_uda.adaptation.prior import corrected_by_prior
from online_uda.adaptation.settings import MethodSettings
from online_uda.adaptation.staged_pass import forward_pieces
from online_uda.networks.predictor import Predictor, PredictorFactory, TorchPredictor, Wishes, copy_weights
from online_uda.networks.segmenter import Segmentation, Segmenter
from online_uda.networks.views import Views


class Answering:
    """Answers frames with the deployed weights, on whatever backend holds them.

    Args:
        name: Of the method, in messages.
        settings: Of the method.
        deployed: The network that predicts.
        source: The frozen source network.
        norm: Statistics of the deployed network's norms.
        autocast: Makes the autocast context of a forward pass.
        look: What frames go through before the deployed network; None leaves them alone.
        fusion: What answers to the stream go through; None leaves them alone.
        ensemble: Weights that answer in place of the deployed ones; None has these answer.
    """

    def __init__(
        self,
        name: str,
        settings: MethodSettings,
        *,
        deployed: Segmenter,
        source: Segmenter,
        norm: NormStatistics,
        autocast: Callable[[], AbstractContextManager[Any]],
        look: Callable[[Tensor], Tensor] | None,
        fusion: TemporalFusion | None = None,
        ensemble: DistanceEnsemble | None = None,
    ) -> None:
        self._name, self._settings = name, settings
        self._deployed, self._source, self._norm, self._autocast = deployed, source, norm, autocast
        self._look, self._fusion, self._ensemble = look, fusion, ensemble
        self._served = deployed
        self.predictor: Predictor = TorchPredictor(deployed, self._predicting)

    @property
    def is_elsewhere(self) -> bool:
        """Whether the predictor has weights of its own, which have to be published to."""
        return not isinstance(self.predictor, TorchPredictor)

    @contextmanager
    def _predicting(self) -> Iterator[None]:
        with self._norm.predicting(), self._autocast(), self._between():
            yield

    def _between(self) -> AbstractContextManager[None]:
        return nullcontext() if self._ensemble is None else self._ensemble.shown()

    def predict(self, frames: Tensor, *, corrected: bool = True) -> Segmentation:
        """Segments a frame of the stream with the weights published so far.

        Args:
            frames: ``(1, 3, H, W)`` float32 RGB in [0, 1].
            corrected: Whether answers are weighed by what the frame holds, where the method does that.
        """
        prediction, moments = self.predictor.predict(self._moved(frames))
        if moments:
            self._norm.note(moments)
        if self._fusion is not None:
            prediction = self._fusion(frames, prediction)
        return self._corrected(prediction) if corrected else prediction

    def _corrected(self, prediction: Segmentation) -> Segmentation:
        return corrected_by_prior(prediction) if self._settings.prior_correction else prediction

    def use_predictor(self, factory: PredictorFactory, moving: list[str]) -> None:
        """Predicts with another backend from now on.

        Args:
            factory: Makes it.
            moving: Names of the parameters that learning moves.

        Raises:
            UserError: The backend cannot do what the method wishes.
        """
        norms = named_batch_norms(self._deployed)
        moving = list(moving)
        if self._norm.moves or (moving and self._settings.student_mode == "train"):
            moving += [f"{name}.{what}" for name in norms for what in ("running_mean", "running_var")]
        watched = tuple(norms) if self._norm.records else ()
        of_the_frame = bool(norms) and self._settings.norm.statistics in ("batch", "alpha", "iabn")
        normalising = self._norm.of_a_copy if of_the_frame else None
        if self._ensemble is not None:
            self._served = copy.deepcopy(self._deployed).requires_grad_(False)
        self.predictor = factory(self._served, Wishes(tuple(moving), watched, normalising))

    def predict_in_views(self, views: Views) -> None:
        """Shows the network ``views`` of a frame from now on, in torch."""
        self.predictor = TorchPredictor(self._deployed, self._predicting, views)

    def publish(self) -> None:
        """Lets the predictor use the deployed weights as they are now; where it holds none of its own, they are."""
        if self._served is not self._deployed:
            with self._between():
                copy_weights(self._deployed, self._served)
        self.predictor.publish(self._served)

    def aside(self, images: Tensor, name: str) -> Pieces[Segmentation]:
        """As `predict`, of images that are not the stream's, and in pieces that are called after ``name``."""
        if self._look is not None:
            yield f"{name}.look"
        passed = yield from forward_pieces(self._deployed, self._moved(images), self._aside, name)
        return self._corrected(passed.output)

    @contextmanager
    def _aside(self) -> Iterator[None]:
        with torch.no_grad(), self._norm.predicting(record=False), self._autocast():
            yield

    def source_aside(self, images: Tensor, name: str) -> Pieces[Segmentation]:
        """The source network's answer in pieces."""
        passed = yield from forward_pieces(self._source, images, self._plainly, name)
        return passed.output

    @contextmanager
    def _plainly(self) -> Iterator[None]:
        with torch.no_grad(), self._autocast():
            yield

    def _moved(self, frames: Tensor) -> Tensor:
        return frames if self._look is None else self._look(frames)

    def of_source(self, images: Tensor) -> Segmentation:
        """The source network's answer."""
        with self._plainly():
            return self._source(images)
