"""A repository of a hub, pulled: whole or not at all, whatever happens on the way."""

from __future__ import annotations

import asyncio
import hashlib
import json
import shutil
from pathlib import Path

import pytest

from gateway.triton.pulling import download
from gateway.triton.pulling.errors import PullError, Unreachable
from tests.support.hub import CUT_AT, TOKEN, Hub
from tests.unit.triton.pulling.pulling import FILES, NAME, WEIGHTS, Puller, content_of


async def test_everything_that_is_needed_with_its_record(hub: Hub, puller: Puller) -> None:
    extra = {"pytorch_model.bin": b"the same again", "onnx/model.onnx": b"and again", "picture.png": b"no"}
    repository = hub.add(NAME, {**FILES, **extra, "vocab/a b.txt": b"words"}, licence="apache-2.0")
    pulled = await puller(NAME)
    assert content_of(pulled.path) == {**FILES, "vocab/a b.txt": b"words"}
    assert pulled.path == puller.cache / "hub" / "someone--whisper-mini" / repository.commit
    record = json.loads((pulled.path / ".pulled.json").read_text())
    assert record == pulled.record
    assert (record["source"], record["revision"], record["licence"]) == (
        NAME,
        repository.commit,
        "Apache-2.0",
    )
    assert record["licence_accepted"] == "by the test"
    assert record["files"]["model.safetensors"] == {
        "size": len(WEIGHTS),
        "sha256": hashlib.sha256(WEIGHTS).hexdigest(),
    }
    assert puller.watch.done == puller.watch.size == sum(map(len, content_of(pulled.path).values()))
    assert puller.left_over() == []


async def test_a_second_pull_transfers_nothing_and_a_new_commit_what_changed_beside_it(
    hub: Hub, puller: Puller
) -> None:
    hub.add(NAME, FILES)
    first = await puller(NAME)
    transferred = len(hub.asked_for("model.safetensors"))
    again = await puller(f"hf:{NAME}@main")
    assert (again.path, again.fresh, first.fresh) == (first.path, False, True)
    assert len(hub.asked_for("model.safetensors")) == transferred
    assert len(puller.asked) == 1  # a licence is accepted once
    hub.add(NAME, {**FILES, "config.json": b"{}"})
    newer = await puller(NAME)
    assert newer.path != first.path
    assert (newer.path / "config.json").read_bytes() == b"{}"
    assert (first.path / "config.json").read_bytes() == FILES["config.json"]


async def test_a_cut_connection_is_gone_on_with_where_it_ended(hub: Hub, puller: Puller) -> None:
    hub.add(NAME, FILES)
    hub.faults["model.safetensors"] = ["cut", "cut"]
    pulled = await puller(NAME)
    assert content_of(pulled.path) == FILES
    asked = [one for one in hub.asked_for("model.safetensors") if one.host == "cdn"]
    assert [one.range for one in asked] == ["", f"bytes={CUT_AT}-", f"bytes={2 * CUT_AT}-"]
    assert asked[1].if_range == f'"{hashlib.sha256(WEIGHTS).hexdigest()}"'
    assert [one.status for one in asked] == [200, 206, 206]
    assert len(puller.pauses) == 2
    assert puller.watch.done == puller.watch.size


@pytest.mark.parametrize("fault", ["500", "503", "429", "408"])
async def test_a_server_in_trouble_is_tried_again(hub: Hub, puller: Puller, fault: str) -> None:
    hub.add(NAME, FILES)
    hub.faults |= {"model.safetensors": [fault], "config.json": [fault], f"{NAME}/api": [fault]}
    assert content_of((await puller(NAME)).path) == FILES
    assert len(puller.pauses) == 3
    if fault == "429":
        assert min(puller.pauses) >= 3.0  # as it was asked for


async def test_tries_end_and_what_came_stays_for_the_next_pull(hub: Hub, puller: Puller) -> None:
    hub.add(NAME, FILES)
    hub.faults["model.safetensors"] = ["cut", *["503"] * 20]
    with pytest.raises(PullError, match="503 Service Unavailable"):
        await puller(NAME)
    assert len(puller.pauses) == 5
    assert sum(puller.pauses) < 20
    assert "model.safetensors.part" in puller.left_over()
    hub.faults.clear()
    hub.seen.clear()
    assert content_of((await puller(NAME)).path) == FILES
    (asked,) = [one for one in hub.asked_for("model.safetensors") if one.host == "cdn"]
    assert asked.range == f"bytes={CUT_AT}-"
    assert hub.asked_for("config.json") == []  # it was whole
    assert puller.left_over() == []


async def test_progress_gives_new_tries_but_the_pauses_have_one_budget(hub: Hub, puller: Puller) -> None:
    hub.add(NAME, FILES)
    hub.faults["config.json"] = ["429"] * 60
    with pytest.raises(PullError, match="429"):
        await puller(NAME)
    assert sum(puller.pauses) <= 120


async def test_another_version_of_a_file_is_begun_anew(hub: Hub, puller: Puller) -> None:
    hub.etags = True
    hub.plain["model.bin"] = WEIGHTS
    hub.faults["model.bin"] = ["", "cut", "new"]  # the first request is the look at it
    pulled = await puller(f"{hub.cdn}/plain/model.bin")
    got = (pulled.path / "model.bin").read_bytes()
    assert got == bytes(byte ^ 0x55 for byte in WEIGHTS)  # the new one, and no mixture
    assert puller.watch.done == len(WEIGHTS)


async def test_a_server_without_ranges_is_asked_from_the_beginning(hub: Hub, puller: Puller) -> None:
    hub.add(NAME, FILES)
    hub.faults["model.safetensors"] = ["cut", "whole"]
    assert content_of((await puller(NAME)).path) == FILES
    assert puller.watch.done == puller.watch.size


async def test_a_wrong_checksum_is_said_and_deleted(hub: Hub, puller: Puller) -> None:
    hub.add(NAME, FILES)
    hub.faults["model.safetensors"] = ["wrong"]
    with pytest.raises(PullError, match=r"model\.safetensors does not have the checksum .* deleted"):
        await puller(NAME)
    assert not any(name.startswith("model.safetensors") for name in puller.left_over())
    assert content_of((await puller(NAME)).path) == FILES


async def test_small_files_are_checked_by_gits_own_name(hub: Hub, puller: Puller) -> None:
    hub.add(NAME, FILES)
    hub.faults["config.json"] = ["wrong"]
    with pytest.raises(PullError, match=r"config\.json is not the file that git knows"):
        await puller(NAME)


async def test_a_wrong_length_is_said(hub: Hub, puller: Puller) -> None:
    hub.add(NAME, FILES, told_sizes={"model.safetensors": len(WEIGHTS) + 5})
    with pytest.raises(PullError, match="is said to have 300005 bytes and the server has 300000"):
        await puller(NAME)


async def test_a_part_that_was_tampered_with_never_becomes_the_file(hub: Hub, puller: Puller) -> None:
    hub.add(NAME, FILES)
    hub.faults["model.safetensors"] = ["cut", *["500"] * 9]
    with pytest.raises(PullError):
        await puller(NAME)
    hub.faults.clear()
    (part,) = puller.cache.rglob("*.part")
    part.write_bytes(b"x" + part.read_bytes()[1:])
    with pytest.raises(PullError, match="checksum"):
        await puller(NAME)
    assert content_of((await puller(NAME)).path) == FILES


async def test_a_finished_file_of_a_broken_pull_is_checked_again(hub: Hub, puller: Puller) -> None:
    hub.add(NAME, FILES)
    hub.faults["model.safetensors"] = ["500"] * 9
    with pytest.raises(PullError):
        await puller(NAME)
    hub.faults.clear()
    (done,) = (path for path in puller.cache.rglob("config.json") if ".partial" in str(path))
    done.write_bytes(b"rubbish")
    assert content_of((await puller(NAME)).path) == FILES


async def test_cancelled_in_the_middle_it_is_resumed(hub: Hub, puller: Puller) -> None:
    hub.add(NAME, FILES)
    hub.faults["model.safetensors"] = ["hang"]
    pulling = asyncio.create_task(puller(NAME))
    await asyncio.wait_for(hub.hanging.wait(), 5)
    await puller.watch.reached(CUT_AT)
    pulling.cancel()
    with pytest.raises(asyncio.CancelledError):
        await pulling
    (part,) = puller.cache.rglob("model.safetensors.part")
    had = part.stat().st_size
    assert not list(puller.cache.rglob(".pulled.json"))
    assert content_of((await puller(NAME)).path) == FILES
    assert hub.asked_for("model.safetensors")[-1].range == f"bytes={had}-"


async def test_silence_in_the_middle_ends_a_try(hub: Hub, puller: Puller) -> None:
    hub.add(NAME, FILES)
    hub.faults["model.safetensors"] = ["hang"]
    assert content_of((await puller(NAME, read_s=0.2)).path) == FILES
    assert any("nothing came for a while" in said for said in puller.watch.said)


async def test_two_pulls_at_once_make_one_transfer(hub: Hub, puller: Puller) -> None:
    hub.add(NAME, FILES)
    other = Puller(hub, puller.cache)
    first, second = await asyncio.gather(puller(NAME), other(NAME))
    assert first.path == second.path
    assert sorted([first.fresh, second.fresh]) == [False, True]
    assert content_of(first.path) == FILES
    assert len([one for one in hub.asked_for("model.safetensors") if one.host == "cdn"]) == 1


class TestSecrets:
    async def test_the_token_goes_to_the_hub_and_nowhere_else(self, hub: Hub, puller: Puller) -> None:
        hub.add(NAME, FILES, private=True)
        assert content_of((await puller(NAME, token=TOKEN)).path) == FILES
        assert {one.authorization for one in hub.seen if one.host == "hub"} == {f"Bearer {TOKEN}"}
        assert {one.authorization for one in hub.seen if one.host == "cdn"} == {""}

    async def test_neither_token_nor_signature_is_said_or_kept(self, hub: Hub, puller: Puller) -> None:
        hub.add(NAME, FILES, private=True)
        hub.faults["model.safetensors"] = ["404"]
        with pytest.raises(PullError) as refused:
            await puller(NAME, token=TOKEN)
        await puller(NAME, token=TOKEN)
        hub.plain["w.bin"] = WEIGHTS
        pulled = await puller(hub.cdn.replace("//", "//me:secret-word@") + "/plain/w.bin?X-Signature=secret")
        told = str(refused.value) + " ".join(puller.watch.said) + json.dumps(pulled.record)
        told += "".join(path.read_text() for path in puller.cache.rglob("*.json"))
        assert "secret" not in told


class TestRefusals:
    async def test_gated(self, hub: Hub, puller: Puller) -> None:
        hub.add(NAME, FILES, gated=True)
        with pytest.raises(
            PullError, match=rf"{hub.url}/{NAME} is gated: accept its terms there .* set HF_TOKEN"
        ):
            await puller(NAME)
        assert content_of((await puller(NAME, token=TOKEN)).path) == FILES

    async def test_private_or_not_there(self, hub: Hub, puller: Puller) -> None:
        hub.add(NAME, FILES, private=True)
        with pytest.raises(PullError, match=rf"there is no {hub.url}/{NAME}, or it is private: set HF_TOKEN"):
            await puller(NAME)
        with pytest.raises(PullError, match="or it is private: the HF_TOKEN that is set does not help"):
            await puller("no/such", token="hf_wrong")

    async def test_no_such_revision_and_no_such_file(self, hub: Hub, puller: Puller) -> None:
        hub.add(NAME, FILES)
        with pytest.raises(PullError, match="there is no such revision"):
            await puller(f"{NAME}@v9")
        with pytest.raises(PullError, match=r"has no file voices/\*\.bin"):
            await puller(NAME, files=("config.json", "voices/*.bin"))

    async def test_paths_that_lead_out(self, hub: Hub, puller: Puller) -> None:
        for path in ("../evil.json", "/etc/passwd", "a/../../b", "a\\..\\b", "./x"):
            hub.add(NAME, {**FILES, path: b"!"})
            with pytest.raises(PullError, match="outside its folder"):
                await puller(NAME)
        assert not list(puller.cache.rglob("model.safetensors*"))

    async def test_redirects_without_end_and_pages_in_place_of_files(self, hub: Hub, puller: Puller) -> None:
        hub.add(NAME, FILES)
        hub.faults["config.json"] = ["loop"] * 20
        with pytest.raises(PullError, match="redirects without end"):
            await puller(NAME)
        hub.faults["config.json"] = ["html"]
        with pytest.raises(PullError, match="web page"):
            await puller(NAME)

    async def test_a_full_disk_is_said_before(
        self, hub: Hub, puller: Puller, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        hub.add(NAME, FILES)
        free = shutil.disk_usage("/").free
        monkeypatch.setattr(download, "RESERVE", free * 4)
        with pytest.raises(PullError, match=r"are needed in .* are free: make room"):
            await puller(NAME)
        assert hub.asked_for("model.safetensors") == []


class TestOffline:
    async def test_one_sentence_soon(self, hub: Hub, puller: Puller) -> None:
        dead = "http://127.0.0.1:9"
        with pytest.raises(Unreachable) as failed:
            await puller(NAME, endpoint=dead)
        assert str(failed.value).startswith(
            "127.0.0.1:9 cannot be reached (connection refused): check the network"
        )
        assert len(puller.pauses) == 2
        assert puller.watch.said == []

    async def test_what_was_pulled_before_is_taken(self, hub: Hub, puller: Puller) -> None:
        hub.add(NAME, FILES)
        first = await puller(NAME)
        again = await puller(NAME, endpoint="http://127.0.0.1:9")
        assert (again.path, again.fresh) == (first.path, False)
        with pytest.raises(Unreachable):
            await puller(NAME, endpoint="http://127.0.0.1:9", files=("config.json",))

    async def test_a_commit_that_is_here_asks_nobody(self, hub: Hub, puller: Puller) -> None:
        commit = hub.add(NAME, FILES).commit
        await puller(f"{NAME}@{commit}")
        hub.seen.clear()
        await puller(f"{NAME}@{commit}")
        assert hub.seen == []

    async def test_a_folder_that_lost_a_file_is_pulled_again(self, hub: Hub, puller: Puller) -> None:
        hub.add(NAME, FILES)
        first = await puller(NAME)
        (first.path / "model.safetensors").unlink()
        assert content_of((await puller(NAME)).path) == FILES

    async def test_hf_hub_offline(self, hub: Hub, puller: Puller) -> None:
        hub.add(NAME, FILES)
        with pytest.raises(Unreachable, match="HF_HUB_OFFLINE is set"):
            await puller(NAME, offline=True)
        assert hub.seen == []


async def test_a_proxy_of_the_environment_is_used(
    hub: Hub, puller: Puller, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.setenv("no_proxy", "")
    hub.add(NAME, FILES)
    with pytest.raises(Unreachable):
        await puller(NAME)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    assert content_of((await puller(NAME)).path) == FILES


def test_the_cache_is_where_others_look_for_one(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from gateway.triton.pulling.cache import cache_folder

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "parley" / "checkpoints"
