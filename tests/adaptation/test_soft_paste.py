"""Soft and rare pastes (DSP), warm-up (DAFormer), and the names of seed 004."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from recipe_kit import Scripted, SourceSet, make_recipe, play, settings_of, stream, trained

from online_uda.adaptation.replay.buffer import ReplayBuffer
from online_uda.adaptation.replay.rare_paste import RarePatches
from online_uda.adaptation.settings import MethodSettings
from online_uda.adaptation.soft_paste import Patch, paste, paste_all, plain
from online_uda.adaptation.trigger.base import Decision
from online_uda.adaptation.warm_up import warm_up_factor
from online_uda.config import find_method
from online_uda.errors import UserError
from online_uda.networks.spec import form_of
from online_uda.seed_names import SEED_004, preset
from streams.yaml_config import build, load_yaml, with_overrides

ROOT = Path(__file__).parents[2]


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_check_3_a_soft_paste_is_nine_tenths_of_one_and_a_tenth_of_the_other() -> None:
    """Pixel = .9a + .1b exactly, loss split .9/.1."""
    a, b = drawn(1, 3, 4, 6), drawn(2, 3, 4, 6, seed=1)
    upper, lower = torch.full((1, 4, 6), 2), torch.full((2, 4, 6), 1)
    mask = drawn(1, 4, 6, seed=2) < 0.5
    weights = drawn(2, 4, 6, seed=3)
    made = paste(plain(b, lower, weights), a, upper, mask, 0.9)
    for row in range(2):
        inside, outside = mask[0], ~mask[0]
        torch.testing.assert_close(made.images[row][:, inside], 0.9 * a[0][:, inside] + 0.1 * b[row][:, inside])
        assert torch.equal(made.images[row][:, outside], b[row][:, outside])
    logits = drawn(2, 5, 4, 6, seed=4)
    above = F.cross_entropy(logits, upper.expand(2, -1, -1), reduction="none")
    below = F.cross_entropy(logits, lower, reduction="none")
    expected = torch.where(mask, 0.9 * above + 0.1 * weights * below, weights * below).mean()
    assert made.loss(logits).item() == pytest.approx(expected.item(), abs=1e-12)
    assert torch.equal(made.labels, torch.where(mask, 2, 1).expand(2, -1, -1))


@pytest.mark.parametrize(("stride", "first"), [(1, 0), (2, 1), (4, 2)])
@pytest.mark.parametrize("size", [(8, 12), (11, 14)])
def test_a_strided_loss_looks_at_the_middles_of_squares(stride: int, first: int, size: tuple[int, int]) -> None:
    rows, columns = (side // stride for side in size)
    labels = torch.randint(0, 5, (2, *size), generator=torch.Generator().manual_seed(0))
    logits, weights = drawn(2, 5, rows, columns), drawn(2, *size, seed=1)
    at = [(y, x) for y in range(first, rows * stride, stride) for x in range(first, columns * stride, stride)]
    terms = [
        weights[b, y, x] * F.cross_entropy(logits[b, :, y // stride, x // stride], labels[b, y, x])
        for b in range(2) for y, x in at
    ]  # fmt: skip
    loss = plain(drawn(2, 3, *size), labels, weights).loss(logits, stride)
    assert loss.item() == pytest.approx(torch.stack(terms).mean().item(), abs=1e-12)


def test_two_pastes_split_the_label_in_three() -> None:
    x, everywhere = drawn(1, 3, 2, 2), torch.ones(1, 2, 2, dtype=torch.bool)
    patches = [Patch(drawn(1, 3, 2, 2, seed=s), torch.full((1, 2, 2), s), everywhere) for s in (1, 2)]
    made = paste_all(plain(x, torch.zeros(1, 2, 2, dtype=torch.long)), patches, 0.9)
    assert [(int(labels[0, 0, 0]), round(weights[0, 0, 0].item(), 9)) for labels, weights in made.layers] == [
        (0, 0.01), (1, 0.09), (2, 0.9),
    ]  # fmt: skip
    opaque = paste_all(plain(x, torch.zeros(1, 2, 2, dtype=torch.long)), patches, 1.0)
    assert torch.equal(opaque.images, patches[1].images)


def test_check_3_both_chosen_rare_classes_are_there() -> None:
    source = SourceSet()
    buffer = ReplayBuffer(source, range(len(source)))
    totals = buffer.counts.sum(0)
    patches = RarePatches(buffer, 3, (64, 64))
    assert patches.classes[0] == 9
    assert [int(totals[c]) for c in patches.classes] == sorted(totals[totals > 0])[:3]
    generator = torch.Generator().manual_seed(0)
    for _ in range(30):
        one, two = patches.draw(2, generator, torch.device("cpu"))
        assert one.mask.any()
        assert two.mask.any()
        ids = [torch.unique(patch.labels[patch.mask]).tolist() for patch in (one, two)]
        assert len(ids[0]) == len(ids[1]) == 1
        assert ids[0] != ids[1]
        found = source[3].image if ids[0] == [9] else None
        if found is not None:  # pixels are those of a source image that has the class
            colours = set(map(tuple, np.reshape(found, (-1, 3)).tolist()))
            pixel = (one.images[0, :, one.mask[0]][:, 0] * 255).round().int().tolist()
            assert tuple(pixel) in colours


def test_warm_up_rises_in_a_line_and_begins_anew_after_a_shift() -> None:
    assert [warm_up_factor(k, 4, 0.2) for k in (0, 1, 2, 3, 4, 9)] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0, 1.0])
    settings = settings_of({
        "scope": {"parameters": "all"}, "objectives": {"entropy": {}},
        "optimizer": {"name": "sgd", "learning_rate": 0.1, "warm_up": 2, "warm_up_ratio": 0.5, "head_factor": 10},
    })  # fmt: skip
    trigger = Scripted(*[Decision(True)] * 3, Decision(True, confirmed=True), Decision(True))
    recipe = make_recipe(settings, trained("batchnorm"), trigger=trigger)
    rates = [report.learning_rate for report in play(recipe, stream(6))]
    assert rates == pytest.approx([0.05, 0.075, 0.1, 0.05, 0.075, 0.1])
    assert recipe._optimizer is not None
    assert [group["lr"] for group in recipe._optimizer.param_groups if group["lr_scale"] == 10] == pytest.approx(
        [1.0] * sum(group["lr_scale"] == 10 for group in recipe._optimizer.param_groups)
    )
    for group in recipe._optimizer.param_groups:
        assert group["lr_scale"] in (1, 10)


def test_check_5_all_31_names_resolve_or_say_why_not() -> None:
    assert len(SEED_004) == 31
    for name, what in SEED_004.items():
        if what.method is None:
            with pytest.raises(UserError, match=f"^method {name}: unsupported because "):
                find_method(name)
            continue
        document = with_overrides(load_yaml(find_method(name)), what.overrides)
        settings = build(MethodSettings, document)
        mixing, wanted = settings.mixing, settings.objectives
        assert (mixing is not None and mixing.opacity == 0.9) is ("soft" in name)
        assert (mixing is not None and mixing.rare == 2) is ("paste" in name)
        assert (wanted.discrepancy is not None) is ("mmd" in name)
        assert (wanted.mixed is None) is name.endswith("_src")
        if name.startswith("uda_"):
            assert wanted.feature_distance is not None
        if "rare" in name or name.startswith(("uda_", "gta2cs")):
            assert settings.replay is not None
            assert settings.replay.sampling == "rare_class"
        assert form_of(what.network)
        assert what.network in (ROOT / "docs" / "methods" / "seed_names.md").read_text()
    assert preset("tent") is None


@pytest.mark.parametrize(("name", "text"), [("uper_mae_uda", "one stride only"), ("daformer_swinB_oral", "labels")])
def test_an_unsupported_name_is_one_line(name: str, text: str) -> None:
    done = subprocess.run(
        [sys.executable, "run_stream.py", "--schedule", "quick", "--method", name],
        capture_output=True, text=True, cwd=ROOT, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert len(done.stderr.strip().splitlines()) == 1
    assert f"{name}: unsupported because" in done.stderr
    assert text in done.stderr


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"mixing": {"rare_pool": 3}}, "give rare or drop it"),
    ({"mixing": {"rare": 3, "rare_pool": 2}}, "more classes than the 2"),
    ({"optimizer": {"warm_up_ratio": 0.1}}, "give warm_up or drop it"),
]


@pytest.mark.parametrize(("data", "text"), REFUSED, ids=[text for _, text in REFUSED])
def test_what_cannot_work_is_refused(data: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        settings_of({"scope": {"parameters": "none"}, **data})
