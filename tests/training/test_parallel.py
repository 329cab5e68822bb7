"""Processes that average tensors, and that read images ahead."""

from __future__ import annotations

import os

import numpy as np
import pytest
import torch

from online_uda.training.parallel import Team
from online_uda.training.read_ahead import ReadAhead
from streams.errors import StreamError
from streams.frame import LabelledImage, LabelledSet


def test_members_see_the_mean_of_all() -> None:
    team = Team(members=3, numbers=7)

    def work() -> None:
        small, large = torch.full((3,), float(team.rank)), torch.arange(4.0).view(2, 2) * team.rank
        team.average([small, large])
        team.average([small])  # the mean of equal numbers: what every member got before
        team.average([small[:1] + team.rank])

    team.start(work)
    small, large = torch.zeros(3), torch.zeros(2, 2)
    team.average([small, large])
    assert small.tolist() == [1.0, 1.0, 1.0]
    assert torch.equal(large, torch.arange(4.0).view(2, 2))
    team.average([small])
    assert small.tolist() == [1.0, 1.0, 1.0]
    last = small[:1] + team.rank
    team.average([last])
    assert last.item() == 2.0
    team.close()


def test_one_member_keeps_its_tensors() -> None:
    tensor = torch.rand(4)
    before = tensor.clone()
    Team().average([tensor])
    assert torch.equal(tensor, before)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_member_that_fails_ends_the_others() -> None:
    team = Team(members=2, numbers=1)

    def work() -> None:
        os.close(2)  # its traceback is not for the test log
        raise ValueError

    team.start(work)
    with pytest.raises(RuntimeError, match="another training process has died"):
        team.average([torch.zeros(1)])
    team.close()


def test_closing_ends_members_that_wait() -> None:
    team = Team(members=2, numbers=1)
    team.start(lambda: team.average([torch.zeros(1)]))
    process = team._others[0]
    team.close()
    assert not process.is_alive()


def test_read_ahead_gives_the_items_in_order(blocks: LabelledSet) -> None:
    order = [7, 0, 3, 3, 19, 1, 2, 4, 5]
    with ReadAhead(blocks, order, processes=2) as ahead:
        assert len(ahead) == len(order)
        assert ahead.classes is blocks.classes
        for position, index in enumerate(order):
            item = ahead[position]
            assert np.array_equal(item.image, blocks[index].image)
            assert np.array_equal(item.label, blocks[index].label)


def test_read_ahead_does_not_jump(blocks: LabelledSet) -> None:
    with ReadAhead(blocks, [0, 1, 2], processes=1) as ahead, pytest.raises(IndexError, match="item 0 comes next"):
        ahead[1]


def test_an_error_while_reading_reaches_the_caller(blocks: LabelledSet) -> None:
    class Broken:
        classes = blocks.classes

        def __len__(self) -> int:
            return 2

        def __getitem__(self, index: int) -> LabelledImage:
            raise StreamError(f"image {index} cannot be read")

    with ReadAhead(Broken(), [1], processes=1) as ahead, pytest.raises(StreamError, match="image 1 cannot be read"):
        ahead[0]
