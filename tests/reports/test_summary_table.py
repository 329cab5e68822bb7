"""The final table, word for word, and the verdict's cases."""

from __future__ import annotations

import json

import pytest

from online_uda.reports.table import summary_table, verdict

SNAPSHOT = """\
toy, method tent, network tiny, seed 0: mIoU in percent over 30 frames

visit  domain              frames  frozen  adapted   diff  updates
------------------------------------------------------------------
    1  clear                   10    80.0     80.0    0.0        0
    2  rain                    10    40.0     60.0  +20.0       10
    3  clear                   10    80.0     80.0    0.0        0
------------------------------------------------------------------
       harmonic mean                 60.0     72.0  +12.0
         first visits                53.3     68.6  +15.2
         second visits               80.0     80.0    0.0
       mean                          66.7     73.3   +6.7
       worst visit                   40.0     60.0  +20.0
       last - first clear             0.0      0.0    0.0

scoring     a frame is scored before anything is learned from it; one confusion matrix a visit;
            harmonic mean = n / sum(1 / mIoU) over the visits with labels
detected    1 of 2 changes, median delay 3 frames; 0 false alarms
harm        more than 1 point below frozen: 0.0 % of the frames, 0 % of the visits;
            at most 0.0 below over 50 frames
predict ms  p50 20.0, p95 20.0, p99 20.0, max 20.0
frame ms    p50 44.5, p95 57.5, p99 58.7, max 59.0
memory      peak 123 MiB

Adapting helped by 12.0 points (72.0 against 60.0 frozen, harmonic mean over visits); \
no visit fell more than 1 point below frozen."""


def test_table_of_a_small_run(toy_summary):
    text = summary_table({**toy_summary, "peak_memory_mb": 123.4})
    assert text.splitlines() == SNAPSHOT.splitlines()
    assert text == summary_table(json.loads(json.dumps({**toy_summary, "peak_memory_mb": 123.4})))


def test_colour_paints_differences_without_moving_columns(toy_summary):
    plain, painted = summary_table(toy_summary), summary_table(toy_summary, colour=True)
    assert "\033[32m+20.0\033[0m" in painted
    assert painted.replace("\033[32m", "").replace("\033[31m", "").replace("\033[0m", "") == plain


def test_trouble_is_told(toy_summary):
    failure = {"sink": "jsonl", "doing": "write", "frame": 7, "error": "OSError: disk full"}
    text = summary_table({**toy_summary, "faults": 3, "sink_failures": [failure]})
    assert "3 frames could not be used" in text
    assert "jsonl failed at frame 7: OSError: disk full" in text


def test_unlabelled_visits_show_dashes(toy_summary):
    visits = [{**visit, "miou": None, "miou_frozen": None, "gain": None} for visit in toy_summary["visits"]]
    blank = dict.fromkeys(("hmean", "hmean_frozen", "hmean_delta", "mean", "mean_frozen", "mean_delta"))
    direction = {"domains": {}, "hmean": None, "hmean_frozen": None}
    nothing = {
        **toy_summary, **blank, "visits": visits, "forward": direction, "backward": direction, "worst": None,
        "worst_frozen": None, "last_minus_first": None, "harm": {**toy_summary["harm"], "frame_share": None},
    }  # fmt: skip
    lines = summary_table(nothing).splitlines()
    assert lines[4].split() == ["1", "clear", "10", "–", "–", "–", "0"]
    assert lines[-1] == "Without labels there is no score; 10 updates on 30 frames."


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"hmean_delta": 0.2}, "Adapting changed little (72.0 against 60.0 frozen"),
        ({"hmean_delta": -3.0}, "Adapting hurt by 3.0 points"),
        ({"hmean_delta": 0.0, "updates": 0}, "Nothing was learned: 72.0"),
    ],
)
def test_verdict_follows_the_gain(toy_summary, changes, expected):
    assert verdict({**toy_summary, **changes}).startswith(expected)


def test_verdict_names_the_visit_that_suffered(toy_summary):
    gains = (-1.5, 20.0, -4.25)
    visits = [{**visit, "gain": gain} for visit, gain in zip(toy_summary["visits"], gains, strict=True)]
    assert "2 visits fell more than 1 point below frozen, clear by 4.2." in verdict({**toy_summary, "visits": visits})
    assert "; 1 visit fell" in verdict({**toy_summary, "visits": visits[:2]})
