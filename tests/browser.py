"""A headless Chromium for tests, where this machine has one."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

_FLAGS = (
    "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--no-first-run",
)  # fmt: skip


@contextmanager
def chromium() -> Iterator[Any]:
    """A browser of playwright; skips the test where playwright or Chromium is missing."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    binary = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if binary is None:
        pytest.skip("no Chromium on this machine (Debian: apt-get install chromium)")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=binary, args=list(_FLAGS))
        yield browser
        browser.close()


def opened(browser: Any, address: str, width: int, height: int = 844) -> tuple[Any, list[str]]:
    """A page at an address, and a list that fills with its errors, warnings and requests to other places."""
    page = browser.new_page(viewport={"width": width, "height": height})
    faults: list[str] = []
    page.on("console", lambda message: faults.append(message.text) if message.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: faults.append(str(error)))
    here = address.split("/")[2] if "://" in address else ""
    page.on(
        "request",
        lambda request: (
            None
            if request.url.startswith(("file:", "data:")) or request.url.split("/")[2] == here
            else faults.append(f"request to {request.url}")
        ),
    )
    page.goto(address)
    return page, faults


def until(page: Any, condition: str, timeout_s: float = 20.0) -> None:
    """Waits until an expression holds in a page, also in one that forbids `eval`."""
    ends_s = time.monotonic() + timeout_s
    while not page.evaluate(condition):
        assert time.monotonic() < ends_s, f"never came true: {condition}"
        page.wait_for_timeout(50)
