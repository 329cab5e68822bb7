"""Latency percentiles: exact while samples are kept, within a bin afterwards."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch

from online_uda.evaluation import latency
from online_uda.evaluation.latency import LatencyMeter


def meter_with(samples, **options):
    meter = LatencyMeter(**options)
    for sample in samples:
        meter.record("predict", sample)
    return meter


def test_percentiles_are_exact_below_capacity():
    samples = np.random.default_rng(0).lognormal(3, 1, 999)
    stage = meter_with(samples).summary()["predict"]
    expected = np.percentile(samples, [50, 95, 99])
    np.testing.assert_allclose([stage["p50"], stage["p95"], stage["p99"]], expected)
    assert (stage["max"], stage["count"]) == (samples.max(), 999)
    assert stage["mean"] == pytest.approx(samples.mean())


def test_long_runs_keep_bounded_memory_and_percentiles_within_a_bin():
    samples = np.random.default_rng(1).lognormal(3, 1, 20_000)
    meter = meter_with(samples, capacity=1000)
    stage = meter.summary()["predict"]
    expected = np.percentile(samples, [50, 95, 99])
    np.testing.assert_allclose([stage["p50"], stage["p95"], stage["p99"]], expected, rtol=0.012)
    assert (stage["max"], stage["count"]) == (samples.max(), 20_000)
    assert len(meter.state_dict()["predict"]["recent"]) <= 1000


def test_stage_without_samples_is_none_and_warmup_is_left_out():
    summary = meter_with([500.0, 400.0, 7.0, 7.0], warmup=2).summary()
    assert summary["predict"]["max"] == 7.0
    assert summary["adapt"] == {"p50": None, "p95": None, "p99": None, "max": None, "mean": None, "count": 0}


def test_measure_records_also_when_the_block_raises(monkeypatch):
    ticks = iter([1.0, 1.25, 2.0, 2.5])
    monkeypatch.setattr(latency.time, "perf_counter", lambda: next(ticks))
    meter = LatencyMeter(device="cpu")
    with meter.measure("frame") as lap:
        pass
    assert lap.latency_ms == 250.0

    def fail():
        with meter.measure("frame"):
            raise RuntimeError("boom")

    with pytest.raises(RuntimeError):
        fail()
    assert meter.summary()["frame"]["max"] == 500.0


def test_cuda_is_synchronised_at_both_ends_only_when_asked(monkeypatch):
    calls = []
    monkeypatch.setattr(torch.cuda, "synchronize", calls.append)
    with LatencyMeter(device=torch.device("cuda:0")).measure("predict"):
        assert len(calls) == 1
    assert len(calls) == 2
    with LatencyMeter(device=torch.device("cpu")).measure("predict"):
        pass
    assert len(calls) == 2


def test_state_survives_a_weights_only_file():
    samples = np.random.default_rng(2).lognormal(3, 1, 1500)
    whole = meter_with(samples, capacity=400)
    saved = io.BytesIO()
    torch.save(meter_with(samples[:700], capacity=400, warmup=0).state_dict(), saved)
    saved.seek(0)
    resumed = LatencyMeter(capacity=400)
    resumed.load_state_dict(torch.load(saved, weights_only=True))
    for sample in samples[700:]:
        resumed.record("predict", sample)
    assert resumed.summary() == whole.summary()


def test_bad_samples_are_refused():
    meter = LatencyMeter()
    with pytest.raises(ValueError, match="unknown stage 'decode'; one of predict, adapt, frame"):
        meter.record("decode", 1.0)
    for bad in (-1.0, float("nan")):
        with pytest.raises(ValueError, match="finite and not negative"):
            meter.record("predict", bad)
