"""The Hugging Face hub: a small one on this machine that answers, is silent, or is gone; told within seconds."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file

from online_uda.errors import UserError
from online_uda.networks import hub
from online_uda.networks.checkpoint_writer import save_folder, save_hf_folder
from online_uda.networks.mit import MiTConfig
from online_uda.networks.segmenter import SegformerConfig, build_segformer
from online_uda.networks.spec import NetworkOptions
from online_uda.networks.zoo import load_network
from streams.classes import CAMVID_11

TINY = SegformerConfig(MiTConfig((8, 8, 10, 16), (1, 1, 1, 1)), classes=11, head_width=12, light_width=6)
SHA = "a" * 40
ENCODER = "mobilenetv3_small_050"
USER = """
import sys, torch, warnings
warnings.simplefilter("ignore")
from online_uda.errors import UserError
from online_uda.networks import hub
from online_uda.networks.spec import NetworkOptions
from online_uda.networks.zoo import load_network
from streams.classes import CAMVID_11
hub.ANSWER_S = 0.5
for name in sys.argv[1:]:
    options = NetworkOptions(*("pretrained", "random") if name.startswith("timm:") else ())
    try:
        network = load_network(name, CAMVID_11, options).network
    except UserError as error:
        print(error)
    else:
        values = torch.cat([parameter.detach().flatten() for parameter in network.stages[0].parameters()])
        print(values.double().mean().item())
"""


class Hub(BaseHTTPRequestHandler):
    """Serves the folders below ``root``: OWNER/NAME."""

    root: Path
    asked: list[str]

    def do_GET(self) -> None:
        self._answer(body=True)

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def _answer(self, body: bool) -> None:
        self.asked.append(f"{self.command} {self.path}")
        if self.path.startswith("/api/models/"):
            name = self.path.removeprefix("/api/models/")
            folder = self.root / name
            if not folder.is_dir():
                return self._send(404, b"{}", {"X-Error-Code": "RepoNotFound"}, body)
            files = [{"rfilename": file.name} for file in sorted(folder.iterdir())]
            return self._send(200, json.dumps({"id": name, "sha": SHA, "siblings": files}).encode(), {}, body)
        name, _, file = self.path.lstrip("/").partition("/resolve/main/")
        if not file:  # its client has questions of its own
            return self._send(404, b"", {}, body)
        content = (self.root / name / file).read_bytes()
        self._send(200, content, {"ETag": f'"{hash(self.path)}"', "X-Repo-Commit": SHA}, body)

    def _send(self, status: int, content: bytes, headers: dict[str, str], body: bool) -> None:
        self.send_response(status)
        for key, value in {**headers, "Content-Length": str(len(content))}.items():
            self.send_header(key, value)
        self.end_headers()
        if body:
            self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        """Keeps quiet."""


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[str, Path, list[str]]]:
    handler = type("Handler", (Hub,), {"root": tmp_path / "repositories", "asked": []})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", handler.root, handler.asked
    server.shutdown()


def user(endpoint: str, cache: Path, *names: str) -> list[str]:
    """What a process prints that loads ``names`` one after the other: a sum of weights, or the error."""
    environment = {**os.environ, "HF_ENDPOINT": endpoint, "HF_HOME": str(cache), "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", USER, *names], env=environment, capture_output=True, text=True, timeout=120, check=True
    )
    return done.stdout.splitlines()


def test_networks_of_a_hub_and_of_the_cache_when_it_is_gone(
    served: tuple[str, Path, list[str]], tmp_path: Path
) -> None:
    endpoint, root, asked = served
    network = build_segformer(TINY).eval()
    for value, parameters in ((0.25, network.parameters()), (0.5, (model := timm.create_model(ENCODER)).parameters())):
        for parameter in parameters:
            parameter.data.fill_(value)
    save_hf_folder(root / "me" / "town", network, TINY, CAMVID_11.names, torch.float32)
    (root / "me" / "town" / "pytorch_model.bin").write_bytes(b"never asked for")
    folder = root / "timm" / f"{ENCODER}.lamb_in1k"
    folder.mkdir(parents=True)
    save_file(model.state_dict(), folder / "model.safetensors")
    cache, names = tmp_path / "cache", ("hf:me/town", f"timm:{ENCODER}", "hf:me/nothing")
    *loaded, unknown = user(endpoint, cache, *names)
    assert loaded == ["0.25", "0.5"]
    assert "hf:me/nothing: cannot be had from the Hugging Face hub (RepositoryNotFoundError: " in unknown
    assert not any("pytorch_model.bin" in line for line in asked)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        *loaded, missing = user(f"http://127.0.0.1:{silent.getsockname()[1]}", cache, *names)
    assert loaded == ["0.25", "0.5"]
    assert re.search(r"cannot be had from the Hugging Face hub \((Read)?Timeout", missing), missing
    assert missing.endswith("download it elsewhere and give the folder")


def test_a_name_that_never_resolves_has_a_limit(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import huggingface_hub

    asleep = threading.Event()
    monkeypatch.setattr(hub, "ANSWER_S", 0.05)
    monkeypatch.setattr(huggingface_hub.HfApi, "repo_info", lambda *_, **__: asleep.wait(20))
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *_, **__: None)
    with pytest.raises(
        UserError, match=r"hf:nvidia/x: cannot be had .*TimeoutError: no answer within .*give the folder"
    ):
        load_network("hf:nvidia/x", CAMVID_11)
    asleep.set()
    with pytest.raises(UserError, match=r"timm:resnet18: its trained weights: cannot be had .*use --init random"):
        load_network("timm:resnet18", CAMVID_11, NetworkOptions("pretrained", "random"))


def test_what_the_hub_says_in_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import huggingface_hub

    def offline(*_: object, **__: object) -> str:
        raise OSError("no route to host\nmore")

    monkeypatch.setattr(huggingface_hub.HfApi, "repo_info", offline)
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *_, **__: None)
    with pytest.raises(UserError, match=r"hf:nvidia/x: cannot be had .*no route to host\); download it elsewhere"):
        load_network("hf:nvidia/x", CAMVID_11)
    info = huggingface_hub.hf_api.ModelInfo(id="me/x", sha=SHA, siblings=[{"rfilename": "README.md"}])
    monkeypatch.setattr(huggingface_hub.HfApi, "repo_info", lambda *_, **__: info)
    with pytest.raises(
        UserError, match=r"the hub's me/x holds none of config.json, model.safetensors, pytorch_model.bin"
    ):
        load_network("hf:me/x", CAMVID_11)
    save_folder(tmp_path, build_segformer(TINY), TINY, CAMVID_11.names, {})
    monkeypatch.setattr(huggingface_hub.HfApi, "repo_info", offline)
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda _, name, **__: str(tmp_path / name))
    assert load_network("hf:me/x", CAMVID_11).network.classes == 11
