"""Where frames come from: one file a source."""

from streams.sources.folder import FolderImages, FolderSource, scan_folder
from streams.sources.images import FrameFault
from streams.sources.town import TownSource

__all__ = ["FolderImages", "FolderSource", "FrameFault", "TownSource", "scan_folder"]
