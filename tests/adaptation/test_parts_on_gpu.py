"""The parts of a training step give the same on a CUDA device as on the CPU, with the same CPU generator."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from online_uda.adaptation.mixing import classmix_mask, mix
from online_uda.adaptation.objectives.cross_entropy import cross_entropy
from online_uda.adaptation.objectives.entropy import entropy_loss
from online_uda.adaptation.objectives.feature_distance import dominated_cells, feature_distance
from online_uda.adaptation.photometric import PhotometricAugmentation
from online_uda.adaptation.pseudo_labels.confident_share import confident_share_labels
from online_uda.adaptation.teacher import EMATeacher

pytestmark = pytest.mark.gpu


def step(device: str) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    source = torch.rand(2, 3, 64, 96, generator=generator).to(device)
    target = torch.rand(2, 3, 64, 96, generator=generator).to(device)
    labels = torch.randint(0, 4, (2, 2, 3), generator=generator).repeat_interleave(32, 1).repeat_interleave(32, 2)
    labels = labels.to(device)
    logits = (torch.randn(2, 4, 64, 96, generator=generator) * 5).to(device).requires_grad_(True)
    features = torch.randn(2, 8, 2, 3, generator=generator).to(device)

    pseudo = confident_share_labels(logits, threshold=0.9)
    mask = classmix_mask(labels, 0.5, generator)
    mixed = mix(mask, source, labels, target, pseudo.labels, pseudo.weights)
    images = PhotometricAugmentation()(mixed.images, generator)
    loss = (
        cross_entropy(logits, mixed.labels, mixed.weights)
        + entropy_loss(logits, max_entropy=0.4, eta_weighting=True, class_balance=1.0)
        + feature_distance(features, torch.zeros_like(features), dominated_cells(labels, (2, 3), [1, 2]))
    )
    loss.backward()
    assert logits.grad is not None
    return {"mask": mask, "images": images, "labels": mixed.labels, "loss": loss.detach(), "gradient": logits.grad}


def test_step_matches_the_cpu() -> None:
    on_cpu, on_gpu = step("cpu"), step("cuda")
    for name, value in on_gpu.items():
        assert value.is_cuda, name
        torch.testing.assert_close(value.cpu(), on_cpu[name], atol=2e-5, rtol=1e-5, msg=name)


def test_teacher_follows_on_the_gpu() -> None:
    student = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).cuda()
    teacher = EMATeacher(student, buffers="ema")
    for _ in range(3):
        with torch.no_grad():
            student.state_dict()["0.weight"].add_(1.0)
        teacher.update(student)
    mine, theirs = teacher.module.state_dict()["0.weight"], student.state_dict()["0.weight"]
    assert mine.is_cuda
    torch.testing.assert_close(theirs - mine, torch.ones_like(mine))
