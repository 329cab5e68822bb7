"""The built-in town: an endless, seeded street world with labels and metric depth, and no download."""

from streams.city.camera import Pose
from streams.city.dataset import TownImages
from streams.city.drive import SPLITS, Drive

__all__ = ["SPLITS", "Drive", "Pose", "TownImages"]
