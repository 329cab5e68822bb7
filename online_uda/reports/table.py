"""The summary as text for people: a table of the visits, the figures that matter, and one sentence."""

from __future__ import annotations

from typing import Any, TypeAlias

Row: TypeAlias = tuple[str, ...]

_GREEN, _RED, _PLAIN = "\033[32m", "\033[31m", "\033[0m"
_NOTICED = 0.05
_MATTERS = 0.5


def score(value: float | None) -> str:
    """A score with one decimal, a dash where unknown."""
    return "–" if value is None else f"{value:.1f}"


def signed(value: float | None) -> str:
    """A difference with its sign; what rounds to zero has none."""
    if value is None:
        return "–"
    return "0.0" if abs(value) < _NOTICED else f"{value:+.1f}"


def summary_table(summary: dict[str, Any], colour: bool = False) -> str:
    """Format a summary (schema ``online_uda.summary/1``) as a table with the verdict as its last line.

    Args:
        summary: The summary, as built or as read back from ``summary.json``.
        colour: Paint the differences green and red with terminal codes.
    """
    title = ("visit", "domain", "frames", "frozen", "adapted", "diff", "updates")
    visits: list[Row] = [
        (
            str(visit["visit"] + 1), visit["domain"], str(visit["frames"]), score(visit["miou_frozen"]),
            score(visit["miou"]), signed(visit["gain"]), str(visit["updates"]),
        )
        for visit in summary["visits"]
    ]  # fmt: skip
    head = (
        f"{summary['schedule']}, method {summary['method']}, network {summary['network']}, seed {summary['seed']}: "
        f"mIoU in percent over {summary['frames']} frames"
    )
    table = _aligned([title], visits, _means(summary), colour=colour)
    return "\n".join([head, "", *table, "", *_facts(summary), "", verdict(summary)])


def _means(summary: dict[str, Any]) -> list[Row]:
    forward, backward = summary["forward"], summary["backward"]
    lines = [("harmonic mean", summary["hmean_frozen"], summary["hmean"])]
    if backward["domains"]:
        lines += [
            ("  first visits", forward["hmean_frozen"], forward["hmean"]),
            ("  second visits", backward["hmean_frozen"], backward["hmean"]),
        ]
    lines.append(("mean", summary["mean_frozen"], summary["mean"]))
    if summary["worst"]:
        lines.append(("worst visit", summary["worst_frozen"]["miou_frozen"], summary["worst"]["miou"]))
    rows: list[Row] = [("", label, "", score(a), score(b), signed(_minus(b, a)), "") for label, a, b in lines]
    home = summary["last_minus_first"]
    if home:
        gain = signed(_minus(home["adapted"], home["frozen"]))
        label = f"last - first {home['domain']}"
        rows.append(("", label, "", signed(home["frozen"]), signed(home["adapted"]), gain, ""))
    return rows


def _minus(a: float | None, b: float | None) -> float | None:
    return None if a is None or b is None else a - b


def _aligned(*blocks: list[Row], colour: bool) -> list[str]:
    """Lines of the blocks in common columns, with rules between blocks; the second column is text, the rest figures."""
    widths = [max(len(row[i]) for block in blocks for row in block) for i in range(len(blocks[0][0]))]
    rule = "-" * (sum(widths) + 2 * (len(widths) - 1))
    lines = []
    for block in blocks:
        if block is not blocks[0]:
            lines.append(rule)
        for row in block:
            cells = [row[i].ljust(width) if i == 1 else row[i].rjust(width) for i, width in enumerate(widths)]
            if colour and row[5][:1] in ("+", "-"):
                cells[5] = (_GREEN if row[5][0] == "+" else _RED) + cells[5] + _PLAIN
            lines.append("  ".join(cells).rstrip())
    return lines


def _facts(summary: dict[str, Any]) -> list[str]:
    scoring = "a frame is scored before anything is learned from it; one confusion matrix a visit;"
    if summary.get("on_time"):
        scoring = "a frame is scored by the mask at hand at its deadline; one confusion matrix a visit;"
    facts = [
        ("scoring", scoring),
        ("", "harmonic mean = n / sum(1 / mIoU) over the visits with labels"),
        ("detected", _detected(summary)),
    ]
    harm = summary["harm"]
    if harm["frame_share"] is not None:
        share = f"{100 * harm['frame_share']:.1f} % of the frames, {100 * harm['visit_share']:.0f} % of the visits"
        facts.append(("harm", f"more than {harm['margin']:g} point below frozen: {share};"))
        facts.append(("", f"at most {score(harm['max_drawdown'])} below over {harm['drawdown_window']} frames"))
    for stage, values in summary["latency_ms"].items():
        if values["p50"] is not None:
            figures = ", ".join(f"{key} {values[key]:.1f}" for key in ("p50", "p95", "p99", "max"))
            facts.append((f"{stage} ms", figures))
    facts += _on_time_facts(summary) + _stream_facts(summary)
    if summary.get("peak_memory_mb") is not None:
        facts.append(("memory", f"peak {summary['peak_memory_mb']:.0f} MiB"))
    if summary["faults"]:
        facts.append(("faults", f"{summary['faults']} frames could not be used and were never learned from"))
    if summary["guards"]["actions"]:
        kinds = ", ".join(f"{name} {count}" for name, count in summary["guards"]["actions"].items())
        causes = ", ".join(f"{name} {count}" for name, count in summary["guards"]["causes"].items())
        facts.append(("guards", f"{kinds} ({causes})"))
    for failure in summary.get("sink_failures", ()):
        facts.append(("report", f"{failure['sink']} failed at frame {failure['frame']}: {failure['error']}"))
    width = max(len(name) for name, _ in facts)
    return [f"{name:<{width}}  {text}" for name, text in facts]


def _detected(summary: dict[str, Any]) -> str:
    """What the method announced, against the true changes where these are known."""
    if summary.get("stream"):
        number = len(summary["detections"])
        return f"{number} change{'' if number == 1 else 's'}; what has changed in truth is not known"
    found = summary["detection"]
    changes = f"{found['found']} of {len(summary['boundaries'])} changes"
    if found["median_delay"] is not None:
        changes += f", median delay {found['median_delay']:g} frames"
    return f"{changes}; {len(found['false_alarms'])} false alarms"


def _stream_facts(summary: dict[str, Any]) -> list[tuple[str, str]]:
    """What a live stream adds."""
    stream = summary.get("stream")
    if not stream or not stream["live"]:
        return []
    lost = f"lost {stream['outages']} times for {stream['outage_s']:.1f} s, reconnected {stream['reconnects']} times"
    return [("stream", f"{stream['received']} pictures received, {stream['dropped']} dropped for newer ones; {lost}")]


def _on_time_facts(summary: dict[str, Any]) -> list[tuple[str, str]]:
    """What a stream that does not wait adds."""
    timing = summary.get("on_time")
    if not timing:
        return []
    clock = "" if timing["clock"] == "real" else f", on the clock of {timing['clock']}"
    missed = f"{100 * summary['deadline_miss_rate']:.2f} % of the masks missed their deadline, {timing['late']} late"
    stale = "" if summary["staleness"] is None else f", {summary['staleness']:.1f} frames answered meanwhile"
    return [
        (
            "on time",
            f"{timing['fps']:g} frames/s, {timing['budget_ms']:g} ms a mask, learning {timing['learn']}{clock};",
        ),
        ("", f"{missed} and {summary['dropped']} dropped; streaming mIoU {score(summary['streaming_miou'])}"),
        ("learned", f"from {100 * summary['adapted_ratio']:.1f} % of the frames{stale};"),
        (
            "",
            f"{timing['shortened']} steps shortened, {timing['skipped']} skipped, {timing['given_up']} given up",
        ),
    ]


def verdict(summary: dict[str, Any]) -> str:
    """One sentence: did adapting help, and did it ever hurt?"""
    gain = summary["hmean_delta"]
    if gain is None:
        return f"Without labels there is no score; {summary['updates']} updates on {summary['frames']} frames."
    if not summary["updates"] and abs(gain) < _NOTICED:
        return f"Nothing was learned: {summary['hmean']:.1f} is the score of the frozen network."
    opening = "Adapting changed little"
    if abs(gain) >= _MATTERS:
        opening = f"Adapting {'helped' if gain > 0 else 'hurt'} by {abs(gain):.1f} points"
    harmed = [visit for visit in summary["visits"] if visit["gain"] is not None and visit["gain"] < -1.0]
    closing = "no visit fell more than 1 point below frozen"
    if harmed:
        low = min(harmed, key=lambda visit: visit["gain"])
        visits = "1 visit" if len(harmed) == 1 else f"{len(harmed)} visits"
        closing = f"{visits} fell more than 1 point below frozen, {low['domain']} by {-low['gain']:.1f}"
    scores = f"{summary['hmean']:.1f} against {summary['hmean_frozen']:.1f} frozen, harmonic mean over visits"
    return f"{opening} ({scores}); {closing}."
