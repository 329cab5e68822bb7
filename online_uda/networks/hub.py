"""Files from the Hugging Face hub: asked once and within seconds; what was had before counts without it."""

from __future__ import annotations

import queue
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from online_uda.errors import UserError

ANSWER_S = 5.0
"""The hub's own client asks six times, and without a limit; a user without a network is told after two of these."""


def fetch(repository: str, names: Sequence[Sequence[str]], what: str, otherwise: str) -> Path:
    """The folder that holds files of a repository, downloaded or from the local cache.

    Args:
        repository: ``OWNER/NAME``, with ``@REVISION`` where it is not the newest.
        names: Files that are wanted; of each group the first that there is.
        what: What to call it in errors.
        otherwise: What the user can do instead.

    Raises:
        UserError: The hub does not answer, has no such repository, or breaks off; and nothing is in the cache.
    """
    from huggingface_hub import hf_hub_download

    repository, _, revision = repository.partition("@")
    found: list[Path] = []
    try:
        info = _ask(repository, revision or None)
        there = {file.rfilename for file in info.siblings or ()}
        for group in names:
            name = next((name for name in group if name in there), None)
            if name is not None:
                found.append(Path(hf_hub_download(repository, name, revision=revision or None)))
    except Exception as error:  # the hub's own errors, the transport's, and bad names
        found = _cached(repository, revision or None, names)
        if not found:
            reason = str(error).splitlines()[0][:140] if str(error) else "it gives no reason"
            raise UserError(
                f"{what}: cannot be had from the Hugging Face hub ({type(error).__name__}: {reason}); {otherwise}"
            ) from None
    if not found:
        wanted = ", ".join(name for group in names for name in group)
        raise UserError(f"{what}: the hub's {repository} holds none of {wanted}; {otherwise}")
    return found[0].parent


def _ask(repository: str, revision: str | None) -> Any:
    """What the hub says about a repository; in a thread, because a name that does not resolve knows no limit."""
    from huggingface_hub import HfApi

    answers: queue.Queue[Any] = queue.Queue()

    def ask() -> None:
        try:
            answers.put(HfApi().repo_info(repository, revision=revision, timeout=ANSWER_S))
        except Exception as error:
            answers.put(error)

    threading.Thread(target=ask, daemon=True).start()
    try:
        answer = answers.get(timeout=2 * ANSWER_S)
    except queue.Empty:
        raise TimeoutError(f"no answer within {2 * ANSWER_S:.0f} s") from None
    if isinstance(answer, Exception):
        raise answer
    return answer


def _cached(repository: str, revision: str | None, names: Sequence[Sequence[str]]) -> list[Path]:
    from huggingface_hub import try_to_load_from_cache

    found = []
    for group in names:
        try:
            places = [try_to_load_from_cache(repository, name, revision=revision) for name in group]
        except ValueError:  # a name that no repository can have
            return []
        found += [Path(place) for place in places if isinstance(place, str)][:1]
    return found if len(found) == len(names) else []
