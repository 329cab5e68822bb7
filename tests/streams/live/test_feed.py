"""What ``--stream`` may name, and what is said of what it may not."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streams.errors import StreamError
from streams.live.feed import file_name, hidden, parse_feed, read_list


def test_kinds(tmp_path: Path) -> None:
    for name in ("b_10.png", "b_9.png", "note.txt", "drive.mp4"):
        (tmp_path / name).write_bytes(b"x")
    assert [parse_feed(text, tmp_path).kind for text in ("0", "drive.mp4", "note.txt", ".", "b_9.png")] == [
        "camera", "file", "list", "folder", "images",
    ]  # fmt: skip
    found = parse_feed("b_*.png", tmp_path)
    assert [path.name for path in found.paths] == ["b_9.png", "b_10.png"]
    assert found.where == str(tmp_path / "b_*.png")
    assert [path.name for path in parse_feed(found.where).paths] == ["b_9.png", "b_10.png"]


@pytest.mark.parametrize(
    ("text", "live", "name"),
    [
        ("rtsp://me:secret@10.0.0.7:554/axis/front", True, "10.0.0.7-front"),
        ("udp://127.0.0.1:5000", True, "127.0.0.1"),
        ("https://example.org/drive.mp4", False, "example.org-drive.mp4"),
        ("07", True, "camera7"),
    ],
)
def test_live_and_named(text: str, live: bool, name: str) -> None:
    feed = parse_feed(text)
    assert (feed.is_live, feed.name) == (live, name)
    assert "secret" not in feed.name
    assert "secret" not in hidden(feed.where)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("none.mp4", "no such file or folder; a stream is a camera's number, an address"),
        ("*.png", "fits no image"),
        ("ftp://host/x", "cannot read ftp://; addresses start with rtsp"),
        ("rtsp:///cam", "names no host; write rtsp://HOST/PATH"),
        ("rtsp://host:port/x", "no address: "),
        ("  ", "got nothing"),
    ],
)
def test_refused_in_one_line(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(StreamError) as error:
        parse_feed(text, tmp_path)
    assert says in str(error.value)
    assert "\n" not in str(error.value)


@settings(max_examples=60, deadline=None)
@given(st.text(max_size=40))
def test_any_text_is_a_feed_or_one_line(text: str) -> None:
    with suppress(StreamError):
        feed = parse_feed(text, Path(__file__).parent)
        assert file_name(feed.name) == feed.name


def test_list(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_bytes(b"x")
    listed = tmp_path / "cameras.txt"
    listed.write_text("# front and rear\n\n a.mp4\nrtsp://host/rear\n")
    assert [feed.name for feed in read_list(parse_feed(str(listed)))] == ["a", "host-rear"]
    for content, says in (("a.mp4\nb.mp4\n", ":2: "), ("# none\n", "lists no stream"), ("cameras.txt\n", "a list in")):
        listed.write_text(content)
        with pytest.raises(StreamError, match=says):
            read_list(parse_feed(str(listed)))
