"""report.html: it says what the run's files say, needs nothing else, and fits a phone."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from online_uda.report import main as report
from online_uda.reports.frame_log import read_frame_log, smoothed, thinned
from online_uda.reports.record import FrameImages, FrameRecord
from online_uda.reports.thumbnails import KEPT, ThumbnailSink, read_pictures
from tests.browser import chromium, opened
from tests.run_kit import summary_of, write_kit

Paths = tuple[Path, Path]


class Strict(HTMLParser):
    """Collects cells of tables and addresses; fails at tags that close out of order."""

    VOID = ("meta", "link", "img", "br")

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.rows: list[list[str]] = []
        self.addresses: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.addresses += [value or "" for key, value in attrs if key in ("src", "href") and tag not in ("use", "a")]
        if tag not in self.VOID:
            self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th") and self.rows:
            self.rows[-1].append("")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        pass

    def handle_endtag(self, tag: str) -> None:
        assert self.open
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.rows and self.rows[-1] and {"td", "th"} & set(self.open):
            self.rows[-1][-1] += data.strip()


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Paths:
    """Two finished runs with reports: tent and frozen on the kit's storm."""
    from PIL import Image

    root = tmp_path_factory.mktemp("runs")

    def make(name: str, count: int = 6, size: tuple[int, int] = (32, 48), seed: int = 0) -> Path:
        generator = np.random.default_rng(seed)
        for part in ("images", "labels"):
            (root / name / part).mkdir(parents=True)
        for index in range(count):
            Image.fromarray(generator.integers(0, 256, (*size, 3), np.uint8)).save(
                root / name / "images" / f"{index}.png"
            )
            Image.fromarray(generator.integers(0, 11, size, np.uint8)).save(root / name / "labels" / f"{index}.png")
        return root / name

    kit = write_kit(root, make)
    (root / "day" / "images" / "3.png").write_bytes(b"broken <script>alert(1)</script>")
    return (
        kit.run("run.report=true", "anchor.pull=0", "optimizer.learning_rate=0.01", out="adapted"),
        kit.run("run.report=true", method="frozen", out="frozen"),
    )


def test_it_says_what_the_summary_says(runs: Paths) -> None:
    page = (runs[0] / "report.html").read_text()
    parser = Strict()
    parser.feed(page)
    assert parser.open == []
    summary = summary_of(runs[0])
    rows = {tuple(row[:2]): row[2:] for row in parser.rows if len(row) == 8}
    for visit in summary["visits"]:
        row = rows[(str(visit["visit"] + 1), visit["domain"])]
        assert row[:2] == [f"{visit['miou']:.1f}", f"{visit['miou_frozen']:.1f}"]
        assert row[4:] == [str(visit["updates"]), str(visit["frames"])]
    assert {row[0] for row in parser.rows} >= set(summary["per_class"])
    assert "2 frames could not be used" in page
    assert "run_stream.py" in page or "pytest" in page
    assert page.count("<svg") == 6


def test_it_needs_nothing_else(runs: Paths) -> None:
    page = (runs[0] / "report.html").read_text()
    parser = Strict()
    parser.feed(page)
    assert parser.addresses
    assert all(address.startswith("data:") for address in parser.addresses)
    assert not re.search(r"@import|url\(\s*['\"]?http|<script", page)
    pictures = read_pictures(runs[0] / "pictures")
    assert {row["kind"] for row in pictures} == {"worst", "best"}
    assert all(set(row["files"]) == {"image", "truth", "frozen", "adapted"} for row in pictures)


def test_made_again_it_is_the_same(runs: Paths, capsys: pytest.CaptureFixture[str]) -> None:
    before = (runs[0] / "report.html").read_text()
    assert report([str(runs[0])]) == 0
    assert capsys.readouterr().out.strip() == str(runs[0] / "report.html")
    assert (runs[0] / "report.html").read_text() == before


def test_comparison(runs: Paths, tmp_path: Path) -> None:
    out = tmp_path / "compare.html"
    assert report(["compare", *map(str, runs), "--out", str(out)]) == 0
    parser = Strict()
    parser.feed(out.read_text())
    assert parser.open == []
    for run in runs:
        summary = summary_of(run)
        row = next(row for row in parser.rows if row[0] == run.name)
        assert row[6:8] == [f"{summary['hmean']:.1f}", f"{summary['hmean_frozen']:.1f}"]


def test_refused_in_one_line(runs: Paths, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "summary.json").write_text('{"schema": 3}')
    (tmp_path / "empty").mkdir()
    for words, says in (
        (["none"], "no such run folder"),
        ([str(tmp_path / "empty")], "has no summary.json; it is no run"),
        ([str(tmp_path / "broken")], "is damaged"),
        (["compare", str(runs[0])], "give two runs or more"),
        (["compare", str(runs[0]), str(runs[1]), "--out", str(tmp_path / "no" / "x.html")], "no such folder"),
    ):
        assert report(words) == 2
        error = capsys.readouterr().err
        assert says in error
        assert len(error.splitlines()) == 1


@pytest.mark.parametrize("width", [390, 1280])
def test_in_a_browser(runs: Paths, width: int) -> None:
    with chromium() as browser:
        page, faults = opened(browser, f"file://{runs[0] / 'report.html'}", width)
        assert faults == []
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        shown = [chart.is_visible() for chart in page.query_selector_all("svg")]
        assert sum(shown) == 3
        assert all(page.evaluate("[...document.images].map(i => i.complete && i.naturalWidth > 0)"))


def record(frame: int, gain: float | None) -> FrameRecord:
    ids = np.zeros((4, 6), np.uint8)
    scores = {} if gain is None else {"miou": 50.0 + gain, "miou_frozen": 50.0}
    images = FrameImages(np.full((4, 6, 3), frame % 255, np.uint8), ids, ids)
    return FrameRecord(frame, "x", 0, agreement=50.0 + frame, confidence=90.0 - frame, images=images, **scores)


def test_worst_and_best_are_kept_apart_and_bounded(tmp_path: Path, toy_classes: object) -> None:
    values = np.random.default_rng(0).normal(size=300).tolist()
    with ThumbnailSink(tmp_path / "p", toy_classes) as sink:  # type: ignore[arg-type]
        for frame, gain in enumerate(values):
            sink.write(record(frame, gain))
            if frame % 100 == 99:
                sink.sync()
    rows = read_pictures(tmp_path / "p")
    for kind, extreme in (("worst", min), ("best", max)):
        frames = sorted(row["frame"] for row in rows if row["kind"] == kind)
        assert len(frames) == KEPT
        assert values.index(extreme(values)) in frames
        assert np.diff(frames).min() >= 10
    assert len(list((tmp_path / "p").iterdir())) == 1 + 3 * len({row["frame"] for row in rows})


def test_kept_pictures_survive_a_resume(tmp_path: Path, toy_classes: object) -> None:
    def play(sink: ThumbnailSink, frames: range) -> None:
        with sink:
            for frame in frames:
                sink.write(record(frame, None))
            sink.finish({})

    play(ThumbnailSink(tmp_path / "whole", toy_classes), range(60))  # type: ignore[arg-type]
    play(ThumbnailSink(tmp_path / "parts", toy_classes), range(40))  # type: ignore[arg-type]
    play(ThumbnailSink(tmp_path / "parts", toy_classes, 30), range(30, 60))  # type: ignore[arg-type]
    assert {row["kind"] for row in read_pictures(tmp_path / "whole")} == {"agreement", "confidence"}
    early = [row["frame"] for row in read_pictures(tmp_path / "parts") if row["kind"] == "agreement"]
    assert early == [row["frame"] for row in read_pictures(tmp_path / "whole") if row["kind"] == "agreement"]


def test_frame_log_reads_parts_and_skips_torn_lines(tmp_path: Path) -> None:
    rows = [
        {"frame": i, "miou": 10.0 * i, "updated": i == 1, "guard": [{"action": "rollback"}] * (i == 2)}
        for i in range(4)
    ]
    (tmp_path / "frames.00000000.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows[:2]))
    (tmp_path / "frames.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows[2:]) + '{"frame": 4, "mi')
    log = read_frame_log(tmp_path / "frames.jsonl")
    assert log.frame.tolist() == [0, 1, 2, 3]
    assert log.numbers["miou"].tolist() == [0.0, 10.0, 20.0, 30.0]
    assert np.isnan(log.numbers["signal"]).all()
    assert (log.events["updated"], log.guards) == ([1], [(2, "rollback")])


def test_curves_are_thinned_and_smoothed() -> None:
    y = np.array([1.0, np.nan, 3.0, 5.0, np.nan])
    x, thin = thinned(range(5), y, 3)
    assert (x.tolist(), thin[:2].tolist()) == ([0.5, 2.5, 4.0], [1.0, 4.0])
    assert np.isnan(thin[2])
    assert smoothed(y, 2)[1:].tolist() == [1.0, 3.0, 4.0, 5.0]
