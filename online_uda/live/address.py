"""Where the live page is served: a port, or a host with a port."""

from __future__ import annotations

import re
import socket

from online_uda.errors import UserError

LOOPBACK = ("127.0.0.1", "localhost", "::1")


def parse_address(text: str) -> tuple[str, int]:
    """Host and port of ``PORT``, ``HOST:PORT`` or ``[IPV6]:PORT``; a bare port is this machine's alone.

    Raises:
        UserError: Something else.
    """
    match = re.fullmatch(r"(?:(?P<host>[\w.-]+|\[[0-9a-fA-F:.]+\]):)?(?P<port>[0-9]{1,5})", text.strip())
    if match is None or int(match["port"]) > 65535:
        raise UserError(f"--serve: expected PORT or HOST:PORT such as 8080 or 0.0.0.0:8080, got {text!r}")
    return (match["host"] or "127.0.0.1").strip("[]"), int(match["port"])


def check_address(text: str) -> None:
    """Looks whether the page could be served there.

    Raises:
        UserError: The port is taken, or not ours to take.
    """
    host, port = parse_address(text)
    try:
        with socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET):
            pass
    except OSError as error:
        reason = error.strerror or str(error)
        raise UserError(f"--serve: cannot listen on {host}:{port}: {reason.lower()}; choose another port") from None
