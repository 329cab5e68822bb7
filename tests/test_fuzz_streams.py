"""Broken input of every sort: a clear error or counted faults; no crash, no hang, no file outside the run folder."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from online_uda.live.server import LiveSink
from online_uda.runtime.controls import Controls
from streams.classes import CITYSCAPES_19
from streams.errors import StreamError
from tests.live.test_live_page import get, record_of
from tests.streams.live.test_video_files import feed_stream
from tests.video_kit import write_video


def mutated(content: bytes, generator: np.random.Generator) -> bytes:
    """The content cut, with bytes changed, doubled or taken out, or all of these."""
    data = bytearray(content)
    for _ in range(int(generator.integers(1, 4))):
        kind, at = int(generator.integers(5)), int(generator.integers(len(data) or 1))
        length = int(generator.integers(1, 200))
        if kind == 0:
            del data[at:]
        elif kind == 1:
            data[at : at + length] = generator.bytes(min(length, len(data) - at))
        elif kind == 2:
            data[at:at] = data[at : at + length]
        elif kind == 3:
            del data[at : at + length]
        else:
            data[at : at + length] = bytes(min(length, len(data) - at))
    return bytes(data)


@pytest.mark.slow
@pytest.mark.parametrize("suffix", ["mp4", "mkv", "avi", "ts"])
def test_damaged_videos(tmp_path: Path, suffix: str) -> None:
    content = write_video(tmp_path / f"whole.{suffix}", 12).read_bytes()
    generator = np.random.default_rng(len(suffix))
    messages: list[str] = []
    played = faults = 0
    for number in range(100):
        path = tmp_path / f"broken.{suffix}"
        path.write_bytes(mutated(content, generator))
        try:
            with feed_stream(path) as stream:
                items = list(stream)
        except StreamError as error:
            messages.append(str(error))
            continue
        played += 1
        faults += sum(item.fault is not None for item in items)
        assert len(items) < 200, number
        assert [item.index for item in items] == list(range(len(items)))
        assert all(item.frame is None or item.frame.image.shape == (*stream.size, 3) for item in items)
    assert len(messages) + played == 100
    assert all(str(tmp_path) in message and "\n" not in message for message in messages)
    assert played > 0
    assert len(messages) + faults > 0


@pytest.mark.slow
def test_pictures_of_every_sort(tmp_path: Path, labelled_folder: Path) -> None:
    content = (labelled_folder / "images" / "frame_1.png").read_bytes()
    generator = np.random.default_rng(7)
    (tmp_path / "mixed").mkdir()
    for number in range(100):
        (tmp_path / "mixed" / f"{number}.png").write_bytes(mutated(content, generator) if number else content)
    with feed_stream(tmp_path / "mixed" / "*.png") as stream:
        items = list(stream)
    assert len(items) == 100
    assert 10 < sum(item.fault is not None for item in items) < 100


@pytest.fixture
def sink(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LiveSink]:
    monkeypatch.chdir(tmp_path)
    with LiveSink("0", CITYSCAPES_19, Controls(), "x", token="secret") as sink:
        sink.write(record_of(0))
        yield sink


@pytest.mark.slow
def test_hostile_requests(sink: LiveSink, tmp_path: Path) -> None:
    generator = np.random.default_rng(11)
    templates = (
        b"GET /%s HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
        b"POST /api/%s HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello",
        b"%s",
        b"GET / HTTP/1.1\r\nHost: localhost\r\nAuthorization: %s\r\nConnection: close\r\n\r\n",
    )
    words = (
        b"../../etc/passwd",
        b"%2e%2e%2fetc%2fpasswd",
        b"..\\..\\x",
        b"\x00",
        b"pause",
        b"?token=secret",
        b"A" * 9000,
    )
    for number in range(200):
        word = words[number % len(words)] if number % 2 else generator.bytes(int(generator.integers(1, 60)))
        request = templates[number % len(templates)].replace(b"%s", word)
        with socket.create_connection(("127.0.0.1", sink._port), timeout=10) as peer:
            peer.sendall(request)
            peer.shutdown(socket.SHUT_WR)
            answer = b""
            while chunk := peer.recv(65536):
                answer += chunk
                if len(answer) > 1_000_000 or b"multipart" in answer:
                    break
        assert b"root:" not in answer
        assert not answer.startswith(b"HTTP/1.1 500"), request
    assert sink._controls.take() == []
    assert get(sink, "health")[0] == 200
    assert list(tmp_path.iterdir()) == []
