"""Forward passes of our SegFormers against those of transformers: one process, in turns, eager.

    python -m benchmarks.mit_speed --out docs/benchmarks/mit_speed

Processor time on a CPU, so that other work on the machine counts less; wall time on a GPU (``--device cuda``). The
ratio is that of the fastest laps: above 1, ours is faster.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from online_uda.networks.mit import MIT_VARIANTS
from online_uda.networks.segmenter import build_segformer, segformer_config

CLASSES = 19


def reference(variant: str, device: torch.device) -> Callable[[torch.Tensor], torch.Tensor]:
    """The network of transformers of the same sizes."""
    from transformers import SegformerConfig, SegformerForSemanticSegmentation

    ours, sizes = segformer_config(variant, CLASSES), MIT_VARIANTS[variant]
    config = SegformerConfig(
        hidden_sizes=list(sizes.widths), depths=list(sizes.depths), num_attention_heads=list(sizes.heads),
        sr_ratios=[8, 4, 2, 1], decoder_hidden_size=ours.head_width, num_labels=CLASSES,
    )  # fmt: skip
    network = SegformerForSemanticSegmentation(config).eval().to(device)
    return lambda frames: network(pixel_values=frames).logits


def lap_ms(run: Callable[[], Any], device: torch.device) -> float:
    """Milliseconds of one call."""
    if device.type == "cuda":
        torch.cuda.synchronize()
        started = time.perf_counter()
        run()
        torch.cuda.synchronize()
        return 1000.0 * (time.perf_counter() - started)
    started = time.process_time()
    run()
    return 1000.0 * (time.process_time() - started)


@torch.inference_mode()
def measure(variant: str, size: tuple[int, int], laps: int, device: torch.device) -> dict[str, Any]:
    """Fastest laps of both."""
    torch.manual_seed(0)
    ours = build_segformer(segformer_config(variant, CLASSES)).eval().to(device)
    theirs = reference(variant, device)
    frames = torch.rand(1, 3, *size, device=device)
    normalised = ours.normalise(frames)[0]
    runs = {"ours_ms": lambda: ours(frames).logits, "transformers_ms": lambda: theirs(normalised)}
    assert runs["ours_ms"]().shape == runs["transformers_ms"]().shape
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(laps):
        for name, run in runs.items():
            times[name].append(lap_ms(run, device))
    row = {"variant": variant, **{name: min(found) for name, found in times.items()}}
    return {**row, "ratio": row["transformers_ms"] / row["ours_ms"]}


def main() -> None:
    """Measures and writes ``OUT.json`` and ``OUT.md``."""
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument("--out", type=Path, default=Path("docs/benchmarks/mit_speed"))
    flags.add_argument("--variants", nargs="*", default=sorted(MIT_VARIANTS))
    flags.add_argument("--size", nargs=2, type=int, default=(256, 512), metavar=("H", "W"))
    flags.add_argument("--laps", type=int, default=5)
    flags.add_argument("--device", type=torch.device, default=torch.device("cpu"))
    arguments = flags.parse_args()
    torch.set_num_threads(1)
    size = (arguments.size[0], arguments.size[1])
    rows = []
    for variant in arguments.variants:
        rows.append(measure(variant, size, arguments.laps, arguments.device))
        print(json.dumps(rows[-1]), flush=True)
    import transformers

    machine = (
        f"{platform.machine()}, {os.cpu_count()} CPU cores, torch {torch.__version__}, "
        f"transformers {transformers.__version__}, one thread"
    )
    lines = ["| | ours ms | transformers ms | ratio |", "|---|---|---|---|"]
    lines += [
        f"| {row['variant']} | {row['ours_ms']:.0f} | {row['transformers_ms']:.0f} | {row['ratio']:.2f} |"
        for row in rows
    ]
    timed = f"on {arguments.device}, fastest of {arguments.laps} laps in turns"
    note = f"{machine}; {size[1]}x{size[0]}, fp32, eager, {timed}."
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    result = {"machine": machine, "size": list(size), "laps": arguments.laps, "rows": rows}
    arguments.out.with_suffix(".json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    text = "\n".join(lines)
    arguments.out.with_suffix(".md").write_text(f"# SegFormer against transformers\n\n{note}\n\n{text}\n", "utf-8")


if __name__ == "__main__":
    main()
