"""What every test shares: one thread, and small trees of frames that are written to disk."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"):
    os.environ.setdefault(_name, "1")  # before numpy, torch and numba are imported

import numpy as np  # noqa: E402
import pytest  # noqa: E402
from PIL import Image  # noqa: E402

FolderMaker = Callable[..., Path]


@pytest.fixture(autouse=True)
def _one_torch_thread() -> None:
    """Results do not depend on the cores of the machine; torch is not imported for tests that do without it."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.get_num_threads() != 1:
        torch.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def _no_wait_for_the_disk() -> Iterator[None]:
    """A test outlives no power cut: what runs write for keeps reaches the disk some time later."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda handle: None)
        yield


@pytest.fixture(scope="module", autouse=True)
def _freeze_what_is_imported() -> None:
    """Puts modules out of the garbage collector's sight: runs collect, and past half a million objects that is slow."""
    gc.collect()
    gc.freeze()


@pytest.fixture
def make_folder(tmp_path: Path) -> FolderMaker:
    """Writes a folder of frames: ``make_folder(name, count=6, size=(32, 48), classes=11, labels=True, seed=0)``.

    Images are smooth and differ from each other; labels are blocks of random ids below `classes` with a border of 255.
    Names run from ``frame_1`` on, so that text order and natural order differ from ten frames on.
    """

    def make(
        name: str = "frames",
        count: int = 6,
        size: tuple[int, int] = (32, 48),
        classes: int = 11,
        labels: bool = True,
        seed: int = 0,
    ) -> Path:
        root = tmp_path / name
        (root / "images").mkdir(parents=True)
        generator = np.random.default_rng(seed)
        height, width = size
        for index in range(1, count + 1):
            coarse = generator.integers(0, 256, (4, 4, 3), np.uint8)
            image = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
            image.save(root / "images" / f"frame_{index}.png")
            if labels:
                (root / "labels").mkdir(exist_ok=True)
                ids = generator.integers(0, classes, (4, 4), np.uint8)
                label = np.array(Image.fromarray(ids).resize((width, height), Image.Resampling.NEAREST))
                label[0] = 255
                Image.fromarray(label).save(root / "labels" / f"frame_{index}.png")
        return root

    return make


@pytest.fixture
def labelled_folder(make_folder: FolderMaker) -> Path:
    """Six labelled frames of 32 x 48 in the classes of CamVid."""
    return make_folder()
