"""The live page: pictures, curves, events, metrics, buttons with a token; it never holds the run up."""

from __future__ import annotations

import io
import json
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from http.client import HTTPConnection

import numpy as np
import pytest
from PIL import Image

from online_uda.errors import UserError
from online_uda.live.address import check_address, parse_address
from online_uda.live.server import LiveSink
from online_uda.reports.overlay import BAR_PX
from online_uda.reports.record import FrameImages, FrameRecord
from online_uda.runtime.controls import Controls
from streams.classes import CITYSCAPES_19
from tests.browser import chromium, opened, until

SIZE = (64, 128)


def record_of(frame: int, **changes: object) -> FrameRecord:
    ids = np.full(SIZE, frame % 19, np.uint8)
    values = {
        "signal": float(np.sin(frame / 5)), "predict_ms": 20.0 + frame % 3, "frame_ms": 50.0, "agreement": 90.0,
        "confidence": 80.0, "timestamp_s": frame / 10, "updated": frame > 3, "detected": frame == 5, "visit_miou": 61.5,
        "images": FrameImages(np.full((*SIZE, 3), 10 * frame % 255, np.uint8), ids, ids), **changes,
    }  # fmt: skip
    return FrameRecord(frame, "rain", 0, **values)  # type: ignore[arg-type]


@pytest.fixture
def sink() -> Iterator[LiveSink]:
    with LiveSink("0", CITYSCAPES_19, Controls(), "a <b> & c", token="secret") as sink:
        yield sink


def get(sink: LiveSink, path: str, **headers: str) -> tuple[int, bytes]:
    request = urllib.request.Request(sink.url + path, headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


def post(sink: LiveSink, path: str, token: str | None) -> int:
    headers = {} if token is None else {"Authorization": f"Bearer {token}"}
    request = urllib.request.Request(sink.url + path, method="POST", headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code


def test_page_and_picture(sink: LiveSink) -> None:
    status, page = get(sink, "")
    assert status == 200
    assert b"a &lt;b> &amp; c" in page
    sink.write(record_of(3))
    status, content = get(sink, "picture.jpg")
    assert status == 200
    with Image.open(io.BytesIO(content)) as image:
        assert image.size == (2 * SIZE[1], BAR_PX + SIZE[0])
    sink.board.close()


def test_nothing_is_drawn_while_nobody_looks(sink: LiveSink) -> None:
    for frame in range(20):
        sink.write(record_of(frame))
    time.sleep(0.3)
    assert sink.board.picture_number == 0
    assert get(sink, "picture.jpg")[0] == 200
    assert sink.board.picture_number == 1


def test_stream_of_the_newest_pictures(sink: LiveSink) -> None:
    stop = threading.Event()

    def play() -> None:
        frame = 0
        while not stop.wait(0.005):
            sink.write(record_of(frame))
            frame += 1

    player = threading.Thread(target=play)
    player.start()
    try:
        with urllib.request.urlopen(sink.url + "stream.mjpg", timeout=10) as answer:
            assert answer.headers["Content-Type"] == "multipart/x-mixed-replace; boundary=picture"
            sizes = []
            for _ in range(5):
                assert answer.readline() == b"--picture\r\n"
                assert answer.readline() == b"Content-Type: image/jpeg\r\n"
                length = int(answer.readline().split(b":")[1])
                answer.readline()
                with Image.open(io.BytesIO(answer.read(length))) as image:
                    sizes.append(image.size)
                answer.readline()
    finally:
        stop.set()
        player.join()
    assert sizes == [(2 * SIZE[1], BAR_PX + SIZE[0])] * 5
    assert sink.board.picture_number < sink.board.frames, "the newest picture alone is drawn"


def test_events_and_points(sink: LiveSink) -> None:
    for frame in range(8):
        sink.write(record_of(frame))
    sink.write(FrameRecord(8, "rain", 0, fault="the stream was lost"))
    guard = {"action": "rollback", "cause": "canary", "detail": "below the source network"}
    sink.write(record_of(9, updated=False, guard=(guard,)))
    sink.board.end("Adapting helped.")
    status, content = get(sink, "api/events")
    assert status == 200
    news = json.loads(content.decode().removeprefix("data: "))
    assert [point[0] for point in news["points"]] == list(range(10))
    kinds = [(event["frame"], event["kind"]) for event in news["events"]]
    assert kinds == [(4, "adapting"), (5, "detected"), (8, "lost"), (9, "rests"), (9, "rollback")]
    assert (news["ended"], news["verdict"], news["paused"]) == (True, "Adapting helped.", False)


def test_metrics_and_health(sink: LiveSink) -> None:
    for frame in range(7):
        sink.write(record_of(frame))
    sink.write(FrameRecord(7, "rain", 0, fault="lost"))
    text = get(sink, "metrics")[1].decode()
    for line in (
        "online_uda_frames_total 8.0", "online_uda_faults_total 1.0", "online_uda_updates_total 3.0",
        "online_uda_detections_total 1.0", "online_uda_miou 61.5", "online_uda_last_frame 7.0",
        'online_uda_stage_seconds_count{stage="predict"} 7.0',
    ):  # fmt: skip
        assert line in text.splitlines()
    status, body = get(sink, "health")
    health = json.loads(body)
    assert (status, health["status"], health["frames"]) == (200, "ok", 8)
    sink.board._seen_s = time.monotonic() - 1000
    assert get(sink, "health")[0] == 503


def test_buttons_need_the_token(sink: LiveSink) -> None:
    assert [post(sink, "api/pause", token) for token in (None, "", "wrong", "sécret")[:3]] == [401] * 3
    assert sink._controls.take() == []
    assert [post(sink, f"api/{wish}", "secret") for wish in ("pause", "pause", "reset", "snapshot")] == [200] * 4
    assert sink._controls.take() == ["pause", "reset", "snapshot"]
    assert post(sink, "api/shutdown", "secret") == 404
    assert get(sink, "api/pause")[0] == 405


@pytest.mark.parametrize(
    "path",
    ["/../../etc/passwd", "/%2e%2e/%2e%2e/etc/passwd", "/static/../page.html", "/page.html", "//etc/passwd", "/\\"],
)
def test_no_path_leads_out(sink: LiveSink, path: str) -> None:
    connection = HTTPConnection("127.0.0.1", sink._port, timeout=10)
    connection.request("GET", path)
    answer = connection.getresponse()
    assert answer.status == 404
    assert b"root:" not in answer.read()
    connection.close()


def test_it_answers_to_its_own_name_only(sink: LiveSink) -> None:
    assert get(sink, "", Host="evil.example")[0] == 403
    assert get(sink, "api/events", Host="evil.example:80")[0] == 403
    assert get(sink, "health", Host="localhost:1")[0] == 200


def test_addresses() -> None:
    assert parse_address("8080") == ("127.0.0.1", 8080)
    assert parse_address("0.0.0.0:80") == ("0.0.0.0", 80)
    assert parse_address("[::1]:80") == ("::1", 80)
    for text in ("http://x", "70000", ":80", "-1"):
        with pytest.raises(UserError, match=r"--serve: expected PORT or HOST:PORT"):
            parse_address(text)


def test_a_port_that_is_taken_is_one_line(sink: LiveSink) -> None:
    with pytest.raises(UserError, match=rf"--serve: cannot listen on 127.0.0.1:{sink._port}"):
        check_address(str(sink._port))
    other = LiveSink(str(sink._port), CITYSCAPES_19, Controls(), "x")
    with pytest.raises(UserError, match="cannot listen"), other:
        pass


def test_in_a_browser(sink: LiveSink) -> None:
    stop = threading.Event()

    def play() -> None:
        frame = 0
        while not stop.wait(0.05):
            sink.write(record_of(frame))
            frame += 1

    player = threading.Thread(target=play)
    player.start()
    try:
        with chromium() as browser:
            page, faults = opened(browser, sink.url + "#token=secret", 1280)
            until(page, "document.querySelectorAll('#events li').length >= 2")
            until(page, "document.getElementById('picture').naturalWidth > 0")
            until(
                page,
                """['score', 'signal', 'latency'].every(id => {
                const c = document.getElementById(id), pixels = c.getContext('2d');
                return c.width > 0 && pixels.getImageData(0, 0, c.width, c.height).data.some(v => v > 0)})""",
            )
            for button in ("pause", "reset", "snapshot"):
                page.click(f"#{button}")
                until(page, f"document.getElementById('answer').textContent === 'asked: {button}'")
            assert sink._controls.take() == ["pause", "reset", "snapshot"]
            sink._controls.paused = True
            until(page, "document.getElementById('pause').textContent === 'Go on learning'")
            assert faults == []
            assert page.evaluate("document.documentElement.scrollWidth") <= 1280
            looker, _ = opened(browser, sink.url, 390)
            assert looker.is_disabled("#pause"), "without the token one may look only"
            stop.set()
            player.join()
            sink.finish({"hmean_delta": None, "updates": 3, "frames": 9})
            ended = "document.getElementById('state').textContent.startsWith('ended. Without labels')"
            until(page, ended)
    finally:
        stop.set()
        player.join()
