"""The live page's web server: aiohttp in a thread of its own, which nothing in the run ever waits for."""

from __future__ import annotations

import asyncio
import hmac
import json
import secrets
import sys
import threading
from importlib.resources import files
from types import TracebackType
from typing import Any

from aiohttp import web

from online_uda.errors import UserError
from online_uda.live.address import LOOPBACK, parse_address
from online_uda.live.board import Board
from online_uda.live.metrics import RunMetrics
from online_uda.reports.record import FrameRecord
from online_uda.reports.table import verdict
from online_uda.runtime.controls import WISHES, Controls
from streams.frame import ClassSet

STALLED_S = 30.0
"""Without a frame for so long, ``/health`` is ill."""
_TICK_S = 0.25
_BOUNDARY = "picture"
_SECURITY = {
    "Content-Security-Policy": "default-src 'none'; img-src 'self' data:; style-src 'unsafe-inline'; "
    "script-src 'unsafe-inline'; connect-src 'self'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}


class LiveSink:
    """Serves a run while it plays.

    Anyone who reaches the port may look; the buttons need the token that is printed at the start. Bound to this machine
    alone, the page answers to its own name only, so that no other web page can read it through the user's browser.

    Args:
        address: See `online_uda.live.address.parse_address`.
        classes: For the colours.
        controls: Takes what the buttons ask for.
        title: Of the run.
        token: That the buttons need; a random one by default.
    """

    name = "live page"

    def __init__(
        self, address: str, classes: ClassSet, controls: Controls, title: str, token: str | None = None
    ) -> None:
        self._host, self._port = parse_address(address)
        self._classes, self._controls, self._title = classes, controls, title
        self.token = token or secrets.token_urlsafe(12)
        self.metrics = RunMetrics()
        self._loop = asyncio.new_event_loop()
        self._pictures: asyncio.Event = asyncio.Event()
        self._over: asyncio.Event = asyncio.Event()
        self._viewers = self._listeners = 0
        self._ready = threading.Event()
        self._error: OSError | None = None
        self._thread = threading.Thread(target=self._serve, name="live-page", daemon=True)
        self.board: Board

    def __enter__(self) -> LiveSink:
        self.board = Board(self._classes, self._tell_picture)
        self._thread.start()
        self._ready.wait()
        if self._error is not None:
            self.board.close()
            reason = self._error.strerror or str(self._error)
            raise UserError(f"--serve: cannot listen on {self._host}:{self._port}: {reason}; choose another port")
        print(f"live page: {self.url}#token={self.token}", file=sys.stderr, flush=True)
        return self

    @property
    def url(self) -> str:
        """Address of the page."""
        host = {"0.0.0.0": "127.0.0.1", "::": "[::1]", "::1": "[::1]"}.get(self._host, self._host)
        return f"http://{host}:{self._port}/"

    def write(self, record: FrameRecord) -> None:
        """Hands a record to the page; returns at once."""
        self.metrics.note(record)
        self.board.show(record)

    def finish(self, summary: dict[str, Any]) -> None:
        """Tells the viewers how it ended."""
        self.board.end(verdict(summary))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.board.end(self.board.verdict)
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._over.set)
            self._thread.join(timeout=5.0)
        self.board.close()

    def _tell_picture(self) -> None:
        if self._loop.is_running():
            self._loop.call_soon_threadsafe(self._pictures.set)

    def _serve(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_until_complete(self._main())
        finally:
            self._loop.close()

    async def _main(self) -> None:
        app = web.Application(middlewares=[self._guarded], client_max_size=1024)
        app.add_routes(
            [
                web.get("/", self._page), web.get("/stream.mjpg", self._stream), web.get("/picture.jpg", self._picture),
                web.get("/api/events", self._events), web.get("/metrics", self._metrics),
                web.get("/health", self._health), web.post("/api/{wish}", self._wish),
            ]
        )  # fmt: skip
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
        await runner.setup()
        try:
            site = web.TCPSite(runner, self._host, self._port)
            await site.start()
            self._port = runner.addresses[0][1]
        except OSError as error:
            self._error = error
            await runner.cleanup()
            self._ready.set()
            return
        self._ready.set()
        await self._over.wait()
        if self._listeners:
            await asyncio.sleep(2 * _TICK_S)  # for the last word
        await runner.cleanup()

    @web.middleware
    async def _guarded(self, request: web.Request, handler: Any) -> web.StreamResponse:
        host = request.host.rpartition(":")[0] if request.host.rpartition(":")[2].isdigit() else request.host
        if self._host in LOOPBACK and host.strip("[]") not in LOOPBACK:
            raise web.HTTPForbidden(text="this page answers to localhost only\n")
        response: web.StreamResponse = await handler(request)
        if not response.prepared:
            response.headers.update(_SECURITY)
        return response

    async def _page(self, _: web.Request) -> web.Response:
        page = files("online_uda.live").joinpath("page.html").read_text(encoding="utf-8")
        title = self._title.replace("&", "&amp;").replace("<", "&lt;")
        return web.Response(text=page.replace("{{title}}", title), content_type="text/html")

    async def _picture(self, _: web.Request) -> web.Response:
        with _Viewer(self):
            for _attempt in range(20):
                if self.board.picture is not None:
                    return web.Response(body=self.board.picture, content_type="image/jpeg")
                await self._next_picture()
        raise web.HTTPServiceUnavailable(text="no picture yet\n")

    async def _next_picture(self) -> None:
        """Waits for a new picture, a tenth of a second at most."""
        self._pictures.clear()
        try:
            await asyncio.wait_for(self._pictures.wait(), 0.1)
        except (asyncio.TimeoutError, TimeoutError):
            return

    async def _stream(self, request: web.Request) -> web.StreamResponse:
        kind = f"multipart/x-mixed-replace; boundary={_BOUNDARY}"
        response = web.StreamResponse(headers={"Content-Type": kind, **_SECURITY})
        await response.prepare(request)
        sent = -1
        with _Viewer(self):
            while not self._over.is_set():
                number, picture = self.board.picture_number, self.board.picture
                if picture is None or number == sent:
                    await self._next_picture()
                    continue
                sent = number
                head = f"--{_BOUNDARY}\r\nContent-Type: image/jpeg\r\nContent-Length: {len(picture)}\r\n\r\n"
                try:
                    await response.write(head.encode() + picture + b"\r\n")
                except ConnectionError:
                    break
        return response

    async def _events(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream", **_SECURITY})
        await response.prepare(request)
        self._listeners += 1
        try:
            await self._tell_news(response, frame=-1, event=-1)
        except ConnectionError:
            pass
        finally:
            self._listeners -= 1
        return response

    async def _tell_news(self, response: web.StreamResponse, frame: int, event: int) -> None:
        """Sends what is new since a frame and an event, again and again, to the end of the run."""
        while True:
            news = {**self.board.since(frame, event), "paused": self._controls.paused}
            frame = news["points"][-1][0] if news["points"] else frame
            event = news["events"][-1]["number"] if news["events"] else event
            await response.write(f"data: {json.dumps(news)}\n\n".encode())
            if news["ended"]:
                return
            await asyncio.sleep(_TICK_S)

    async def _metrics(self, _: web.Request) -> web.Response:
        headers = {"Content-Type": "text/plain; version=0.0.4; charset=utf-8"}
        return web.Response(body=self.metrics.text(), headers=headers)

    async def _health(self, _: web.Request) -> web.Response:
        age_s = self.board.age_s()
        well = age_s is None or age_s < STALLED_S
        body = {
            "status": "ok" if well else "stalled", "frames": self.board.frames, "paused": self._controls.paused,
            "seconds_since_frame": None if age_s is None else round(age_s, 3),
        }  # fmt: skip
        return web.json_response(body, status=200 if well else 503)

    async def _wish(self, request: web.Request) -> web.Response:
        given = request.headers.get("Authorization", "").removeprefix("Bearer ")
        if not hmac.compare_digest(given.encode(), self.token.encode()):
            raise web.HTTPUnauthorized(text="the buttons need the token that was printed at the start\n")
        wish = request.match_info["wish"]
        if wish not in WISHES:
            raise web.HTTPNotFound(text=f"unknown wish; one of {', '.join(WISHES)}\n")
        self._controls.ask(wish)
        return web.json_response({"asked": wish})


class _Viewer:
    """Counts who looks while it is entered."""

    def __init__(self, sink: LiveSink) -> None:
        self._sink = sink

    def __enter__(self) -> None:
        self._count(1)

    def __exit__(self, *_: object) -> None:
        self._count(-1)

    def _count(self, change: int) -> None:
        self._sink._viewers += change
        self._sink.board.watch(self._sink._viewers)
