"""The hub of these tests is one for huggingface_hub's own client too, so that it is no mirror image of ours."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import sys
from pathlib import Path

import pytest

from gateway.triton.exported.environment import ExportUnavailable, environment_folder, is_made
from tests.support.hub import TOKEN, Hub
from tests.unit.triton.pulling.pulling import FILES, NAME, WEIGHTS, Puller, content_of

_CLIENT = """
import json, sys
from huggingface_hub import HfApi, hf_hub_download, snapshot_download
from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError
folder, commit = sys.argv[1:]
told = {}
info = HfApi().model_info("someone/whisper-mini", files_metadata=True)
told["sha"] = info.sha
told["licence"] = info.card_data.license
told["files"] = {one.rfilename: [one.size, one.lfs.sha256 if one.lfs else one.blob_id] for one in info.siblings}
told["path"] = snapshot_download("someone/whisper-mini", local_dir=folder)
told["one"] = open(hf_hub_download("someone/whisper-mini", "config.json", revision=commit), "rb").read().decode()
from huggingface_hub import hf_hub_url
from huggingface_hub.file_download import http_get
with open(folder + "-part", "wb+") as file:
    file.write(bytes(1000))
    http_get(hf_hub_url("someone/whisper-mini", "model.safetensors"), file, resume_size=1000, expected_size=info.siblings[1].size)
def error(call):
    try:
        call()
    except Exception as failed:
        return type(failed).__name__
told["gated"] = error(lambda: hf_hub_download("someone/gated", "config.json"))
told["absent"] = error(lambda: HfApi().model_info("no/such"))
told["revision"] = error(lambda: HfApi().model_info("someone/whisper-mini", revision="v9"))
told["gated with token"] = open(hf_hub_download("someone/gated", "config.json", token="hf_secret-of-the-test")).read()
print(json.dumps(told))
"""


def official_python() -> Path:
    try:
        if is_made():
            return environment_folder() / "bin" / "python"
    except ExportUnavailable:
        pass
    pytest.skip("the export environment, which holds huggingface_hub, is not made on this machine")


async def test_huggingface_hub_reads_the_same_hub(hub: Hub, puller: Puller, tmp_path: Path) -> None:
    python = official_python()
    commit = hub.add(NAME, FILES, licence="apache-2.0").commit
    hub.add("someone/gated", {"config.json": b"{}"}, gated=True)
    hub.faults["model.safetensors"] = ["cut"]  # which their client gets over as well
    clean = {key: value for key, value in os.environ.items() if not key.lower().endswith("_proxy")}
    process = await asyncio.create_subprocess_exec(
        python, "-c", _CLIENT, str(tmp_path / "theirs"), commit,
        env={**clean, "HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "home"), "HF_HUB_DISABLE_PROGRESS_BARS": "1"},
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    out, problems = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode == 0, problems.decode()
    told = json.loads(out)
    theirs = {path: (tmp_path / "theirs" / path).read_bytes() for path in FILES}
    pulled = await puller(NAME)
    assert content_of(pulled.path) == theirs == FILES
    assert (told["sha"], told["licence"]) == (pulled.record["revision"], "apache-2.0")
    assert told["files"]["model.safetensors"] == list(pulled.record["files"]["model.safetensors"].values())
    assert told["one"] == FILES["config.json"].decode()
    assert told["gated with token"] == "{}"
    assert [told[key] for key in ("gated", "absent", "revision")] == [
        "GatedRepoError", "RepositoryNotFoundError", "RevisionNotFoundError",
    ]  # fmt: skip
    part = (tmp_path / "theirs-part").read_bytes()
    assert part[1000:] == WEIGHTS[1000:]
    assert "bytes=1000-" in [one.range for one in hub.asked_for("model.safetensors") if one.host == "cdn"]
    assert {one.authorization for one in hub.seen if one.host == "cdn"} == {""}


async def test_ctrl_c_in_the_middle_leaves_a_part_and_no_process(hub: Hub, tmp_path: Path) -> None:
    hub.add(NAME, FILES)
    hub.faults["model.safetensors"] = ["hang"]
    clean = {key: value for key, value in os.environ.items() if not key.lower().endswith("_proxy")}
    environment = {**clean, "HF_ENDPOINT": hub.url, "XDG_CACHE_HOME": str(tmp_path), "HF_TOKEN": TOKEN}
    command = [sys.executable, "-m", "gateway.cli", "models", "pull", NAME, "--no-export", "--json"]

    async def start() -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_exec(
            *command, env=environment, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
            stdin=asyncio.subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip

    process = await start()
    assert process.stderr is not None
    said = b""
    async with asyncio.timeout(30):
        while not re.search(rb"\(3\d %\)", said):  # the line about the part that came
            said += await process.stderr.readline()
    process.send_signal(signal.SIGINT)
    _, rest = await asyncio.wait_for(process.communicate(), 20)
    assert process.returncode == 130, rest
    assert b"Traceback" not in rest
    with pytest.raises(ProcessLookupError):
        os.killpg(process.pid, 0)
    (part,) = (tmp_path / "parley").rglob("model.safetensors.part")
    had = part.stat().st_size
    assert 0 < had < len(WEIGHTS)
    again = await start()
    out, rest = await asyncio.wait_for(again.communicate(), 30)
    assert again.returncode == 0, rest
    folder = Path(json.loads(out)["path"])
    assert content_of(folder) == FILES
    assert hub.asked_for("model.safetensors")[-1].range == f"bytes={had}-"
    assert TOKEN.encode() not in said + rest + out
