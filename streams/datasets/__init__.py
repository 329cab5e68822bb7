"""Readers of published data sets in the layouts of their authors: one file each, one interface (`base.py`)."""

from streams.datasets.base import DatasetSettings, Listing, Sample
from streams.datasets.registry import DATASETS, DatasetKeys, looks_like_spec, parse_spec, recognise
from streams.datasets.source import DatasetImages, DatasetSource, check_listing

__all__ = [
    "DATASETS", "DatasetImages", "DatasetKeys", "DatasetSettings", "DatasetSource", "Listing", "Sample",
    "check_listing", "looks_like_spec", "parse_spec", "recognise",
]  # fmt: skip
