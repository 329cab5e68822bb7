"""``report.html``: one file that says everything about a run, readable with no network, on a phone and on paper."""

from __future__ import annotations

import base64
import importlib.metadata
import json
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jinja2
import yaml
from markupsafe import Markup

from online_uda.errors import UserError
from online_uda.reports import charts
from online_uda.reports.environment import hide_credentials
from online_uda.reports.frame_log import read_frame_log
from online_uda.reports.run_folder import RunFolder, write_atomically
from online_uda.reports.table import score, signed, verdict
from online_uda.reports.thumbnails import read_pictures

PICTURES = "pictures"
REPORT = "report.html"
_TILES = ("image", "truth", "frozen", "adapted")
_OF_OLDER_VERSIONS: dict[str, Any] = {
    "stream": None, "sources": [], "on_time": None, "rollbacks": 0, "guards": {"events": []}, "sink_failures": [],
    "interrupted": False,
}  # fmt: skip
"""What a summary of an earlier version may lack."""
_HEADINGS = {
    "worst": "Where adapting did worst against frozen",
    "best": "Where adapting did best against frozen",
    "agreement": "Where the two networks agree least",
    "confidence": "Where the adapted network is least sure",
}


def write_report(folder: Path, summary: Mapping[str, Any] | None = None) -> Path:
    """Writes ``report.html`` of a run.

    Args:
        folder: Of the run.
        summary: Of the run; None reads ``summary.json``.

    Returns:
        The file.

    Raises:
        UserError: No run folder, or a run that has no summary yet.
    """
    run = RunFolder(folder)
    summary = read_summary(folder) if summary is None else summary
    path = folder / REPORT
    write_atomically(path, _render("report.html.j2", **_contents(run, summary)))
    return path


def read_summary(folder: Path) -> dict[str, Any]:
    """``summary.json`` of a run folder.

    Raises:
        UserError: There is none, or it is no summary.
    """
    path = folder / "summary.json"
    if not folder.is_dir():
        raise UserError(f"{folder}: no such run folder")
    if not path.is_file():
        left = "a run that has not ended: continue it with --resume" if (folder / "config.yaml").is_file() else "no run"
        raise UserError(f"{folder}: has no summary.json; it is {left}")
    try:
        summary = json.loads(path.read_text(encoding="utf-8"))
        summary["schema"], summary["visits"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: is damaged: {error}") from None
    if not str(summary["schema"]).startswith("online_uda.summary/"):
        raise UserError(f"{path}: not the summary of a run, but {summary['schema']!r}")
    return {**_OF_OLDER_VERSIONS, **summary}


def _contents(run: RunFolder, summary: Mapping[str, Any]) -> dict[str, Any]:
    log = read_frame_log(run.frames)
    on_time = summary.get("on_time") or {}
    figures: dict[str, Any] = {}
    if len(log):
        figures["timeline"] = charts.both(partial(charts.timeline, log, summary))
        figures["latency"] = charts.both(partial(charts.latency, log, on_time.get("budget_ms")))
    if summary["per_class"]:
        figures["classes"] = charts.both(partial(charts.per_class, summary["per_class"]))
    environments = [_read_json(path) for path in sorted(run.path.glob("environment*.json"))]
    return {
        "title": f"{summary['schedule']} · {summary['method']}",
        "summary": summary,
        "verdict": verdict(dict(summary)),
        "figures": {name: {size: Markup(svg) for size, svg in pair.items()} for name, pair in figures.items()},
        "pictures": _pictures(run.path / PICTURES),
        "config": _config(run),
        "environments": [environment for environment in environments if environment],
        "facts": _facts(summary),
        "version": importlib.metadata.version("online_uda"),
    }


def _pictures(folder: Path) -> list[dict[str, Any]]:
    """Groups of kept frames, worst first, every tile as a data address."""
    rows = read_pictures(folder)
    groups = []
    for kind, heading in _HEADINGS.items():
        frames = []
        for row in sorted((row for row in rows if row["kind"] == kind), key=lambda row: row["key"]):
            tiles = [
                (name, _data_address(folder / Path(row["files"][name]).name)) for name in _TILES if name in row["files"]
            ]
            frames.append({**row, "tiles": tiles})
        if frames:
            groups.append({"heading": heading, "frames": frames})
    return groups


def _data_address(path: Path) -> str:
    kind = "jpeg" if path.suffix == ".jpg" else "png"
    return f"data:image/{kind};base64,{base64.b64encode(path.read_bytes()).decode()}"


def _config(run: RunFolder) -> str:
    try:
        return hide_credentials(yaml.safe_dump(run.read_config(), sort_keys=False, allow_unicode=True, width=100))
    except (OSError, UserError):
        return ""


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def _facts(summary: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Headline figures: a label and a value each."""
    facts = []
    if summary["hmean"] is not None:
        facts += [
            ("adapted", f"{score(summary['hmean'])} %"),
            ("frozen", f"{score(summary['hmean_frozen'])} %"),
            ("difference", f"{signed(summary['hmean_delta'])} points"),
            ("worst visit against frozen", f"{signed(summary['harm']['worst_visit_gain'])} points"),
        ]
    else:
        compared = [visit["agreement"] for visit in summary["visits"] if visit["agreement"] is not None]
        if compared:
            facts.append(("agreement with frozen", f"{sum(compared) / len(compared):.1f} %"))
    facts += [
        ("frames", f"{summary['frames']:,}"),
        ("updates", f"{summary['updates']:,}"),
        ("rollbacks", f"{summary['rollbacks']:,}"),
    ]
    frame = summary["latency_ms"]["frame"]
    if frame["p50"] is not None:
        facts.append(("frame p50 / p99", f"{frame['p50']:.0f} / {frame['p99']:.0f} ms"))
    if summary.get("deadline_miss_rate") is not None:
        facts.append(("deadlines missed", f"{100 * summary['deadline_miss_rate']:.2f} %"))
    if summary.get("peak_memory_mb") is not None:
        facts.append(("peak memory", f"{summary['peak_memory_mb']:.0f} MiB"))
    if summary.get("peak_cuda_memory_mb"):
        facts.append(("peak GPU memory", f"{summary['peak_cuda_memory_mb']:.0f} MiB"))
    return facts


def write_comparison(folders: Sequence[Path], out: Path) -> Path:
    """Writes one page that sets runs beside each other.

    Args:
        folders: Of the runs, two or more.
        out: The file to write; its folder exists.

    Raises:
        UserError: A folder is no finished run, or the file cannot be written.
    """
    runs = [(folder.name or str(folder), read_summary(folder)) for folder in folders]
    names = [name for name, _ in runs]
    if len(set(names)) < len(names):
        runs = [(str(folder), summary) for folder, (_, summary) in zip(folders, runs, strict=True)]
    columns = [[visit["domain"] for visit in summary["visits"]] for _, summary in runs]
    same = all(column == columns[0] for column in columns)
    scored = [(name, summary["visits"]) for name, summary in runs if summary["hmean"] is not None]
    figure = charts.both(partial(charts.gains, scored)) if scored and same else None
    page = _render(
        "compare.html.j2", title="Comparison of runs", runs=runs, same=same, domains=columns[0],
        figure=figure and {size: Markup(svg) for size, svg in figure.items()},
        version=importlib.metadata.version("online_uda"),
    )  # fmt: skip
    try:
        write_atomically(out, page)
    except OSError as error:
        raise UserError(f"{out}: cannot be written: {error.strerror}") from None
    return out


def _render(template: str, **contents: Any) -> str:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"), autoescape=True,
        undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    environment.filters.update(score=score, signed=signed)
    return environment.get_template(template).render(**contents)


class HtmlSink:
    """Writes the report when the run ends; stands behind the sinks whose files it reads.

    Args:
        folder: Of the run.
    """

    name = "html"

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __enter__(self) -> HtmlSink:
        return self

    def write(self, record: Any) -> None:
        """Nothing to keep: the frames stand in ``frames.jsonl``."""

    def finish(self, summary: dict[str, Any]) -> None:
        """Write the report."""
        write_report(self._folder, summary)

    def __exit__(self, *_: object) -> None:
        pass
