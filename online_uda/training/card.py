"""The model card beside a trained network: what it is, how it was made, what it scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from online_uda.networks.architecture import AnyConfig, title


def model_card(config: AnyConfig, class_names: Sequence[str], record: Mapping[str, Any]) -> str:
    """Markdown text.

    Args:
        config: Sizes of the network.
        class_names: In id order.
        record: The provenance in config.json: commands, seed, iterations, scores, date, machine, versions.
    """
    height, width = record["size"]
    absent = [name for name in class_names if name not in record["val_iou"]]
    start = "random weights (nothing pretrained)" if record["start"] is None else f"`{record['start']}`"
    rows = [f"| {name} | {iou:.1f} |" for name, iou in record["val_iou"].items()]
    lines = [
        f"# {title(config)}",
        "",
        f"Trained from {start} on images of `{record['data']}` at {width}x{height}.",
        "",
        "| what | value |",
        "|---|---|",
        *(f"| command from step {part['from_step']} | `{part['command']}` |" for part in record["commands"]),
        f"| seed, steps | {record['seed']}, {record['iterations']} |",
        f"| date, machine | {record['date']}, {record['machine']} |",
        f"| versions | Python {record['python']}, torch {record['torch']} |",
        f"| mIoU on {record['val_images']} unseen images, classes that occur | {record['val_miou']:.2f} |",
        f"| pixels on which the light head agrees with the main head | {record['light_agreement']:.2f} % |",
        "",
        "Input: RGB / 255, ImageNet mean and standard deviation, any size; logits at stride 4. The light head on",
        "stage 1 was trained last with everything else frozen. Weights are stored as float16.",
        "",
        "| class | IoU |",
        "|---|---|",
        *rows,
    ]
    if absent:
        lines += ["", f"Not in the validation images: {', '.join(absent)}."]
    return "\n".join(lines) + "\n"
