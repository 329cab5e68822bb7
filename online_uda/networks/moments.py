"""Channel moments of a layer's input, and how those of several forward passes become one."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class ChannelMoments(NamedTuple):
    """Mean and variance of every channel.

    Attributes:
        mean: ``(C,)`` float32.
        variance: ``(C,)`` float32, biased.
        values: How many values a channel they are of, up to a factor that all have in common.
    """

    mean: Tensor
    variance: Tensor
    values: float = 1.0

    def joined(self, other: ChannelMoments) -> ChannelMoments:
        """Moments of the values of both (Chan, Golub and LeVeque, 1979)."""
        values = self.values + other.values
        share = other.values / values
        apart = other.mean - self.mean
        variance = (1.0 - share) * self.variance + share * other.variance + share * (1.0 - share) * apart.square()
        return ChannelMoments(self.mean + share * apart, variance, values)
