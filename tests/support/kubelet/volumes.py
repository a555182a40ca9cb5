"""A pod's volumes as files, with the owners and modes that Kubernetes gives them."""

from __future__ import annotations

import base64
import os
import secrets
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tests.support.kube_api import Api, ApiError, Object
from tests.support.kubelet.container import Mount
from tests.support.kubelet.fields import field_of

_TOKEN_S = 3_600


class NotYet(Exception):
    """Something the pod refers to is not there (yet); `str()` says what."""


@dataclass
class Volumes:
    """Of one pod, below `folder`."""

    api: Api
    pod: Object
    folder: Path
    claims: Path
    """Where volumes lie that outlive pods."""
    _made: dict[str, Path | None] = field(default_factory=dict)

    async def make(self) -> None:
        """Raises: NotYet."""
        for volume in self.pod["spec"].get("volumes") or ():
            await self._one(volume)

    async def refresh(self) -> None:
        """What ConfigMaps and Secrets say now, swapped in at once, as a kubelet does about every minute."""
        for volume in self.pod["spec"].get("volumes") or ():
            if volume.keys() & {"configMap", "secret", "projected"}:
                await self._one(volume)

    def mounts(self, container: Object) -> list[Mount]:
        found = []
        for one in container.get("volumeMounts") or ():
            source, read_only = self._made[one["name"]], one.get("readOnly", False)
            if source is None:
                found.append(Mount(None, one["mountPath"], size=self._size(one["name"])))
                continue
            if one.get("subPath"):
                source = (source / one["subPath"]).resolve()  # the file itself: it is never swapped
                if not source.exists() and not read_only:
                    self._own_folder(source)
            found.append(Mount(source, one["mountPath"], read_only or not self._writable(one["name"])))
        return found

    @property
    def group(self) -> int | None:
        found = self.pod["spec"].get("securityContext", {}).get("fsGroup")
        return None if found is None else int(found)

    async def _one(self, volume: Object) -> None:
        name = volume["name"]
        if "emptyDir" in volume:
            if volume["emptyDir"].get("medium") == "Memory" and self._users(name) == 1:
                self._made[name] = None  # of the one container that has it
            elif name not in self._made:
                self._made[name] = self._own_folder(self.folder / name)
        elif "persistentVolumeClaim" in volume:
            claim = volume["persistentVolumeClaim"]["claimName"]
            self._made[name] = self._own_folder(self.claims / self.pod["metadata"]["namespace"] / claim)
        elif "hostPath" in volume:
            self._made[name] = Path(volume["hostPath"]["path"])
        else:
            mode = self._mode(volume)
            self._made[name] = self._swap(self.folder / name, await self._files(volume), mode)

    async def _files(self, volume: Object) -> dict[str, bytes]:
        if "configMap" in volume:
            source = volume["configMap"]
            return await self._keys("configmaps", source["name"], source)
        if "secret" in volume:
            source = volume["secret"]
            return await self._keys("secrets", source["secretName"], source)
        if "downwardAPI" in volume:
            return self._downward(volume["downwardAPI"])
        files: dict[str, bytes] = {}
        for source in volume["projected"]["sources"]:
            if "serviceAccountToken" in source:
                files[source["serviceAccountToken"]["path"]] = (await self._token(source)).encode()
            elif "downwardAPI" in source:
                files |= self._downward(source["downwardAPI"])
            elif "configMap" in source:
                one = source["configMap"]
                files |= await self._keys("configmaps", one["name"], one)
            else:
                one = source["secret"]
                files |= await self._keys("secrets", one["name"], one)
        return files

    async def _keys(self, plural: str, name: str, source: Object) -> dict[str, bytes]:
        data = await read_keys(self.api, plural, self.pod["metadata"]["namespace"], name)
        if data is None:
            if source.get("optional"):
                return {}
            raise NotYet(f"{plural[:-1]} {name!r} not found")
        if not source.get("items"):
            return data
        missing = [item["key"] for item in source["items"] if item["key"] not in data]
        if missing and not source.get("optional"):
            raise NotYet(f"{plural[:-1]} {name!r} has no key {missing[0]!r}")
        return {item["path"]: data[item["key"]] for item in source["items"] if item["key"] in data}

    def _downward(self, source: Object) -> dict[str, bytes]:
        return {
            item["path"]: field_of(self.pod, item["fieldRef"]["fieldPath"]).encode()
            for item in source.get("items") or ()
        }

    async def _token(self, source: Object) -> str:
        meta, account = self.pod["metadata"], self.pod["spec"].get("serviceAccountName", "default")
        wanted: Object = {"expirationSeconds": _TOKEN_S}
        if source["serviceAccountToken"].get("audience"):
            wanted["audiences"] = [source["serviceAccountToken"]["audience"]]
        made = await self.api.request(
            "POST",
            f"/api/v1/namespaces/{meta['namespace']}/serviceaccounts/{account}/token",
            {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": wanted},
        )
        return str(made["status"]["token"])

    def _swap(self, folder: Path, files: Mapping[str, bytes], mode: int) -> Path:
        """A new generation of files behind one link, so that a reader sees all of it or nothing."""
        generation = folder / f"..{secrets.token_hex(4)}"
        generation.mkdir(parents=True)
        generation.chmod(0o755)
        for path, data in files.items():
            target = generation / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(data)
            if self.group is not None:
                os.chown(target, 0, self.group)
                mode |= 0o040
            target.chmod(mode)
        before = folder / "..data"
        old = before.resolve() if before.is_symlink() else None
        link = folder / "..new"
        link.symlink_to(generation.name)
        link.replace(before)
        for path in files:
            top = folder / Path(path).parts[0]
            if not top.is_symlink():
                top.symlink_to(Path("..data", top.name))
        if old is not None:
            shutil.rmtree(old, ignore_errors=True)
        return folder

    def _own_folder(self, folder: Path) -> Path:
        if not folder.exists():
            folder.mkdir(parents=True)
            folder.chmod(0o777)
            if self.group is not None:
                os.chown(folder, 0, self.group)
                folder.chmod(0o2777)
        return folder

    def _volume(self, name: str) -> Object:
        return next(one for one in self.pod["spec"]["volumes"] if one["name"] == name)

    def _mode(self, volume: Object) -> int:
        source = next(
            volume[kind] for kind in ("configMap", "secret", "projected", "downwardAPI") if kind in volume
        )
        return int(source.get("defaultMode", 0o644))

    def _size(self, name: str) -> str:
        limit = str(self._volume(name)["emptyDir"].get("sizeLimit", ""))
        return limit.replace("Gi", "g").replace("Mi", "m").replace("Ki", "k")

    def _writable(self, name: str) -> bool:
        volume = self._volume(name)
        claim = volume.get("persistentVolumeClaim", {})
        return bool(volume.keys() & {"emptyDir", "persistentVolumeClaim"}) and not claim.get("readOnly")

    def _users(self, name: str) -> int:
        spec = self.pod["spec"]
        mounts = [
            one["name"]
            for container in [*spec["containers"], *(spec.get("initContainers") or ())]
            for one in container.get("volumeMounts") or ()
        ]
        return mounts.count(name)


async def read_keys(api: Api, plural: str, namespace: str, name: str) -> dict[str, bytes] | None:
    """What a ConfigMap or a Secret holds; None when there is none of that name."""
    try:
        found = await api.get(f"/api/v1/namespaces/{namespace}/{plural}/{name}")
    except ApiError as error:
        if error.status == 404:
            return None
        raise
    data = found.get("data") or {}
    if plural == "secrets":
        return {key: base64.b64decode(value) for key, value in data.items()}
    binary = found.get("binaryData") or {}
    return {key: value.encode() for key, value in data.items()} | {
        key: base64.b64decode(value) for key, value in binary.items()
    }
