"""A real RTSP server that is killed and started again; skipped where this machine has none."""

from __future__ import annotations

import gc
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from streams.errors import StreamError
from tests.streams.live.test_video_files import feed_stream

SCRIPT = Path(__file__).parents[2] / "rtsp_server.py"
PYTHON = "/usr/bin/python3"
_PROBE = (
    "import gi; gi.require_version('GstRtspServer', '1.0'); from gi.repository import Gst, GstRtspServer; "
    "Gst.init(None); "
    "assert Gst.ElementFactory.find('x264enc') and Gst.ElementFactory.find('rtph264pay')"
)


class RtspServer:
    """The server as a process that can be killed and started again on its port."""

    def __init__(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self.url = f"rtsp://127.0.0.1:{self.port}/cam"
        self.start()

    def start(self) -> None:
        self._process = subprocess.Popen(
            [PYTHON, str(SCRIPT), str(self.port)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == "serving\n"

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()


@pytest.fixture
def server() -> Iterator[RtspServer]:
    if subprocess.run([PYTHON, "-c", _PROBE], capture_output=True, timeout=60).returncode:
        pytest.skip(
            "no RTSP server (Debian: gir1.2-gst-rtsp-server-1.0 python3-gi gstreamer1.0-plugins-good and -ugly)"
        )
    server = RtspServer()
    yield server
    server.kill()


def cut(server: RtspServer, times: int) -> None:
    """Kills the server `times` times while a stream plays; every time it must come back with pictures of its own."""
    with feed_stream(server.url, back_off_s=(0.1, 0.2, 0.4), timeout_s=2.0) as stream:
        assert stream.is_live
        pictures = losses = since = 0
        waiting = False
        last: tuple[float, bytes] | None = None
        for item in stream:
            if item.frame is None:
                if "was lost" in (item.fault or ""):
                    losses += 1
                    waiting = False
                    server.start()
                continue
            now = (item.frame.timestamp_s, item.frame.image.tobytes())
            if last is not None:
                assert now[0] > last[0]
                assert now[1] != last[1], "no picture comes twice"
            last = now
            pictures, since = pictures + 1, since + 1
            if losses == times and since >= 5:
                break
            if not waiting and losses < times and since >= 5:
                server.kill()
                waiting, since = True, 0
        counts = stream.figures()
    assert (losses, counts["outages"], counts["reconnects"]) == (times, times, times)
    assert pictures >= 5 * (times + 1)


@pytest.mark.slow
def test_cut_twice(server: RtspServer) -> None:
    cut(server, 2)


@pytest.mark.slow
def test_cut_twenty_times(server: RtspServer) -> None:
    threads, memory_kb = threading.active_count(), _resident_kb()
    cut(server, 20)
    time.sleep(0.5)
    gc.collect()
    assert _resident_kb() - memory_kb < 30_000
    assert threading.active_count() <= threads, "no thread is left behind"


def _resident_kb() -> int:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmRSS"))
    return int(line.split()[1])


@pytest.mark.slow
def test_no_such_path_is_one_line(server: RtspServer) -> None:
    with pytest.raises(StreamError, match="cannot be reached") as error:
        feed_stream(server.url + "-none")
    assert "\n" not in str(error.value)


@pytest.mark.slow
def test_upright_and_moving(server: RtspServer) -> None:
    with feed_stream(server.url, frames=6) as stream:
        images = [item.frame.image for item in stream if item.frame]
    assert {image.shape for image in images} == {(96, 128, 3)}
    assert min(np.abs(a.astype(int) - b).max() for a, b in pairwise(images)) > 30
