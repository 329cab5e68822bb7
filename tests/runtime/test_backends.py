"""Backends behind a method: the answers of torch while the method learns, after a resume, and the choice itself."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from online_uda.adaptation.recipe import Recipe
from online_uda.adaptation.trigger.base import Decision
from online_uda.cli import main
from online_uda.errors import UserError
from online_uda.export import onnx_predictor
from online_uda.networks.predictor import Moments, Wishes
from online_uda.networks.segmenter import Segmentation, Segmenter
from online_uda.runtime.backends import choose_backend, is_faster
from online_uda.runtime.clock import RealClock
from online_uda.runtime.compiled import CompiledPredictor
from tests.adaptation.recipe_kit import FROZEN, SIZE, TENT, Scripted, make_recipe, settings_of, stream, trained
from tests.run_kit import summary_of, write_kit

FOLLOWING = {**TENT, "norm": {"statistics": "stream", "momentum": 0.3}, "anchor": {"pull": 0.1, "relax": 0.5}}
LEARN, REST = Decision(learn=True), Decision(learn=False, relax=True)
SCRIPT = (LEARN, LEARN, REST, REST, LEARN, LEARN)


def recipe(*script: Decision, **changes: Any) -> Recipe:
    """A method on a network of BatchNorm layers, whose scales and statistics follow the stream."""
    return make_recipe(settings_of(FOLLOWING, **changes), trained("batchnorm"), trigger=Scripted(*script))


def with_onnx(method: Recipe) -> Recipe:
    name = choose_backend(method, "onnxruntime", size=SIZE, threads=1, autocast=nullcontext, clock=clock())
    assert name == "onnxruntime"
    return method


def clock() -> RealClock:
    return RealClock(torch.device("cpu"))


def answers(method: Recipe, frames: list[Tensor]) -> list[Tensor]:
    """Logits of every frame, each predicted before it is observed."""
    logits = []
    for frame in frames:
        prediction = method.predict(frame)
        logits.append(prediction.logits.clone())
        method.observe(frame, prediction)
    return logits


def test_onnxruntime_answers_as_torch_while_the_method_learns_and_rests() -> None:
    frames = list(stream(len(SCRIPT)))
    torch_method = recipe(*SCRIPT)
    theirs = answers(torch_method, frames)
    mine = answers(with_onnx(recipe(*SCRIPT)), frames)
    frozen = trained("batchnorm")
    for index, (one, other) in enumerate(zip(mine, theirs, strict=True)):
        torch.testing.assert_close(one, other, rtol=0, atol=5e-3, msg=lambda text, i=index: f"frame {i}: {text}")
    with torch.no_grad():
        assert (theirs[-1] - frozen(frames[-1]).logits).abs().max() > 0.1  # what was learned is far larger


def test_a_resumed_method_continues_bit_for_bit_with_onnxruntime() -> None:
    frames = list(stream(4))
    whole = with_onnx(recipe(LEARN))
    first = answers(whole, frames[:2])
    state = whole.state_dict()
    rest = answers(whole, frames[2:])
    resumed = with_onnx(recipe(LEARN))
    assert torch.equal(resumed.predict(frames[0]).logits, first[0])
    resumed.load_state_dict(state)
    for mine, theirs in zip(answers(resumed, frames[2:]), rest, strict=True):
        assert torch.equal(mine, theirs)


def test_compiled_answers_follow_weights_and_statistics() -> None:
    frames = list(stream(4))
    theirs = answers(recipe(LEARN), frames)
    method = recipe(LEARN)
    method.use_predictor(
        lambda network, wishes: CompiledPredictor(network, wishes, SIZE, nullcontext, compiler="aot_eager")
    )
    for mine, other in zip(answers(method, frames), theirs, strict=True):
        torch.testing.assert_close(mine, other, rtol=0, atol=1e-4)


def test_a_missing_compiler_is_one_clear_error() -> None:
    def broken(*_: Any) -> Any:
        raise RuntimeError("no C++ compiler found\nand much more")

    with pytest.raises(UserError, match=r"--backend compile: .*no C\+\+ compiler.*apt-get install g\+\+"):
        CompiledPredictor(trained("batchnorm"), Wishes(), SIZE, nullcontext, compiler=broken)  # type: ignore[arg-type]


@pytest.mark.parametrize("backend", ["onnxruntime", "compile"])
def test_statistics_of_the_frame_at_hand_are_left_to_torch(backend: str) -> None:
    with pytest.raises(UserError, match="only --backend torch"):
        choose_backend(
            recipe(LEARN, norm__statistics="batch"), backend, size=SIZE, threads=1, autocast=nullcontext, clock=clock()
        )


class _Timed:
    """A predictor that takes as long as it says, by a clock of its own."""

    name = "timed"

    def __init__(self, network: Segmenter, time: list[float], takes_s: float) -> None:
        self._network, self._time, self._takes_s = network, time, takes_s

    def predict(self, frames: Tensor) -> tuple[Segmentation, Moments]:
        self._time[0] += self._takes_s
        with torch.no_grad():
            return self._network(frames), ()

    def publish(self, network: Segmenter) -> None:
        raise AssertionError


def test_auto_takes_what_is_faster(monkeypatch: pytest.MonkeyPatch) -> None:
    network, time = trained("batchnorm"), [0.0]
    watch = clock()
    monkeypatch.setattr("online_uda.runtime.clock.time.perf_counter", lambda: time[0])
    slow, fast, close = (_Timed(network, time, takes_s) for takes_s in (1.0, 0.5, 0.95))
    assert is_faster(fast, slow, SIZE, network, watch)
    assert not is_faster(slow, fast, SIZE, network, watch)
    assert not is_faster(close, slow, SIZE, network, watch)


@pytest.mark.parametrize(("by_input", "faster", "chosen"), [(True, True, "onnxruntime"), (True, False, "torch"),
                                                            (False, True, "torch")])  # fmt: skip
def test_auto_stays_with_torch_where_publishing_is_dear_or_nothing_is_gained(
    by_input: bool, faster: bool, chosen: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Stand(_Timed):
        name = "onnxruntime"

        def __init__(self, network: Segmenter, *_: Any) -> None:
            super().__init__(network, [0.0], 0.0)
            self.by_input = by_input

    monkeypatch.setattr(onnx_predictor, "OnnxPredictor", Stand)
    monkeypatch.setattr("online_uda.runtime.backends.is_faster", lambda *_: faster)
    method = make_recipe(settings_of(FROZEN), trained("layernorm"))
    name = choose_backend(method, "auto", size=SIZE, threads=1, autocast=nullcontext, clock=clock())
    assert name == chosen
    assert method._answering.predictor.name == chosen


def test_the_run_says_which_backend_predicted_and_resumes_with_it(
    tmp_path: Path, make_folder: Any, capsys: Any
) -> None:
    kit = write_kit(tmp_path, make_folder)
    folder = kit.run(backend="onnxruntime", frames=1)
    assert summary_of(folder)["backend"] == "onnxruntime"
    assert "backend: onnxruntime" in (folder / "config.yaml").read_text()
    assert main(["--resume", str(folder), "--backend", "torch"]) == 2
    assert "run.backend" in capsys.readouterr().err
    assert summary_of(kit.run(out="plain", frames=1))["backend"] == "torch"


def test_an_unknown_backend_is_refused(tmp_path: Path, make_folder: Any, capsys: Any) -> None:
    kit = write_kit(tmp_path, make_folder)
    assert main(kit.arguments(backend="tensorrt")) == 2
    assert "--backend: " in capsys.readouterr().err
