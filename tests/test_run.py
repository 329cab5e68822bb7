"""The way of a frame: predicted, scored before it is learned from, never learned from when bad, blind to truth."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from online_uda.adaptation.guards.event import GuardEvent
from online_uda.adaptation.method import StepReport
from online_uda.cli import main
from online_uda.config import RunConfig, RunPlan
from online_uda.evaluation.latency import Lap
from online_uda.inputs import open_inputs
from online_uda.networks.segmenter import Segmentation, Segmenter
from online_uda.networks.zoo import load_network
from online_uda.reports.run_folder import RunFolder
from online_uda.resolve import resolve
from online_uda.run import resume, run
from online_uda.runtime.runner import Runner
from online_uda.runtime.scoring import to_tensor
from streams.classes import CAMVID_11
from streams.sources import folder as folders
from tests.run_kit import SIZE, Kit, assert_same, frames_of, method_state, summary_of, write_kit

CPU = torch.device("cpu")


@pytest.fixture
def kit(tmp_path: Path, make_folder: Callable[..., Path]) -> Kit:
    return write_kit(tmp_path, make_folder)


class SpyMethod:
    """Predicts with the network and shifts its classifier after every frame; notes what it is given."""

    name = "spy"

    def __init__(self, network: Segmenter, journal: list[str]) -> None:
        self.network, self.journal = network, journal
        self.seen: list[tuple[Any, ...]] = []

    def predict(self, frames: Tensor) -> Segmentation:
        self.journal.append("predict")
        with torch.no_grad():
            return self.network(frames)

    def observe(self, *given: Any) -> StepReport:
        self.journal.append("observe")
        self.seen.append(given)
        with torch.no_grad():
            self.network.head.classifier.bias.add_(torch.linspace(-1, 1, 11))
        learned = len(self.seen) % 2 == 0
        return StepReport(updated=learned, detected=len(self.seen) == 3, signal=0.5, scope="head", losses={"x": 1.0})

    def take_events(self) -> list[GuardEvent]:
        return []

    def state_dict(self) -> dict[str, Any]:
        return {"seen": len(self.seen)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        raise AssertionError("not resumed here")


class StepClock:
    """Every stage takes 10 ms of its own time for each letter of its name."""

    def __init__(self) -> None:
        self.time_s = 0.0

    def now_s(self) -> float:
        return self.time_s

    @contextmanager
    def measure(self, stage: str) -> Iterator[Lap]:
        lap = Lap()
        yield lap
        lap.latency_ms = 10.0 * len(stage)
        self.time_s += lap.latency_ms / 1000


def spied(kit: Kit, plan: RunPlan, out: str = "spied") -> tuple[Runner, SpyMethod, list[str]]:
    plan = plan.on_machine("cpu", 1, "fp32", beside=plan.run.beside or False)
    inputs = open_inputs(plan, kit.root / out)
    journal: list[str] = []
    method = SpyMethod(load_network(kit.network, CAMVID_11).network, journal)
    frozen = load_network(kit.network, CAMVID_11).network
    folder = RunFolder.create(kit.root / out)
    runner = Runner(plan, folder, inputs.stream, method, frozen, "digest", CPU, StepClock(), console=False)
    update = runner.evaluator.update

    def noted(*given: Any) -> Any:
        journal.append("score")
        return update(*given)

    runner.evaluator.update = noted  # type: ignore[method-assign]
    return runner, method, journal


def plan_of(kit: Kit, *overrides: str, **options: object) -> RunPlan:
    asked = {"schedule": str(kit.schedule), "network": str(kit.network), "method": "tent", "tensorboard": False}
    return resolve({**asked, **options}, overrides)


def test_what_a_frame_is_scored_by_was_said_before_anything_was_learned_from_it(kit: Kit) -> None:
    runner, method, journal = spied(kit, plan_of(kit))
    summary = runner.run()
    assert journal == ["predict", "observe", "score"] * 14
    first = frames_of(kit.root / "spied")[0]
    assert first["miou"] == first["miou_frozen"]  # nothing was learned before the first frame
    assert first["agreement"] == 100.0
    later = frames_of(kit.root / "spied")[-1]
    assert later["agreement"] < 100.0
    assert summary["visits"][2]["miou"] != summary["visits"][2]["miou_frozen"]
    assert len(method.seen) == 14


def test_the_method_gets_frame_and_prediction_and_nothing_else(kit: Kit) -> None:
    runner, method, _ = spied(kit, plan_of(kit))
    runner.run()
    stream_image = runner.stream[3].frame
    assert stream_image is not None
    for given in method.seen:
        frames, prediction = given
        assert frames.shape == (1, 3, *SIZE)
        assert frames.dtype == torch.float32
        assert isinstance(prediction, Segmentation)
    assert torch.equal(method.seen[3][0], torch.from_numpy(stream_image.image).permute(2, 0, 1)[None] / 255)


def test_what_the_method_reports_is_counted_where_it_belongs(kit: Kit) -> None:
    runner, _, _ = spied(kit, plan_of(kit))
    summary = runner.run()
    assert [visit["updates"] for visit in summary["visits"]] == [2, 3, 2]
    assert summary["detections"] == [2]
    assert summary["boundaries"] == [5, 10]
    latency = summary["latency_ms"]
    assert (latency["predict"]["count"], latency["adapt"]["count"], latency["frame"]["count"]) == (14, 7, 14)
    assert (latency["predict"]["p50"], latency["adapt"]["p50"], latency["frame"]["max"]) == (70.0, 50.0, 120.0)
    assert summary["wall_s"] == pytest.approx(14 * 0.12)
    row = frames_of(kit.root / "spied", timed=True)[1]
    assert (row["predict_ms"], row["adapt_ms"], row["frame_ms"]) == (70.0, 50.0, 120.0)
    assert (row["updated"], row["scope"], row["signal"], row["losses"]) == (True, "head", 0.5, {"x": 1.0})


def test_a_bad_frame_is_counted_and_never_predicted_or_learned_from(kit: Kit) -> None:
    (kit.root / "day" / "images" / "frame_3.png").write_bytes(b"not an image")
    runner, method, journal = spied(kit, plan_of(kit))
    summary = runner.run()
    assert summary["frames"] == 14
    assert summary["faults"] == 2
    assert [fault["frame"] for fault in summary["fault_examples"]] == [2, 7]
    assert [visit["scored"] for visit in summary["visits"]] == [4, 4, 4]
    assert len(method.seen) == 12
    assert journal.count("predict") == 12
    row = frames_of(kit.root / "spied")[2]
    assert "not an image" in row["fault"]
    assert (row["miou"], row["updated"]) == (None, False)


def test_labels_never_reach_the_learner(kit: Kit) -> None:
    with_labels = kit.run(out="with")
    for folder in ("day", "dusk"):
        shutil.rmtree(kit.root / folder / "labels")
    without = kit.run(out="without")
    state = method_state(with_labels)
    source = load_network(kit.network, CAMVID_11).network.state_dict()
    assert not all(torch.equal(source[name], tensor) for name, tensor in state["student"].items())
    assert_same(state, method_state(without))
    assert summary_of(with_labels)["hmean"] is not None
    assert summary_of(without)["hmean"] is None
    rows = [frames_of(folder) for folder in (with_labels, without)]
    assert [row["losses"] for row in rows[0]] == [row["losses"] for row in rows[1]]


def test_names_of_visits_never_reach_the_learner(kit: Kit) -> None:
    """A stream that says nothing of its domains, or cuts its visits elsewhere, teaches the same."""
    folder = kit.run(out="as_is")
    renamed = kit.schedule.read_text().replace("rain100,", "other,").replace("domain: dusk", "domain: other")
    kit.schedule.write_text(renamed)
    assert_same(method_state(folder), method_state(kit.run(out="renamed")))


def test_frozen_is_compared_with_itself(kit: Kit) -> None:
    runner, _, _ = spied(kit, plan_of(kit, method="frozen"))
    runner.scorer.frozen = None  # type: ignore[assignment]  # never asked
    runner.run()
    assert {row["agreement"] for row in frames_of(kit.root / "spied")} == {100.0}


@pytest.mark.parametrize("beside", [True, False])
def test_the_frozen_network_answers_in_a_thread_of_its_own_where_asked_to(kit: Kit, beside: bool) -> None:
    """At the size of the labels, which is not the frames'; numbers are those of the run that asks it in between."""
    plan = plan_of(kit, f"run.beside={str(beside).lower()}", size="64x96")
    runner, _, _ = spied(kit, plan)
    threads = set()
    answer = runner.scorer.plain_mask

    def noted(frames: Tensor, size: tuple[int, int]) -> Any:
        threads.add(threading.current_thread().name)
        return answer(frames, size)

    runner.scorer.plain_mask = noted  # type: ignore[method-assign]
    runner.run()
    assert threads == ({"frozen_0"} if beside else {threading.main_thread().name})
    assert "frozen_0" not in {thread.name for thread in threading.enumerate()}
    alone = kit.run("run.beside=false", out="alone", size="64x96", method="frozen")
    expected = [row["miou"] for row in frames_of(alone)]
    assert [row["miou_frozen"] for row in frames_of(kit.root / "spied")] == expected


def test_prediction_is_scored_at_the_size_of_the_label(kit: Kit) -> None:
    runner, method, _ = spied(kit, plan_of(kit, size="64x96"))
    runner.run()
    assert method.seen[0][0].shape == (1, 3, 64, 96)
    assert runner.stream[0].truth.label is not None
    assert runner.stream[0].truth.label.shape == SIZE
    with torch.inference_mode():
        frame = runner.stream[0].frame
        assert frame is not None
        expected = load_network(kit.network, CAMVID_11).network(to_tensor(frame.image, CPU)).labels(SIZE)[0].numpy()
    label = runner.stream[0].truth.label
    known = label != 255
    confusion = np.zeros((11, 11), np.int64)
    np.add.at(confusion, (label[known], expected[known]), 1)
    union = confusion.sum(0) + confusion.sum(1) - np.diag(confusion)
    present = confusion.sum(1) > 0
    miou = 100 * np.mean(np.diag(confusion)[present] / union[present])
    assert frames_of(kit.root / "spied")[0]["miou"] == pytest.approx(miou)


def test_to_tensor_keeps_order_and_range() -> None:
    image = np.zeros((2, 3, 3), np.uint8)
    image[0, 2] = (255, 51, 0)
    tensor = to_tensor(image, CPU)
    assert tensor.shape == (1, 3, 2, 3)
    assert tensor[0, :, 0, 2].tolist() == pytest.approx([1.0, 0.2, 0.0])
    assert tensor.sum().item() == pytest.approx(1.2)


def test_python_api_runs_and_resumes(kit: Kit) -> None:
    config = RunConfig(
        schedule=str(kit.schedule), network=str(kit.network), method="tent", frames=2, device="cpu", threads=1,
        tensorboard=False, out=str(kit.root / "api"),
    )  # fmt: skip
    summary = run(config, ["anchor.pull=0.5"])
    assert summary["frames"] == 6
    assert summary["method"] == "tent"
    again = resume(kit.root / "api")
    assert again["hmean"] == summary["hmean"]
    assert again["updates"] == summary["updates"] == 6


def test_late_label_fault_ends_the_run_with_what_was_played(kit: Kit, capsys: pytest.CaptureFixture[str]) -> None:
    """Some labels are checked beforehand, the rest when they come; the folder then holds a run that can go on."""
    bad = kit.root / "dusk" / "labels" / "frame_3.png"
    good = bad.read_bytes()
    Image.fromarray(np.full(SIZE, 77, np.uint8)).save(bad)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(folders, "_LABELS_READ_AHEAD", 2)
        assert main(kit.arguments()) == 2
    assert f"error: {bad}: label id 77" in capsys.readouterr().err
    assert summary_of(kit.root / "run")["frames"] == 12
    assert summary_of(kit.root / "run")["interrupted"] is True
    bad.write_bytes(good)
    assert main(["--resume", str(kit.root / "run")]) == 0
    assert summary_of(kit.root / "run") == summary_of(kit.run(out="whole"))


def test_what_guards_do_is_reported_everywhere(kit: Kit, capsys: pytest.CaptureFixture[str]) -> None:
    for number in (1, 2):
        Image.new("RGB", (SIZE[1], SIZE[0])).save(kit.root / "day" / "images" / f"frame_{number}.png")
    folder = kit.run("guards.every=1", frames=2)
    rows = frames_of(folder)
    assert [(event["action"], event["cause"]) for event in rows[0]["guard"]] == [("skip", "blank")]
    assert rows[1]["guard"] == []  # the same spell
    assert not any(row["updated"] for row in rows[:2])
    summary = summary_of(folder)
    assert summary["guards"]["events"][0]["frame"] == 0
    assert summary["rollbacks"] == sum(summary["guards"]["actions"].get(name, 0) for name in ("rollback", "frozen"))
    printed = capsys.readouterr()
    assert "frame 0: guard: skip (blank):" in printed.err
    assert "guards" in printed.out
