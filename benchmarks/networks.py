"""Sizes and costs of the networks: parameters, multiply-adds, and milliseconds of a prediction and of a step by scope.

    python -m benchmarks.networks --out docs/benchmarks/networks

One thread, one frame of 256 x 512, random weights (which cost what trained ones do), one process. Times are of the
processor, not of the clock on the wall, so that other work on the machine counts less; the smallest of the runs after a
warm-up. A step is forward and backward. Rows that OUT holds already and that are not measured again stay.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from pathlib import Path
from typing import Any

import torch
from torch import nn

from benchmarks.kept_rows import kept
from online_uda.adaptation.scope import scope_parameters, set_trainable
from online_uda.adaptation.settings import ScopeSettings
from online_uda.networks.adapter_layers import AdapterConfig
from online_uda.networks.adapters import insert_adapters
from online_uda.networks.segmenter import Segmenter
from online_uda.networks.spec import NetworkOptions
from online_uda.networks.zoo import load_network
from streams.classes import CITYSCAPES_19

NAMES = (
    "segformer_b0", "segformer_b1", "segformer_b2", "segformer_b3", "segformer_b4", "segformer_b5",
    "mit_b0+daformer", "mit_b0+upernet",
    "timm:mobilenetv3_small_100", "timm:resnet18", "timm:resnet18+deeplabv3plus", "timm:resnet50",
    "timm:efficientnet_b0", "timm:pvt_v2_b0", "timm:convnext_atto", "timm:convnext_tiny",
    "timm:swin_tiny_patch4_window7_224", "timm:swin_base_patch4_window7_224",
    "timm:vit_tiny_patch16_224", "torchvision:lraspp_mobilenet_v3_large", "examples.unet:make",
)  # fmt: skip
SIZE = (256, 512)
SCOPES = ("norm", "head", "last stage", "all", "adapters")


def multiply_adds(network: Segmenter, frames: torch.Tensor) -> int:
    """Multiply-adds of linear layers, convolutions and attention, as torch counts them (a half of its FLOPs)."""
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(frames)
    return int(counter.get_total_flops()) // 2


def learning(network: Segmenter, scope: str) -> list[tuple[str, nn.Parameter]]:
    """What learns in a scope; ``adapters`` inserts LoRA of rank 4."""
    if scope == "last stage":
        settings = ScopeSettings(parameters="suffix", select="fixed", first_module=network.stage_count)
    elif scope == "adapters":
        insert_adapters(network, AdapterConfig("lora", rank=4), seed=0)
        settings = ScopeSettings(parameters="adapters")
    else:
        settings = ScopeSettings.model_validate({"parameters": scope})
    return scope_parameters(network, settings)


def fastest_ms(run: Any, runs: int) -> float:
    """Processor milliseconds: the smallest of ``runs`` after one that warms up."""
    run()
    took = []
    for _ in range(runs):
        started = time.process_time()
        run()
        took.append(time.process_time() - started)
    return 1000.0 * min(took)


def measure(name: str, runs: int) -> dict[str, Any]:
    """All figures of one network."""
    torch.manual_seed(0)
    options = NetworkOptions(init=None if name == "examples.unet:make" else "random")
    network = load_network(name, CITYSCAPES_19, options).network.eval()
    frames = torch.rand(1, 3, *SIZE)

    def predict() -> None:
        with torch.no_grad():
            network(frames)

    def step() -> None:
        network(frames).logits.square().mean().backward()

    row: dict[str, Any] = {
        "network": name,
        "stages": network.stage_count,
        "parameters": sum(parameter.numel() for _, parameter in network.learnable_parameters()),
        "macs": multiply_adds(network, frames),
        "runs": runs,
        "load": round(os.getloadavg()[0], 1),
        "predict_ms": fastest_ms(predict, runs),
    }
    for scope in SCOPES:  # adapters come last: they stay in
        chosen = learning(network, scope)
        everything = list(network.named_parameters())
        row[f"{scope} parameters"] = sum(parameter.numel() for _, parameter in chosen)
        set_trainable(everything, chosen)
        row[f"{scope} step_ms"] = fastest_ms(step, runs) if chosen else None
    return row


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown."""
    steps_of = [f"step ms, {scope}" for scope in SCOPES]
    head = ["network", "stages", "parameters", "MACs", "predict ms", *steps_of, "load"]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for row in rows:
        steps = [row[f"{scope} step_ms"] for scope in SCOPES]
        cells = [f"`{row['network']}`", str(row["stages"]), f"{row['parameters'] / 1e6:.2f} M",
                 f"{row['macs'] / 1e9:.2f} G", f"{row['predict_ms']:.0f}",
                 *("–" if step is None else f"{step:.0f}" for step in steps), 
                 "–" if row["load"] is None else f"{row['load']:.0f}"]  # fmt: skip
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    """Measures and writes ``OUT.json`` and ``OUT.md``."""
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument("--out", type=Path, default=Path("docs/benchmarks/networks"))
    flags.add_argument("--networks", nargs="*", default=list(NAMES))
    flags.add_argument("--runs", type=int, default=3, help="timed runs of each figure (%(default)s)")
    arguments = flags.parse_args()
    torch.set_num_threads(1)
    machine = f"{platform.machine()}, {os.cpu_count()} CPU cores, torch {torch.__version__}, one thread"
    rows = kept(arguments.out.with_suffix(".json"), {"network": arguments.networks})
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    for name in arguments.networks:
        rows.append(measure(name, arguments.runs))
        print(json.dumps(rows[-1]), flush=True)
        write(arguments.out, machine, rows)  # after each: a run that is cut off keeps what it has


def write(out: Path, machine: str, rows: list[dict[str, Any]]) -> None:
    """Writes ``out.json`` and ``out.md``, rows in the order of `NAMES`."""
    place = {name: index for index, name in enumerate(NAMES)}
    rows = sorted(rows, key=lambda row: place.get(row["network"], len(place)))
    result = {"machine": machine, "size": list(SIZE), "rows": rows}
    out.with_suffix(".json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    runs = sorted({row["runs"] for row in rows})
    note = (
        f"{machine}; {SIZE[1]}x{SIZE[0]}; processor time, smallest of {' or '.join(map(str, runs))} runs; load is the "
        f"machine's average over a minute."
    )
    out.with_suffix(".md").write_text(f"# Networks\n\n{note}\n\n{table(rows)}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
