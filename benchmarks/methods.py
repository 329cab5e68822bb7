"""Methods x schedules x networks x seeds: accuracy, cost, and scores on time, in JSON, Markdown and a plot.

    python -m benchmarks.methods cs2rain --methods frozen tent hamlet default --seeds 0 1 2
    python -m benchmarks.methods quick --methods all --frames 12 --size 128x256 --name methods
    python -m benchmarks.methods quick --methods default tent --rounds 10 --on-time
    python -m benchmarks.methods PATH/dusk.yaml --networks PATH/segformer_b0_camvid_day --source PATH/source_day

Every cell is kept when it is done and not played again, so an interrupted benchmark goes on where it stopped; with
--jobs cells are played in processes of one thread each. Milliseconds are CPU time of the thread that predicts and
learns. --pages writes each row on the method's page. On time (specs/protocols.md 2.2): the camera does not wait, time
is played on a simulated clock from costs that were recorded before, and learning is fitted between frames.
--tensorboard DIR writes a row of the HPARAMS page for every cell: tensorboard --logdir DIR. Writes
docs/benchmarks/NAME.json, NAME.md and NAME.png.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import shlex
import statistics
import sys
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

for _name in ("OMP_NUM_THREADS", "NUMBA_NUM_THREADS"):
    os.environ.setdefault(_name, "1")  # before torch is imported, here and in the processes

from tqdm import tqdm  # noqa: E402

from benchmarks._method_cells import RATES, Cell, play_cell, round_gains  # noqa: E402
from benchmarks._method_pages import write_pages  # noqa: E402
from benchmarks._method_table import markdown, plot  # noqa: E402
from online_uda.config import named_methods  # noqa: E402
from online_uda.reports.environment import describe_environment  # noqa: E402
from online_uda.reports.hparams import settings_of, write_session  # noqa: E402
from online_uda.resolve import resolve  # noqa: E402

ROOT = Path(__file__).resolve().parents[1]
SPREAD = (
    "hmean", "hmean_frozen", "mean", "mean_frozen", "worst", "worst_frozen", "return_gap", "slope", "harmed_frames",
    "predict_ms", "adapt_ms", "frame_ms", "peak_memory_mb",
)  # fmt: skip

SESSION = ("hmean", "worst", "worst_visit_gain", "adapt_ms", "frame_ms", "peak_memory_mb")


def arguments(words: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument("schedules", nargs="+", help="names or files; words with '=' are overrides for every run")
    flags.add_argument("--methods", nargs="+", default=["frozen", "tent", "hamlet", "default"], help="or: all")
    flags.add_argument("--networks", nargs="+", default=[None], help="names or folders (default: the town's)")
    flags.add_argument("--seeds", nargs="+", type=int, default=[0])
    flags.add_argument("--source")
    flags.add_argument("--frames", type=int, help="at most this many of a visit")
    flags.add_argument("--size", help="HEIGHTxWIDTH")
    flags.add_argument("--rounds", type=int, default=1, help="how often each schedule is played in a row")
    flags.add_argument("--on-time", type=float, nargs="*", metavar="FPS", help="also on time (default rates: 5 10 30)")
    flags.add_argument("--record-frames", type=int, default=2, help="frames of a visit in the run that records costs")
    flags.add_argument("--show", action="store_true", help="play nothing: tables of the cells that are there")
    flags.add_argument("--jobs", type=int, default=1, help="processes")
    flags.add_argument("--cells", type=Path, default=ROOT / "runs" / "method_cells", help="where cells are kept")
    flags.add_argument("--tensorboard", type=Path, metavar="DIR", help="a row of its HPARAMS page for every cell")
    flags.add_argument("--pages", action="store_true", help="also write each method's row on its page in docs/methods")
    flags.add_argument("--name", default="methods")
    flags.add_argument("--out", type=Path, default=ROOT / "docs" / "benchmarks")
    return flags.parse_args(words)


def cells_of(options: argparse.Namespace) -> list[Cell]:
    """Every combination that is asked for."""
    overrides = tuple(word for word in options.schedules if "=" in word)
    methods = list(named_methods()) if options.methods == ["all"] else options.methods
    rates = () if options.on_time is None else tuple(options.on_time or RATES)
    return [
        Cell(schedule, network, method, seed, options.source, options.frames, options.size, options.rounds, rates,
             options.record_frames, overrides)
        for schedule in options.schedules if "=" not in schedule
        for network in options.networks
        for method in methods
        for seed in options.seeds
    ]  # fmt: skip


def play_all(cells: list[Cell], folder: Path, jobs: int) -> tuple[list[dict[str, Any]], list[str]]:
    """Results of the cells in order, and a line for each that failed; Ctrl-C keeps those that are done."""
    folder.mkdir(parents=True, exist_ok=True)
    found: dict[Cell, dict[str, Any]] = {}
    failed = []
    with ProcessPoolExecutor(jobs, mp_context=multiprocessing.get_context("spawn")) as pool:
        waiting = {pool.submit(play_cell, cell, folder): cell for cell in cells}
        for done in tqdm(as_completed(waiting), total=len(cells), desc="cells", file=sys.stderr):
            cell = waiting[done]
            try:
                found[cell] = done.result()
            except Exception as error:  # one cell must not cost the others; it is named in the table
                failed.append(f"{cell.schedule} {cell.title} {cell.method} seed {cell.seed}: {error}")
    return [found[cell] for cell in cells if cell in found], failed


def read_all(cells: list[Cell], folder: Path) -> tuple[list[dict[str, Any]], list[str]]:
    """As `play_all`, of the cells that have been played."""
    there = [cell for cell in cells if cell.path(folder).is_file()]
    missing = [
        f"{cell.schedule} {cell.title} {cell.method} seed {cell.seed}: not played"
        for cell in cells
        if cell not in there
    ]
    return [play_cell(cell, folder) for cell in there], missing


def rows_of(results: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """A row for every schedule, network and method: medians over seeds, the worst of any seed for harm."""
    groups: dict[tuple[str, str, str], list[dict[str, Any]]] = {}
    for result in results:
        key = (Path(result["schedule"]).stem, result["title"], Path(result["method"]).stem)
        groups.setdefault(key, []).append(result)
    rows = []
    for (schedule, network, method), group in groups.items():
        row: dict[str, Any] = {"schedule": schedule, "network": network, "method": method, "passes": group[0]["passes"]}
        row |= {key: median([one[key] for one in group]) for key in SPREAD}
        row["gain"] = median([one["hmean"] - one["hmean_frozen"] for one in group])
        row["worst_visit_gain"] = min(one["worst_visit_gain"] for one in group)
        rounds = [gains for one in group if (gains := round_gains(one["visits"]))]
        row["last_round"] = min((gains[-1] for gains in rounds), default=None)
        row["last_half"] = min((statistics.mean(gains[len(gains) // 2 :]) for gains in rounds), default=None)
        row |= {key: group[0][key] for key in ("frames", "size")}
        row["seeds"] = [one["seed"] for one in group]
        row["timed"] = {
            rate: {
                "gain": median([one["timed"][rate]["hmean"] - one["timed"][rate]["hmean_frozen"] for one in group]),
                **{key: median([one["timed"][rate][key] for one in group]) for key in group[0]["timed"][rate]},
            }
            for rate in group[0]["timed"]
        }
        rows.append(row)
    return rows


def write_sessions(cells: list[Cell], cell_folder: Path, folder: Path) -> None:
    """A session of TensorBoard's HPARAMS page for every cell that has been played, in `folder`."""
    for cell in cells:
        path = cell.path(cell_folder)
        if not path.is_file():
            continue
        result = json.loads(path.read_text(encoding="utf-8"))
        plan = resolve(cell.config(), cell.overrides).as_dict()
        settings = {**settings_of(plan, Path(cell.method).stem), "network": cell.title, "rounds": cell.rounds}
        metrics = {key: result[key] for key in SESSION if result[key] is not None}
        write_session(folder / path.stem, settings, {**metrics, "gain": result["hmean"] - result["hmean_frozen"]})


def median(values: list[float | None]) -> float | None:
    """Median of the values that exist; None without any."""
    known = [value for value in values if value is not None]
    return statistics.median(known) if known else None


def main() -> int:
    """Plays what is missing and writes the tables; 1 where a cell failed."""
    options = arguments()
    cells = cells_of(options)
    results, failed = read_all(cells, options.cells) if options.show else play_all(cells, options.cells, options.jobs)
    if options.tensorboard is not None:
        write_sessions(cells, options.cells, options.tensorboard)
    rows = rows_of(results)
    command = shlex.join(["python", "-m", "benchmarks.methods", *sys.argv[1:]])
    environment = describe_environment(sys.argv)
    load = os.getloadavg()[2] if hasattr(os, "getloadavg") else None
    content = {
        "benchmark": "methods", "command": command, "environment": environment, "load_average": load, "rows": rows,
        "cells": results, "failed": failed,
    }  # fmt: skip
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / f"{options.name}.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    text = markdown(content, options.name)
    (options.out / f"{options.name}.md").write_text(text, encoding="utf-8")
    if rows:
        plot(rows, options.out / f"{options.name}.png")
    if options.pages:
        write_pages(rows, ROOT / "docs" / "methods", options.name)
    print(text)
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
