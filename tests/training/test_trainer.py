"""The trainer: schedules, what moves, resume, and processes that share a batch."""

from __future__ import annotations

import copy
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from online_uda.adaptation.replay.buffer import ReplayBuffer
from online_uda.errors import UserError
from online_uda.networks.segmenter import SegformerConfig, Segmenter, build_segformer
from online_uda.networks.supervised import segmentation_loss
from online_uda.training.draw import SourceDraw
from online_uda.training.plan import AS_IT_COMES, RISING, Phase, TrainingPlan
from online_uda.training.trainer import Trainer, bf16_is_faster, parameter_groups
from online_uda.training.validate import validate
from streams.classes import CAMVID_11
from streams.frame import IGNORE_ID, LabelledImage, LabelledSet

PHASES = (Phase(0.5, 0.5, (0.8, 1.2), 4, 2), Phase(0.5, 1.0, (0.9, 1.1), 2, 1))
PLAN = TrainingPlan(iterations=6, light_iterations=4, warmup=2, ema_half_life=2.0, phases=PHASES)
CPU = torch.device("cpu")


def trainer_for(
    network: Segmenter, blocks: LabelledSet, folder: Path, plan: TrainingPlan = PLAN, processes: int = 1
) -> Trainer:
    arena = ReplayBuffer(blocks, range(len(blocks)))
    return Trainer(copy.deepcopy(network), plan, SourceDraw(arena), arena.size, CPU, folder, False, processes)


def run(trainer: Trainer, **settings: int) -> list[tuple[int, float, float]]:
    steps: list[tuple[int, float, float]] = []
    trainer.train(lambda step, loss, rate: steps.append((step, loss, rate)), **settings)
    return steps


def assert_same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> None:
    assert first.keys() == second.keys()
    assert [name for name in first if not torch.equal(first[name], second[name])] == []


# Schedules


def test_phases_follow_their_shares() -> None:
    plan = TrainingPlan(iterations=100, phases=RISING)
    found = [plan.phase_at(step) for step in range(100)]
    assert [found.count(phase) for phase in RISING] == [round(100 * phase.share) for phase in RISING]
    assert found == sorted(found, key=RISING.index)
    assert sum(phase.share for phase in RISING) == pytest.approx(1.0)


def test_rate_warms_up_and_decays_to_zero() -> None:
    plan = TrainingPlan(iterations=1000, learning_rate=0.1, warmup=50, poly=0.9)
    assert plan.rate_at(0) == pytest.approx(0.1 / 50)
    assert plan.rate_at(49) == pytest.approx(0.1)
    assert plan.rate_at(525) == pytest.approx(0.1 * 0.5**0.9)
    assert plan.rate_at(1000) == 0.0
    rates = [plan.rate_at(step) for step in range(50, 1000)]
    assert rates == sorted(rates, reverse=True)


def test_warm_up_is_at_most_a_tenth() -> None:
    plan = TrainingPlan(iterations=20, learning_rate=1.0, warmup=500)
    assert plan.rate_at(1) == pytest.approx(1.0)
    assert plan.rate_at(11) < 0.6


def test_average_has_its_half_life_and_forgets_the_start() -> None:
    plan = TrainingPlan(ema_half_life=10.0)
    assert plan.average_decay_at(0) == pytest.approx(0.1)
    assert plan.average_decay_at(10_000) ** 10 == pytest.approx(0.5)


# One step


def test_loss_counts_valid_pixels_of_the_strided_grid(tiny_network: Segmenter) -> None:
    network = tiny_network.eval()
    frames, labels = torch.rand(1, 3, 64, 64), torch.randint(0, 4, (1, 64, 64))
    labels[:, :32] = IGNORE_ID
    with torch.no_grad():
        logits = torch.nn.functional.interpolate(
            network(frames).logits, size=(32, 32), mode="bilinear", align_corners=False
        )
        target = labels[:, ::2, ::2]
        chosen = logits.log_softmax(1).gather(1, target.clamp(max=3)[:, None])[:, 0]
        expected = -chosen[target != IGNORE_ID].mean()
        assert segmentation_loss(network, frames, labels, 2) == pytest.approx(expected.item(), rel=1e-5)
        assert segmentation_loss(network, frames, torch.full_like(labels, IGNORE_ID), 2) == 0.0
        light = segmentation_loss(network, frames, labels, 2, light=True)
    assert light != pytest.approx(expected.item(), rel=1e-3)


def test_decay_spares_norms_and_biases(tiny_network: Segmenter) -> None:
    matrices, vectors = parameter_groups(tiny_network, 0.3)
    assert (matrices["weight_decay"], vectors["weight_decay"]) == (0.3, 0.0)
    assert all(p.dim() > 1 for p in matrices["params"])
    names = {id(p): name for name, p in tiny_network.named_parameters()}
    assert all("norm" in names[id(p)] or names[id(p)].endswith("bias") for p in vectors["params"])
    assert len(matrices["params"]) + len(vectors["params"]) == len(names)


# Whole runs


def test_training_learns_and_its_average_scores(tiny_network: Segmenter, blocks: LabelledSet, tmp_path: Path) -> None:
    plan = replace(PLAN, iterations=60, learning_rate=4e-3, warmup=5)
    trainer = trainer_for(tiny_network, blocks, tmp_path, plan)
    steps = run(trainer)
    assert [step for step, _, _ in steps] == list(range(1, 61))
    assert [rate for _, _, rate in steps] == [plan.rate_at(step) for step in range(60)]
    losses = [loss for _, loss, _ in steps]
    assert np.mean(losses[-5:]) < 0.6 * np.mean(losses[:5])
    before = validate(tiny_network.eval(), blocks, range(5), CPU)
    after = validate(trainer.averaged(), blocks, range(5), CPU)
    assert after.miou > before.miou + 15
    assert list(after.iou) == ["a", "b", "c", "d"]


def test_main_training_leaves_the_light_head_alone(
    tiny_network: Segmenter, blocks: LabelledSet, tmp_path: Path
) -> None:
    trainer = trainer_for(tiny_network, blocks, tmp_path)
    run(trainer)
    before, after = tiny_network.state_dict(), trainer.network.state_dict()
    for name in before:
        # The projection of a key's bias cancels in the softmax; everything else of the main path must move.
        if name.startswith("light_head"):
            assert torch.equal(before[name], after[name]), name
        elif not name.endswith("key.bias"):
            assert not torch.equal(before[name], after[name]), name


def test_light_head_training_changes_the_light_head_only(
    tiny_network: Segmenter, blocks: LabelledSet, tmp_path: Path
) -> None:
    """specs/hamlet.md section 9, check 10: every other tensor is bit-identical, BatchNorm buffers included."""
    trainer = trainer_for(tiny_network, blocks, tmp_path)
    run(trainer)
    before = {name: tensor.clone() for name, tensor in trainer.averaged().state_dict().items()}
    losses: list[float] = []
    network = trainer.train_light_head(lambda step, loss, rate: losses.append(loss))
    assert len(losses) == PLAN.light_iterations
    for name, tensor in network.state_dict().items():
        assert torch.equal(tensor, before[name]) != name.startswith("light_head"), name
    assert not network.training
    assert all(parameter.requires_grad for parameter in network.parameters())


def test_light_head_learns(tiny_network: Segmenter, blocks: LabelledSet, tmp_path: Path) -> None:
    plan = replace(PLAN, light_iterations=60, light_rate=1e-2)
    trainer = trainer_for(tiny_network, blocks, tmp_path, plan)
    losses: list[float] = []
    rates: list[float] = []
    trainer.train_light_head(lambda step, loss, rate: (losses.append(loss), rates.append(rate)))
    assert np.mean(losses[-5:]) < 0.7 * losses[0]
    assert rates == pytest.approx([1e-2 * (1 - step / 60) for step in range(60)])


def test_light_head_sees_frames_as_they_come(tiny_network: Segmenter, blocks: LabelledSet, tmp_path: Path) -> None:
    """Whole frames in their own colours, mirrored or not; the main training's crops are of other colours."""
    trainer = trainer_for(tiny_network, blocks, tmp_path)
    known = {blocks[i].image.tobytes() for i in range(20)} | {blocks[i].image[:, ::-1].tobytes() for i in range(20)}
    with ThreadPoolExecutor(1) as pool:
        for phase, expected in ((AS_IT_COMES, 8), (replace(AS_IT_COMES, photometric=True), 3)):
            frames, _ = trainer._batch(phase, 0, range(8), pool)
            images = (frames.permute(0, 2, 3, 1) * 255).round().to(torch.uint8).numpy()
            found = sum(image.tobytes() in known for image in images)
            assert found == 8 if expected == 8 else found <= expected


@pytest.mark.parametrize("processes", [1, 2])
def test_resumed_training_equals_an_uninterrupted_one(
    tiny_network: Segmenter, blocks: LabelledSet, tmp_path: Path, processes: int
) -> None:
    (tmp_path / "whole").mkdir()
    (tmp_path / "parts").mkdir()
    whole = trainer_for(tiny_network, blocks, tmp_path / "whole", processes=processes)
    run(whole)

    class Stop(Exception):
        pass

    def stop(step: int, loss: float, rate: float) -> None:
        if step == 4:  # the state on disk is that of step 3
            raise Stop

    first = trainer_for(tiny_network, blocks, tmp_path / "parts", processes=processes)
    with pytest.raises(Stop):
        first.train(stop, save_every=3)
    torch.manual_seed(99)
    second = trainer_for(tiny_network, blocks, tmp_path / "parts", processes=processes)
    second.resume()
    assert second.step == 3
    assert [step for step, _, _ in run(second)] == [4, 5, 6]
    assert_same(whole.network.state_dict(), second.network.state_dict())
    assert_same(whole.average, second.average)


def test_two_processes_train_like_one(tiny_config: SegformerConfig, blocks: LabelledSet, tmp_path: Path) -> None:
    """Equal up to BatchNorm's statistics, which each process takes from its half: so they are frozen here."""
    torch.manual_seed(0)
    still = replace(tiny_config, encoder=replace(tiny_config.encoder, drop_path=0.0))
    network = build_segformer(still)
    network.head.norm = torch.nn.Identity()
    network.head.dropout = torch.nn.Identity()
    full = tuple(replace(phase, crop=1.0, scale=(1.0, 1.0)) for phase in PHASES)
    plan = replace(PLAN, iterations=4, learning_rate=1e-4, phases=full)
    trainers = []
    for processes in (1, 2):
        trainer = trainer_for(network, blocks, tmp_path, plan, processes)
        run(trainer)
        trainers.append(trainer)
    one, two = (trainer.network.state_dict() for trainer in trainers)
    start = network.state_dict()
    moved = max((one[name] - start[name]).abs().max().item() for name in start)
    apart = max((one[name] - two[name]).abs().max().item() for name in start)
    assert apart < 0.1 * moved


def test_resume_stretches_to_more_iterations(tiny_network: Segmenter, blocks: LabelledSet, tmp_path: Path) -> None:
    run(trainer_for(tiny_network, blocks, tmp_path))
    longer = replace(PLAN, iterations=8)
    trainer = trainer_for(tiny_network, blocks, tmp_path, longer)
    trainer.resume()
    assert [(step, rate) for step, _, rate in run(trainer)] == [(7, longer.rate_at(6)), (8, longer.rate_at(7))]


def test_resume_refuses_what_does_not_fit(
    tiny_network: Segmenter, tiny_config: SegformerConfig, blocks: LabelledSet, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match="no training state to resume"):
        trainer_for(tiny_network, blocks, tmp_path).resume()
    run(trainer_for(tiny_network, blocks, tmp_path))
    with pytest.raises(UserError, match="--seed 0, not 1"):
        trainer_for(tiny_network, blocks, tmp_path, replace(PLAN, seed=1)).resume()
    with pytest.raises(UserError, match="at least --iterations 6"):
        trainer_for(tiny_network, blocks, tmp_path, replace(PLAN, iterations=5)).resume()
    other = build_segformer(replace(tiny_config, head_width=20))
    with pytest.raises(UserError, match="does not fit this training run"):
        trainer_for(other, blocks, tmp_path).resume()
    state = tmp_path / "training_state.pt"
    state.write_bytes(state.read_bytes()[:1000])
    with pytest.raises(UserError, match="does not fit this training run") as caught:
        trainer_for(tiny_network, blocks, tmp_path).resume()
    assert "\n" not in str(caught.value)


def test_bf16_rounds_but_trains_alike(tiny_network: Segmenter, blocks: LabelledSet, tmp_path: Path) -> None:
    exact, rounded = trainer_for(tiny_network, blocks, tmp_path), trainer_for(tiny_network, blocks, tmp_path)
    rounded.bf16 = True
    first, second = ([loss for _, loss, _ in run(trainer)] for trainer in (exact, rounded))
    assert first != second
    assert first == pytest.approx(second, rel=0.05)
    assert next(rounded.network.parameters()).dtype == torch.float32


def test_unset_precision_is_measured_without_touching_the_network(
    tiny_network: Segmenter, blocks: LabelledSet, tmp_path: Path
) -> None:
    before = copy.deepcopy(tiny_network.state_dict())
    faster = bf16_is_faster(tiny_network, (64, 64), CPU)
    assert isinstance(faster, bool)
    assert_same(before, tiny_network.state_dict())
    assert all(parameter.grad is None for parameter in tiny_network.parameters())


def test_seed_changes_the_run(tiny_network: Segmenter, blocks: LabelledSet, tmp_path: Path) -> None:
    losses = [run(trainer_for(tiny_network, blocks, tmp_path, replace(PLAN, seed=seed))) for seed in (0, 1, 0)]
    assert losses[0] == losses[2]
    assert losses[0] != losses[1]


# Drawing


def test_rare_classes_are_drawn_by_their_probabilities(blocks: LabelledSet) -> None:
    arena = ReplayBuffer(blocks, range(len(blocks)))
    draw = SourceDraw(arena, rare_share=1.0, temperature=0.2, min_pixel_share=0.005)
    shares = arena.counts.sum(0) / arena.counts.sum()
    expected = np.exp((1 - shares) / 0.2) / np.exp((1 - shares) / 0.2).sum()
    wanted = []
    for seed in range(2000):
        image, class_id = draw(np.random.default_rng(seed))
        assert class_id is not None
        assert (image.label == class_id).mean() > 0.005
        wanted.append(class_id)
    found = np.bincount(wanted, minlength=4) / len(wanted)
    assert np.abs(found - expected).max() < 3 * 0.5 / len(wanted) ** 0.5


def test_the_rest_of_the_draws_is_uniform(blocks: LabelledSet) -> None:
    draw = SourceDraw(ReplayBuffer(blocks, range(len(blocks))), rare_share=0.25)
    wanted = [draw(np.random.default_rng(seed))[1] for seed in range(1000)]
    assert sum(class_id is not None for class_id in wanted) == pytest.approx(250, abs=45)
    images = [draw(np.random.default_rng(seed))[0].image for seed in range(300) if wanted[seed] is None]
    assert len({image.tobytes() for image in images}) == 20


def test_an_arena_without_rare_pixels_is_drawn_uniformly() -> None:
    class Unlabelled:
        classes = CAMVID_11

        def __len__(self) -> int:
            return 2

        def __getitem__(self, index: int) -> LabelledImage:
            return LabelledImage(np.full((8, 8, 3), index, np.uint8), np.full((8, 8), IGNORE_ID, np.uint8))

    draw = SourceDraw(ReplayBuffer(Unlabelled(), [0, 1]), rare_share=1.0)
    assert draw(np.random.default_rng(0))[1] is None
