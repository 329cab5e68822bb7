"""Names and descriptions of the registered networks, apart from torch: flags are checked before it is imported."""

from __future__ import annotations

DEFAULT_NETWORK = "segformer_b0_town"

NETWORK_DESCRIPTIONS: dict[str, str] = {
    DEFAULT_NETWORK: "SegFormer MiT-B0 trained on the built-in town, 19 classes (the default)",
    **{f"segformer_b{size}": f"SegFormer MiT-B{size} with random weights, to be trained" for size in range(6)},
}
