"""The latency benchmark's report for people: Markdown and a plot."""

from __future__ import annotations

from pathlib import Path
from typing import Any

Result = dict[str, Any]


def _times(row: Result) -> str:
    return f"{row['p50_ms']:.1f} | {row['p95_ms']:.1f} | {row['p99_ms']:.1f} | {row['cpu_ms']:.1f}"


def _factor(row: Result) -> str:
    factor = row.get("times_faster")
    return "–" if factor is None else f"{factor:.2f}×"


def title(result: Result) -> str:
    """Network, size and threads of one result."""
    height, width = result["size"]
    threads = f"{result['threads']} thread{'s' if result['threads'] > 1 else ''}"
    return f"{result['network']}, {width}×{height}, {threads} of {result['device']}"


def markdown(report: Result) -> str:
    """Tables: targets first, then everything."""
    machine = report["environment"]
    commit = machine["git"]["commit"][:7] if machine["git"] else "unknown"
    command = " ".join(["python -m benchmarks.latency", *machine["command"][1:]])
    runtime = machine["packages"].get("onnxruntime-gpu") or machine["packages"].get("onnxruntime")
    lines = [
        "# Latency",
        "",
        f"Made by `{command}`. {machine['cpu']}, {machine['cores']} cores, torch {machine['torch']['version']}, ONNX "
        f"Runtime {runtime}, commit {commit}. Milliseconds of wall time, all candidates in turns in one process; CPU "
        "is the median of its CPU time.",
    ]
    for result in report["results"]:
        lines += _case(result)
    return "\n".join([*lines, ""])


def _targets(result: Result) -> list[str]:
    onnx = result["predict"].get("onnxruntime")
    rows = []
    if onnx is not None and onnx["times_faster"] is not None:
        rows.append(("ONNX Runtime's prediction over transformers eager", "≥ 2.2×", _factor(onnx)))
        best = max(result["image_to_mask"].values(), key=lambda row: row["times_faster"])
        name = next(name for name, row in result["image_to_mask"].items() if row is best)
        rows.append((f"image in, full-size mask out, best backend ({name})", "≥ 2.5×", _factor(best)))
    for scope, row in result["publish"].items():
        if row["by_input"]:
            wanted = "≤ 1 ms" if scope == "norm" else "–"
            rows.append((f"publishing {scope}, median", wanted, f"{row['publish']['p50_ms']:.2f} ms"))
        rows.append((f"parity after publishing {scope}", "≤ 1e-4", f"{row['parity']:.0e}"))
    for name, share in result["detect"]["share_of"].items():
        rows.append((f"detector, share of {name}", "≤ 10 %", f"{share:.1%}"))
    return ["| what | target | measured |", "|---|---|---|", *(f"| {a} | {b} | {c} |" for a, b, c in rows)]


def _case(result: Result) -> list[str]:
    before, after = result["load_before"][0], result["load_after"][0]
    load = f"Load of the machine: {before:.1f} before, {after:.1f} after."
    lines = ["", f"## {title(result)}", "", load, "", *_targets(result)]
    head = "| | p50 | p95 | p99 | CPU | times faster | memory, MiB |"
    for what, name in (("predict", "network alone"), ("image_to_mask", "camera image to mask")):
        lines += ["", head.replace("| |", f"| {name} |", 1), "|---|---|---|---|---|---|---|"]
        for backend, row in result[what].items():
            memory = result["memory_mb"].get(backend)
            text = "–" if memory is None else f"{memory:.0f}"
            lines.append(f"| {backend} | {_times(row)} | {_factor(row)} | {text} |")
    short = ["| p50 | p95 | p99 | CPU | times faster |", "|---|---|---|---|---|---|"]
    lines += ["", f"| step {short[0]}", short[1]]
    lines += [f"| {scope} | {_times(row)} | {_factor(row)} |" for scope, row in result["step"].items()]
    lines += ["", f"| other {short[0]}", short[1]]
    lines.append(f"| detector | {_times(result['detect'])} | – |")
    if result["detect"]["quickly"] is not None:
        lines.append(f"| detector, with onnxruntime and bf16 | {_times(result['detect']['quickly'])} | – |")
    for name, row in (result["labels"] or {}).items():
        lines.append(f"| labels at full size, {name} | {_times(row)} | {_factor(row)} |")
    for scope, row in result["publish"].items():
        way = "inputs" if row["by_input"] else "new session"
        lines.append(f"| publish {scope} ({way}) | {_times(row['publish'])} | – |")
        lines.append(f"| predict with {scope} movable | {_times(row['predict'])} | – |")
    return lines


def plot(report: Result, path: Path) -> None:
    """Bars of the way from a camera image to a mask, with whiskers to p99."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    results = report["results"]
    figure, axes = pyplot.subplots(len(results), 1, figsize=(8, 1.9 * len(results) + 0.6), squeeze=False)
    for axis, result in zip(axes[:, 0], results, strict=True):
        rows = result["image_to_mask"]
        middles = [row["p50_ms"] for row in rows.values()]
        tails = [row["p99_ms"] - row["p50_ms"] for row in rows.values()]
        axis.barh(list(rows), middles, xerr=[[0.0] * len(rows), tails], capsize=3, color="#4878a8")
        axis.invert_yaxis()
        axis.set_title(f"{title(result)}: image to mask, p50 with p99", fontsize=9, loc="left")
        axis.set_xlabel("ms")
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    pyplot.close(figure)
