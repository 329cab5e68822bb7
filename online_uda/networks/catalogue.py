"""Names and descriptions of the registered networks, apart from torch: flags are checked before it is imported."""

from __future__ import annotations

DEFAULT_NETWORK = "segformer_b0_town"

NETWORK_DESCRIPTIONS: dict[str, str] = {
    DEFAULT_NETWORK: "SegFormer MiT-B0 trained on the built-in town, 19 classes (the default)",
    **{f"segformer_b{size}": f"SegFormer MiT-B{size}, untrained: needs --init random" for size in range(6)},
}

NETWORK_FORMS: dict[str, str] = {
    "DIR": "a folder: our own format, Hugging Face's SegFormer, or smp's Segformer",
    "FILE.pth": "weights of NVlabs, mmsegmentation, smp (SegFormer) or torchvision (DeepLabV3, LR-ASPP, FCN)",
    "hf:OWNER/NAME": "a SegFormer of the Hugging Face hub, downloaded once",
    "FILE.yaml": "an encoder with a head, described in a file (see configs/networks)",
    "timm:NAME+HEAD": "an encoder of timm with a head: segformer, daformer[.FUSION], upernet, deeplabv3plus",
    "mit_b0+HEAD": "MiT-B0 to B5 with another head",
    "torchvision:NAME": "a segmentation model of torchvision, untrained: needs --init random",
    "MODULE:FUNCTION": "your own code: a function that returns any torch.nn.Module from frames to logits",
    "MODULE:FUNCTION@WEIGHTS": "the same with weights from a folder of online_uda.save, or a file of its state dict",
    "NETWORK@DIR": "any of these with the adapters that online_uda.save --format adapters wrote",
}
"""What else ``--network`` takes, for ``--list networks``."""
