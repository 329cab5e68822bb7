"""A recipe's step against independent references, and what it must never do."""

from __future__ import annotations

import pytest
import torch
from recipe_kit import (
    HAMLET,
    KINDS,
    REPLAY,
    SIZE,
    STATISTICS,
    TENT,
    Scripted,
    SourceSet,
    changed,
    copy_of,
    make_recipe,
    play,
    settings_of,
    stream,
    trained,
)
from torch import nn

from online_uda.adaptation.mixing import classmix_mask, mix
from online_uda.adaptation.norm import batch_norms
from online_uda.adaptation.objectives.cross_entropy import cross_entropy
from online_uda.adaptation.objectives.feature_distance import dominated_cells, feature_distance
from online_uda.adaptation.photometric import PhotometricAugmentation
from online_uda.adaptation.pseudo_labels.confident_share import confident_share_labels
from online_uda.adaptation.replay.buffer import ReplayBuffer
from online_uda.adaptation.replay.sampling import ReplaySampler
from online_uda.adaptation.trigger.base import Decision
from online_uda.networks.segmenter import Segmentation
from streams.classes import CAMVID_11


def norms_of(network: nn.Module) -> list[nn.Parameter]:
    kinds = (nn.LayerNorm, nn.BatchNorm2d)
    modules = [m for name, m in network.named_modules() if isinstance(m, kinds) and "light_head" not in name]
    return [parameter for module in modules for parameter in module.parameters()]


@pytest.mark.parametrize("kind", KINDS)
def test_tent_equals_a_few_lines_of_torch(kind: str) -> None:
    """Source statistics, affine parameters of every norm, mean pixel entropy, Adam; three frames in float32."""
    recipe = make_recipe(settings_of(TENT), trained(kind))
    reference = trained(kind)
    parameters = norms_of(reference)
    for parameter in parameters:
        parameter.requires_grad_(True)
    optimizer = torch.optim.Adam(parameters, lr=1e-3)
    for frames in stream(3):
        report = recipe.observe(frames, recipe.predict(frames))
        log_p = reference(frames).logits.log_softmax(1)
        loss = -(log_p.exp() * log_p).sum(1).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        assert report.losses["entropy"] == pytest.approx(loss.item(), abs=1e-6)
    for mine, theirs in zip(norms_of(recipe.student), parameters, strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-6, rtol=0.0)
    assert changed(copy_of(recipe.student), copy_of(trained(kind)))


def test_tent_with_batch_statistics_equals_train_mode_norms() -> None:
    """The published TENT: BatchNorm normalises with the frame, in the prediction and in the step."""
    recipe = make_recipe(settings_of(TENT, norm__statistics="batch"), trained("batchnorm"))
    reference = trained("batchnorm")
    for module in reference.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.train()
    parameters = norms_of(reference)
    for parameter in parameters:
        parameter.requires_grad_(True)
    optimizer = torch.optim.Adam(parameters, lr=1e-3)
    for frames in stream(2):
        prediction = recipe.predict(frames)
        recipe.observe(frames, prediction)
        logits = reference(frames).logits
        torch.testing.assert_close(prediction.logits, logits, atol=2e-5, rtol=1e-5)
        optimizer.zero_grad()
        (-(logits.softmax(1) * logits.log_softmax(1)).sum(1).mean()).backward()
        optimizer.step()
    for mine, theirs in zip(norms_of(recipe.student), parameters, strict=True):
        torch.testing.assert_close(mine, theirs, atol=2e-6, rtol=0.0)


def test_tent_on_a_followed_stream_learns_with_the_frames_own_statistics() -> None:
    """Predictions use the trailing statistics, the entropy those of its frame; parameters and statistics by hand."""
    recipe = make_recipe(settings_of(TENT, norm={"statistics": "stream", "momentum": 0.3}), trained("batchnorm"))
    reference = trained("batchnorm")
    layers, inputs = batch_norms(reference), {}
    for index, layer in enumerate(layers):
        layer.register_forward_pre_hook(lambda _, args, index=index: inputs.update({index: args[0].detach()}))
    parameters = norms_of(reference)
    for parameter in parameters:
        parameter.requires_grad_(True)
    optimizer = torch.optim.Adam(parameters, lr=1e-3)
    for frames in stream(3):
        prediction = recipe.predict(frames)
        with torch.no_grad():
            torch.testing.assert_close(prediction.logits, reference(frames).logits, atol=1e-5, rtol=1e-5)
        for index, layer in enumerate(layers):
            x = inputs[index]
            layer.running_mean.mul_(0.7).add_(0.3 * x.mean((0, 2, 3)))
            layer.running_var.mul_(0.7).add_(0.3 * x.var((0, 2, 3), correction=0))
            layer.train()
            layer.momentum = 0.0
        logits = reference(frames).logits
        for layer in layers:
            layer.eval()
        loss = -(logits.softmax(1) * logits.log_softmax(1)).sum(1).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        assert recipe.observe(frames, prediction).losses["entropy"] == pytest.approx(loss.item(), abs=1e-5)
    learned = copy_of(recipe.student)
    for name, value in copy_of(reference).items():
        if not name.endswith("num_batches_tracked"):
            torch.testing.assert_close(learned[name], value, atol=2e-5, rtol=1e-5, msg=name)


@pytest.mark.parametrize("statistics", ["source", "stream", "batch"])
def test_train_mode_lasts_through_every_objective_and_no_longer(statistics: str) -> None:
    """Each forward pass of the student folds its statistics in as torch does: entropy, replay and mixed are three."""
    settings = settings_of(
        HAMLET, scope={"parameters": "all"}, objectives__entropy={}, norm={"statistics": statistics, "momentum": 0.3}
    )
    recipe = make_recipe(settings, trained("batchnorm"))
    layers = batch_norms(recipe.student)
    modes, frames = [], next(stream(1))
    prediction = recipe.predict(frames)
    for layer in layers:
        layer.register_forward_pre_hook(lambda module, _: modes.append(module.training and module.track_running_stats))
    before = [int(layer.num_batches_tracked) for layer in layers]
    recipe.observe(frames, prediction)
    assert modes == [True] * 3 * len(layers)
    assert [int(layer.num_batches_tracked) for layer in layers] == [count + 3 for count in before]
    assert not any(module.training for module in recipe.student.modules())


def test_a_hamlet_step_equals_its_parts_composed_by_hand() -> None:
    """specs/hamlet.md 1.1, d1 - d11, from the pure functions with the same generators."""
    recipe = make_recipe(settings_of(HAMLET), trained("layernorm"), seed=3)
    source, student, teacher = trained("layernorm"), trained("layernorm"), trained("layernorm")
    frames = next(stream(1))
    report = recipe.observe(frames, recipe.predict(frames))

    buffer = ReplayBuffer(SourceSet(), range(8))
    crop = ReplaySampler(buffer, torch.Generator().manual_seed(3), crop_size=(64, 64)).sample(1)
    draws = torch.Generator().manual_seed(3)
    for index in range(4):
        for _, parameter in student.module_parameters(index):
            parameter.requires_grad_(True)
    torch.manual_seed(int(torch.randint(2**62, (), generator=draws)))
    student.train()
    student.light_head.eval()

    output = student(crop.images)
    replayed = cross_entropy(output.full(), crop.labels)
    anchors = source(crop.images).features[-1]
    mask = dominated_cells(crop.labels, (2, 2), CAMVID_11.things, 0.75)
    distance = feature_distance(output.features[-1], anchors, mask)
    (replayed + 0.1 * distance).backward()

    top = int(torch.randint(1, (), generator=draws))
    left = int(torch.randint(SIZE[1] - 64 + 1, (), generator=draws))
    window = frames[..., top : top + 64, left : left + 64]
    window = window.flip(-1) if int(torch.randint(2, (), generator=draws)) else window
    teacher.head.norm.train()
    with torch.no_grad():
        taught = confident_share_labels(teacher(window).full(), threshold=0.4)
    pasted = classmix_mask(crop.labels, 0.5, draws)
    mixed = mix(pasted, crop.images, crop.labels, window, taught.labels, taught.weights)
    augmented = PhotometricAugmentation()(mixed.images, draws)
    on_mixed = cross_entropy(student(augmented).full(), mixed.labels, mixed.weights)
    on_mixed.backward()

    expected = {"replay": replayed.item(), "feature_distance": distance.item(), "mixed": on_mixed.item()}
    assert report.losses == pytest.approx(expected, abs=1e-6)
    assert expected["feature_distance"] > 0.0
    assert report.scope == "modules 1-4"
    assert report.learning_rate == pytest.approx(1e-3)

    moved = {n: p for n, p in student.named_parameters() if p.grad is not None}
    groups = [
        {
            "params": [p for n, p in moved.items() if n.startswith("head.") == head and (p.dim() == 1) == vector],
            "lr": 1e-2 if head else 1e-3,
            "weight_decay": 0.0 if vector else 0.01,
        }
        for head in (False, True)
        for vector in (False, True)
    ]
    torch.optim.AdamW(groups).step()
    for name, value in copy_of(student).items():
        torch.testing.assert_close(copy_of(recipe.student)[name], value, atol=2e-6, rtol=0.0, msg=name)


@pytest.mark.parametrize("share", [0.1, 1.0])
def test_pull_is_a_linear_step_after_the_optimisers(share: float) -> None:
    settings = {"norm": {"statistics": "stream"}, **TENT}
    free, pulled = (
        make_recipe(settings_of(settings, anchor={"pull": pull}), trained("batchnorm")) for pull in (0.0, share)
    )
    source = copy_of(free.student)
    for recipe in (free, pulled):
        play(recipe, stream(1))
    away, back = copy_of(free.student), copy_of(pulled.student)
    assert changed(source, away) == changed(source, back) or share == 1.0
    for name in changed(source, away):
        torch.testing.assert_close(back[name], torch.lerp(away[name], source[name], share), atol=1e-7, rtol=1e-6)


def test_relax_acts_while_the_trigger_rests_and_only_then() -> None:
    script = (Decision(True), Decision(False, relax=True), Decision(False))
    settings = settings_of({"norm": {"statistics": "stream"}, **TENT}, anchor={"relax": 0.25})
    recipe = make_recipe(settings, trained("batchnorm"), trigger=Scripted(*script))
    source = copy_of(recipe.student)
    frames = list(stream(3))
    states, reports = [], []
    for frame in frames:
        reports.append(recipe.observe(frame, recipe.predict(frame)))
        states.append(copy_of(recipe.student))
    for name in changed(source, states[0]):
        expected = torch.lerp(states[0][name], source[name], 0.25)
        torch.testing.assert_close(states[1][name], expected, atol=1e-7, rtol=1e-6)
    assert not changed(states[1], states[2])
    assert [report.updated for report in reports] == [True, False, False], "nothing is learned at rest"
    assert reports[1].losses == {}
    assert reports[1].scope is None


@pytest.mark.parametrize("restart", [0.0, 0.5, 1.0])
def test_restart_acts_before_the_step_at_a_change_back_towards_the_source(restart: float) -> None:
    """The second step starts from weights ``restart`` of the way back; with 1 it is a first step from the source."""
    frames = list(stream(2))
    slots = {"optimizer": {"name": "sgd", "learning_rate": 0.01, "momentum": 0.0}}
    settings = settings_of({**TENT, **slots}, anchor={"restart": restart})
    script = (Decision(True), Decision(True, confirmed=True, nearer=True))
    recipe = make_recipe(settings, trained("layernorm"), trigger=Scripted(*script))
    source = copy_of(recipe.student)
    recipe.observe(frames[0], recipe.predict(frames[0]))
    away = copy_of(recipe.student)
    recipe.observe(frames[1], recipe.predict(frames[1]))
    other = make_recipe(settings, trained("layernorm"), trigger=Scripted(Decision(True)))
    between = {name: torch.lerp(away[name], source[name], restart) for name in changed(source, away)}
    other.student.load_state_dict(between, strict=False)
    other.observe(frames[1], other.predict(frames[1]))
    assert changed(source, away)
    torch.testing.assert_close(copy_of(recipe.student), copy_of(other.student), atol=1e-7, rtol=1e-6)


def test_statistics_alone_follow_the_stream_and_are_pulled_back() -> None:
    """`frozen` with norm.statistics=stream: no parameter learns, yet later predictions change."""
    recipe = make_recipe(settings_of(STATISTICS, anchor={"pull": 0.5}), trained("batchnorm"))
    free = make_recipe(settings_of(STATISTICS), trained("batchnorm"))
    source = copy_of(recipe.student)
    frame = next(stream(1))
    assert all(one.observe(frame, one.predict(frame)).updated for one in (recipe, free))
    moved = changed(source, copy_of(free.student))
    assert moved
    assert all("running" in name for name in moved)
    for name in moved:
        expected = torch.lerp(copy_of(free.student)[name], source[name], 0.5)
        torch.testing.assert_close(copy_of(recipe.student)[name], expected, atol=1e-7, rtol=1e-6)


def test_the_trigger_sets_rate_and_mix_ratio_of_the_step() -> None:
    script = (Decision(True, learning_rate=4e-4, mix_ratio=1.0), Decision(True))
    recipe = make_recipe(settings_of(HAMLET), trained("layernorm"), trigger=Scripted(*script))
    first, second = play(recipe, stream(2))
    assert first.learning_rate == pytest.approx(4e-4)
    rates = {group["lr"] for group in recipe.state_dict()["optimizer"]["param_groups"]}
    assert sorted(rates) == pytest.approx([4e-4, 4e-3])
    assert second.learning_rate == pytest.approx(4e-4)
    other = make_recipe(
        settings_of(HAMLET), trained("layernorm"), trigger=Scripted(Decision(True, 4e-4, mix_ratio=0.0))
    )
    mixed = play(other, stream(1))[0].losses
    assert mixed["replay"] == first.losses["replay"]
    assert mixed["mixed"] != first.losses["mixed"]


def test_a_resting_trigger_leaves_everything_but_passes_its_word_on() -> None:
    recipe = make_recipe(
        settings_of(HAMLET), trained("layernorm"), trigger=Scripted(Decision(False, signal=1.5, detected=True))
    )
    before, generator = copy_of(recipe.student), recipe.state_dict()["generator"]
    report = play(recipe, stream(2))[-1]
    assert (report.updated, report.detected, report.signal, report.scope) == (False, True, 1.5, None)
    assert report.losses == {}
    assert not changed(before, copy_of(recipe.student))
    assert torch.equal(generator, recipe.state_dict()["generator"])
    assert recipe.teacher is not None
    assert recipe.teacher.steps == 0


def test_a_detected_change_starts_the_style_afresh() -> None:
    looks = []
    for detected in (False, True):
        script = (Decision(True), Decision(True), Decision(True, confirmed=detected))
        recipe = make_recipe(settings_of(REPLAY), trained("layernorm"), trigger=Scripted(*script))
        play(recipe, stream(2, haze=0.1))
        play(recipe, stream(1, haze=0.9))
        looks.append(recipe.state_dict()["replay"]["style"]["frames"])
    assert looks == [3, 1]


def test_deployed_teacher_predicts_with_the_average_of_the_steps() -> None:
    settings = settings_of(REPLAY, teacher={"cap": 0.9}, deploy="teacher")
    recipe, plain = make_recipe(settings, trained("layernorm")), make_recipe(settings_of(REPLAY), trained("layernorm"))
    frames = list(stream(4))
    play(recipe, iter(frames[:3]))
    play(plain, iter(frames[:3]))
    assert not changed(copy_of(recipe.student), copy_of(plain.student)), "the student learns the same"
    assert recipe.teacher is not None
    expected = recipe.teacher.module(frames[3]).logits
    assert torch.equal(recipe.predict(frames[3]).logits, expected)
    assert not torch.equal(plain.predict(frames[3]).logits, expected)


def test_deployed_teacher_goes_back_to_the_source_with_the_student() -> None:
    settings = settings_of(REPLAY, teacher={"cap": 0.5}, deploy="teacher", anchor={"relax": 1.0})
    script = (Decision(True), Decision(True), Decision(False, relax=True))
    network = trained("batchnorm")
    recipe = make_recipe(settings, network, trigger=Scripted(*script))
    frames = list(stream(3))
    play(recipe, iter(frames[:2]))
    assert not torch.equal(recipe.predict(frames[0]).logits, network(frames[0]).logits)
    play(recipe, iter(frames[2:]))
    torch.testing.assert_close(recipe.predict(frames[0]).logits, network(frames[0]).logits, atol=1e-6, rtol=1e-6)


def test_replay_in_the_streams_look_helps_on_it() -> None:
    """The point of it all: scenes that were never seen, in a haze that was, are labelled far better."""
    network = trained("batchnorm")
    recipe = make_recipe(settings_of(REPLAY), network)
    play(recipe, stream(20))
    scenes = SourceSet(4, seed=70)
    labels = torch.stack([torch.from_numpy(scenes[i].label) for i in range(4)])
    frames = torch.cat(list(stream(4, seed=70)))

    def right(output: Segmentation) -> float:
        return (output.labels() == labels).float().mean().item()

    assert right(recipe.predict(frames)) > right(network(frames)) + 0.15
