"""ETA, EATA, RDumb, DeYO and SAR: one update of each against a few lines of its own, in float64 (<= 1e-6)."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import contextmanager
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from recipe_kit import CAMVID_11, SourceSet, changed, copy_of, make_recipe, play, settings_of, stream, trained
from torch import Tensor, nn

from online_uda.adaptation.class_mean import ClassMean
from online_uda.adaptation.fisher import fisher_diagonal
from online_uda.adaptation.patch_shuffle import shuffle_patches, window_permutation
from online_uda.adaptation.pieces import Pieces, around, finish
from online_uda.adaptation.recipe import Recipe
from online_uda.adaptation.recovery import Recovery
from online_uda.adaptation.settings import AnchorSettings
from online_uda.adaptation.trigger.base import EveryFrames
from online_uda.networks.segmenter import Segmenter

RATE = 0.05
BASE: dict[str, Any] = {
    "norm": {"statistics": "batch"},
    "scope": {"parameters": "norm"},
    "optimizer": {"name": "sgd", "learning_rate": RATE, "momentum": 0.0},
    "objectives": {"entropy": {}},
}
LOG_C = math.log(len(CAMVID_11))
Weights = dict[str, Tensor]


def double(kind: str) -> Segmenter:
    """Float64, BatchNorm on the statistics of what it is given, norm scales and shifts learning."""
    network = trained(kind).double()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.train()
            module.track_running_stats = False
        if isinstance(module, nn.LayerNorm | nn.BatchNorm2d):
            module.requires_grad_(True)
    network.light_head.requires_grad_(False)
    return network


def frame() -> Tensor:
    return next(stream(1)).double()


def after_one_step(kind: str, **changes: Any) -> tuple[Recipe, dict[str, float], bool]:
    recipe = make_recipe(settings_of(BASE, **changes), trained(kind).double())
    report = recipe.observe(frame(), recipe.predict(frame()))
    return recipe, report.losses, report.updated


def entropies(logits: Tensor) -> tuple[Tensor, Tensor]:
    p = logits.exp() / logits.exp().sum(1, keepdim=True)
    return p, -(p * p.log()).sum(1)


def stepped(network: Segmenter, loss: Tensor) -> Weights:
    names = [name for name, parameter in network.named_parameters() if parameter.requires_grad]
    gradients = torch.autograd.grad(loss, [network.get_parameter(name) for name in names])
    return {name: network.get_parameter(name) - RATE * g for name, g in zip(names, gradients, strict=True)}


def agree(recipe: Recipe, expected: Weights) -> None:
    start = dict(trained("layernorm" if "stages.0.norm.weight" in expected else "batchnorm").named_parameters())
    moved = 0.0
    for name, value in expected.items():
        torch.testing.assert_close(recipe.student.get_parameter(name), value, atol=1e-6, rtol=0.0)
        moved = max(moved, float((value.detach() - start[name]).abs().max()))
    assert moved > 1e-5, "the reference does not move, and would agree with anything"


KINDS = ("layernorm", "batchnorm")


@pytest.mark.parametrize("kind", KINDS)
def test_tent(kind: str) -> None:
    network = double(kind)
    _, h = entropies(network(frame()).logits)
    recipe, losses, _ = after_one_step(kind)
    assert losses["entropy"] == pytest.approx(h.mean().item(), abs=1e-9)
    agree(recipe, stepped(network, h.mean()))


@pytest.mark.parametrize("kind", KINDS)
def test_eta_keeps_sure_pixels_and_weighs_them(kind: str) -> None:
    network = double(kind)
    _, h = entropies(network(frame()).logits)
    limit = 0.5 * LOG_C
    kept = h < limit
    assert 0 < kept.sum() < kept.numel()
    loss = ((limit - h.detach()).exp() * h)[kept].mean()
    recipe, _, _ = after_one_step(
        kind, objectives__entropy__max_entropy=0.5, objectives__entropy__eta_weighting=True,
        objectives__entropy__redundancy={"of": "frame"},
    )  # fmt: skip
    agree(recipe, stepped(network, loss))


def test_the_second_frame_meets_the_mean_of_the_first() -> None:
    """Of pixels: those with a cosine below the limit learn. Of frames: a frame like the last one teaches nothing."""
    mean = entropies(double("batchnorm")(frame()).logits)[0].mean((0, 2, 3))
    for of, learns in (("pixels", True), ("frame", False)):
        recipe, _, _ = after_one_step("batchnorm", objectives__entropy__redundancy={"of": of, "limit": 0.7})
        before = copy_of(recipe.student)
        with torch.no_grad():
            p, h = entropies(recipe.predict(frame()).logits)
        report = recipe.observe(frame(), recipe.predict(frame()))
        assert report.updated is learns
        assert bool(changed(before, copy_of(recipe.student))) is learns
        if learns:
            kept = (p * mean.view(1, -1, 1, 1)).sum(1) / p.norm(dim=1) / mean.norm() < 0.7
            assert 0 < kept.sum() < kept.numel()
            assert report.losses["entropy"] == pytest.approx(h[kept].mean().item(), abs=1e-6)


def test_the_mean_prediction_is_an_exponential_one() -> None:
    mean = ClassMean(0.1)
    one, two = torch.tensor([0.8, 0.2]), torch.tensor([0.3, 0.7])
    assert mean.cosine(torch.rand(1, 2, 3)).abs().max() == 0.0
    mean.update(one)
    assert torch.equal(mean.mean, one)
    mean.update(two)
    torch.testing.assert_close(mean.mean, 0.9 * one + 0.1 * two)
    expected = float(mean.mean @ two / mean.mean.norm() / two.norm())
    assert mean.cosine(two[None])[0].item() == pytest.approx(expected, rel=1e-6)


def test_nothing_sure_is_no_step() -> None:
    _, losses, updated = after_one_step("batchnorm", objectives__entropy__max_entropy=1e-6)
    assert (losses, updated) == ({}, False)


@pytest.mark.parametrize("kind", KINDS)
def test_eata_holds_back_what_the_source_hangs_on(kind: str) -> None:
    """Second step, so that there is something to hold back; F from every image, one gradient at a time."""
    weight, source = 3.0, SourceSet()
    images = [torch.from_numpy(source[i].image).permute(2, 0, 1)[None].double() / 255.0 for i in range(3)]
    plain = trained(kind).double()
    names = [name for name, parameter in double(kind).named_parameters() if parameter.requires_grad]
    parameters = [plain.get_parameter(name).requires_grad_() for name in names]
    fisher = [torch.zeros_like(parameter) for parameter in parameters]
    for image in images:
        logits = plain(image).logits
        loss = F.nll_loss(logits.log_softmax(1), logits.argmax(1))
        for total, gradient in zip(fisher, torch.autograd.grad(loss, parameters), strict=True):
            total += gradient**2 / 3
    start = {name: parameter.detach().clone() for name, parameter in zip(names, parameters, strict=True)}
    settings = settings_of(BASE, objectives__fisher={"weight": weight, "frames": 3})
    recipe = Recipe(
        settings, name="eata", source=trained(kind).double(), classes=CAMVID_11, replay=None, trigger=EveryFrames(1),
        seed=0, bf16=False, source_images=iter(images),
    )  # fmt: skip
    network = double(kind)
    for step in range(2):
        _, h = entropies(network(frame()).logits)
        pull = sum((f * (network.get_parameter(n) - start[n]) ** 2).sum() for n, f in zip(names, fisher, strict=True))
        expected = stepped(network, h.mean() + weight * pull)
        report = recipe.observe(frame(), recipe.predict(frame()))
        assert report.losses["fisher"] == pytest.approx(pull.item(), abs=1e-9)
        with torch.no_grad():
            for name, value in expected.items():
                network.get_parameter(name).copy_(value)
        assert (report.losses["fisher"] > 0.0) is (step == 1)
    agree(recipe, expected)


def test_fisher_of_a_quadratic_by_hand() -> None:
    """Two classes and one weight: the squared gradient of the cross-entropy is (p - 1)^2 x^2."""
    weight = nn.Parameter(torch.tensor([0.7], dtype=torch.float64))

    class Line(nn.Module):
        def forward(self, x: Tensor) -> Any:
            score = (weight * x[:, :1]).expand(-1, 1, 1, 1)
            return type("Output", (), {"logits": torch.cat([score, torch.zeros_like(score)], 1)})

    images = [torch.full((1, 3, 1, 1), value, dtype=torch.float64) for value in (0.5, 2.0)]
    found = fisher_diagonal(Line(), [("w", weight)], images, lambda: torch.autocast("cpu", enabled=False))
    by_hand = [((1 / (1 + math.exp(-0.7 * x)) - 1.0) * x) ** 2 for x in (0.5, 2.0)]
    assert found[0].item() == pytest.approx(sum(by_hand) / 2, rel=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_deyo_keeps_what_a_shuffle_shakes(kind: str) -> None:
    """Patches of 16 x 32 change places; the answer is put back by hand, patch after patch."""
    network, x = double(kind), frame()
    p, h = entropies(network(x).logits)
    order = window_permutation((4, 4), None, torch.Generator().manual_seed(0)).tolist()
    shuffled = torch.zeros_like(x)
    for place, origin in enumerate(order):
        (r, c), (a, b) = divmod(place, 4), divmod(origin, 4)
        shuffled[..., 16 * r : 16 * r + 16, 32 * c : 32 * c + 32] = x[..., 16 * a : 16 * a + 16, 32 * b : 32 * b + 32]
    q, _ = entropies(network(shuffled).logits.detach())
    back = torch.zeros_like(q)
    for place, origin in enumerate(order):
        (r, c), (a, b) = divmod(place, 4), divmod(origin, 4)
        back[..., 4 * a : 4 * a + 4, 8 * b : 8 * b + 8] = q[..., 4 * r : 4 * r + 4, 8 * c : 8 * c + 8]
    label = p.argmax(1, keepdim=True)
    drop = (p.gather(1, label) - back.gather(1, label))[:, 0].detach()
    kept = (h < 0.6 * LOG_C) & (drop > 0.1)
    assert 0 < kept.sum() < (h < 0.6 * LOG_C).sum()
    loss = (((0.4 * LOG_C - h.detach()).exp() + drop.exp()) * h)[kept].mean()
    recipe, _, _ = after_one_step(
        kind, objectives__entropy__max_entropy=0.6, objectives__entropy__eta_weighting=True,
        objectives__entropy__reference=0.4, objectives__entropy__shuffle={"min_drop": 0.1},
    )  # fmt: skip
    agree(recipe, stepped(network, loss))


@pytest.mark.parametrize(("grid", "window"), [((4, 4), None), ((4, 4), 2), ((3, 5), 2), ((1, 6), 3)])
def test_a_shuffle_keeps_to_its_windows_and_can_be_undone(grid: tuple[int, int], window: int | None) -> None:
    order = window_permutation(grid, window, torch.Generator().manual_seed(1))
    assert sorted(order.tolist()) == list(range(grid[0] * grid[1]))
    assert order.tolist() != sorted(order.tolist())
    if window is not None:
        for place, origin in enumerate(order.tolist()):
            for one, two in zip(divmod(place, grid[1]), divmod(origin, grid[1]), strict=True):
                assert one // window == two // window
    maps = torch.rand(2, 3, 4 * grid[0] + 1, 3 * grid[1] + 2)
    there = shuffle_patches(maps, grid, (4, 3), order)
    assert not torch.equal(there, maps)
    assert torch.equal(shuffle_patches(there, grid, (4, 3), order.argsort()), maps)
    assert torch.equal(there[..., -1:, :], maps[..., -1:, :]), "what is no whole patch stays"


@pytest.mark.parametrize("kind", KINDS)
def test_sar_steps_along_the_gradient_uphill(kind: str) -> None:
    rho, limit = 0.05, 0.5 * LOG_C
    network = double(kind)
    parameters = [parameter for parameter in network.parameters() if parameter.requires_grad]
    start = [parameter.detach().clone() for parameter in parameters]
    _, h = entropies(network(frame()).logits)
    first = torch.autograd.grad(h[h < limit].mean(), parameters)
    length = torch.sqrt(sum((g**2).sum() for g in first))
    with torch.no_grad():
        for parameter, g in zip(parameters, first, strict=True):
            parameter += rho * g / length
    _, h = entropies(network(frame()).logits)
    loss = h[h < limit].mean()
    second = torch.autograd.grad(loss, parameters)
    names = [name for name, parameter in network.named_parameters() if parameter.requires_grad]
    expected = {name: s - RATE * g for name, s, g in zip(names, start, second, strict=True)}
    changes: dict[str, Any] = {"objectives__entropy__max_entropy": 0.5}
    recipe, losses, _ = after_one_step(kind, optimizer__sharpness=rho, **changes)
    assert losses["entropy"] == pytest.approx(loss.item(), abs=1e-9)
    agree(recipe, expected)
    flat, _, _ = after_one_step(kind, **changes)
    assert changed(copy_of(flat.student), copy_of(recipe.student)), "sharpness changes the step"


def test_uphill_weights_are_never_seen_between_pieces() -> None:
    recipe = make_recipe(settings_of(BASE, optimizer__sharpness=5.0), trained("batchnorm"))
    before, memory = copy_of(recipe.student), [p.data_ptr() for p in recipe.student.parameters()]
    x = next(stream(1))
    prediction = recipe.predict(x)
    names = []
    for name in recipe.learn(x, recipe.watch(x, prediction)):
        names.append(name)
        assert not changed(before, copy_of(recipe.student))
        assert torch.equal(recipe.predict(x).logits, prediction.logits)
    assert names.count("entropy.loss") == 2
    assert changed(before, copy_of(recipe.student))
    assert [p.data_ptr() for p in recipe.student.parameters()] == memory


@pytest.mark.parametrize("kind", KINDS)
def test_the_last_stages_can_be_spared(kind: str) -> None:
    recipe, _, _ = after_one_step(kind, scope__spare_last=1)
    moved = changed(copy_of(trained(kind).double()), copy_of(recipe.student))
    assert moved
    assert not any(name.startswith("stages.3.") for name in moved)
    whole, _, _ = after_one_step(kind)
    assert any(name.startswith("stages.3.") for name in changed(copy_of(recipe.student), copy_of(whole.student)))


def resets(recipe: Recipe, count: int) -> list[bool]:
    """After which frames the weights are those of the start."""
    start, found = copy_of(recipe.student), []
    for frames in stream(count):
        play(recipe, iter([frames]))
        found.append(not changed(start, copy_of(recipe.student)))
    return found


def test_rdumb_begins_anew_every_third_step() -> None:
    recipe = make_recipe(
        settings_of(BASE, anchor__reset_every=3, optimizer__name="adam", norm__statistics="stream",
                    objectives__entropy__redundancy={"of": "pixels", "limit": 0.9}),
        trained("batchnorm"),
    )  # fmt: skip
    assert resets(recipe, 7) == [False, False, True, False, False, True, False]
    fresh = make_recipe(recipe.settings, trained("batchnorm"))
    frames = list(stream(4, seed=7))
    play(recipe, iter(frames[:2]))
    assert not changed(copy_of(trained("batchnorm")), copy_of(recipe.student)), "the ninth step was the last of three"
    for x in frames[2:]:
        assert recipe.observe(x, recipe.predict(x)) == fresh.observe(x, fresh.predict(x)), "moments and mean are gone"


def test_sar_begins_anew_where_the_entropy_collapses() -> None:
    assert not any(resets(make_recipe(settings_of(BASE, anchor__reset_below=1e-4), trained("batchnorm")), 3))
    assert all(resets(make_recipe(settings_of(BASE, anchor__reset_below=10.0), trained("batchnorm")), 3))


def test_the_collapse_is_that_of_a_running_mean() -> None:
    recovery = Recovery(AnchorSettings(reset_below=0.9))
    # 1, 0.91, 0.829: below; and then from the next value on.
    assert [recovery.due(value) for value in (1.0, 0.1, 0.1, 1.0, 0.95)] == [False, False, True, False, False]


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"optimizer__sharpness": 0.1, "objectives__replay": {}, "replay": {}}, "takes the same step twice"),
    ({"objectives__entropy": None, "objectives__fisher": {}}, "only holds weights back"),
    ({"objectives__entropy__reference": 0.4}, "is the E0 of eta_weighting"),
    ({"objectives__entropy__shuffle": {"grid": [1, 1]}}, "one patch"),
    ({"objectives__entropy__shuffle": {"window": 1}}, "leaves every patch"),
    ({"objectives__entropy": None, "objectives__replay": {}, "replay": {}, "anchor__reset_below": 0.1}, "watches"),
    ({"scope__parameters": "none", "objectives__entropy": None, "anchor__reset_every": 5}, "nothing to put back"),
]


@pytest.mark.parametrize(("changes", "text"), REFUSED, ids=[text for _, text in REFUSED])
def test_what_cannot_work_is_refused(changes: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        settings_of(BASE, **changes)


def test_a_pass_around_pieces_leaves_between_them() -> None:
    inside: list[bool] = [False]

    @contextmanager
    def context() -> Any:
        inside[0] = True
        yield
        inside[0] = False

    def work(check: Callable[[], bool]) -> Pieces[int]:
        for name in ("a", "b"):
            yield name
            assert check()
        return 7

    seen = []
    pieces = around(work(lambda: inside[0]), context)
    for name in pieces:
        seen.append((name, inside[0]))
    assert seen == [("a", False), ("b", False)]
    assert finish(around(work(lambda: True), context)) == 7
