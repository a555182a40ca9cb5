"""The embedded server's warden: a small process between Parley and `tritonserver`.

Run by path (`python -I -S warden.py CONFIG`), standard library only, so that it starts in some 30 ms
and can fork safely. It is there because a server must not outlive its owner, and because only a
parent that outlives the server can clean up behind it:

- stdin is the life line. When it closes, by `stop()` or because Parley died in whatever way, the
  server gets SIGTERM, a grace, and then SIGKILL with its whole process group. The word `kill` on it
  skips the grace.
- `tritonserver` is killed by the kernel should the warden itself die (PR_SET_PDEATHSIG; it sits on
  the server only: on a Python stub it would fire when the thread that forked the stub ends).
- Orphaned stubs come to the warden, not to init (PR_SET_CHILD_SUBREAPER): it kills and reaps them.
- It learns which `/dev/shm/triton_*` files are this server's from the memory maps of its processes,
  and unlinks those files and no others.
- It writes the server's output to a log of bounded size.

On stdout it reports one event a line: `log PATH`, `server PID`, `shm PATH`, `stub PID INSTANCE FILE`
(separated by tabs), `gone PID`, and last `exit STATUS LAST_ERROR_LINE`, or `failed REASON` of its own.
"""

from __future__ import annotations

import ctypes
import json
import os
import select
import shutil
import signal
import sys
import time
import traceback

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36
IN_CREATE, IN_OPEN = 0x100, 0x20
SHM = "/dev/shm"
STUB = "triton_python_backend_stub"
SETTLE_S = 0.02
"""A new shared-memory file is followed by its stub; look when the burst of events is over."""


class Log:
    """Appends to `triton.log` in a folder and keeps `keep` older files of `limit` bytes each."""

    def __init__(self, folder: str, *, limit: int = 8 << 20, keep: int = 3) -> None:
        import fcntl

        os.makedirs(folder, exist_ok=True)
        self._limit, self._keep = limit, keep
        self.last_error = ""
        for number in range(1, 100):  # one file per running server: the lock says which is free
            name = "triton" if number == 1 else f"triton-{number}"
            self._lock = os.open(os.path.join(folder, f".{name}.lock"), os.O_CREAT | os.O_RDWR, 0o600)
            try:
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError:
                os.close(self._lock)
        else:
            raise OSError(f"no free log file in {folder}")
        self.path = os.path.join(folder, f"{name}.log")
        self._open()

    def _open(self) -> None:
        self._file = os.open(self.path, os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o600)
        self._size = os.fstat(self._file).st_size

    def write(self, data: bytes) -> None:
        for line in data.decode("utf-8", "replace").splitlines():
            if (line.startswith(("E", "error", "terminate")) or "error while loading" in line) and (
                "CudaDriverHelper" not in line  # said on every machine without a GPU
            ):
                self.last_error = line
        try:
            if self._size > self._limit:
                os.close(self._file)
                for age in range(self._keep, 0, -1):
                    older = self.path if age == 1 else f"{self.path}.{age - 1}"
                    if os.path.exists(older):
                        os.replace(older, f"{self.path}.{age}")
                self._open()
            os.write(self._file, data)
            self._size += len(data)
        except OSError:
            pass  # a full disk must not take the server down


class Warden:
    def __init__(self, config: dict[str, object]) -> None:
        self._command: list[str] = config["command"]  # type: ignore[assignment]
        self._run_dir = str(config["run_dir"])
        self._grace = float(config["grace_s"])  # type: ignore[arg-type]
        self._log = Log(str(config["log_dir"]))
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._poll = select.poll()
        self._stubs: dict[int, int] = {}  # pidfd -> pid
        self._shm: set[str] = set()
        self._server = 0
        self._kill_at = 0.0

    def run(self) -> None:
        self._libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        inotify = self._libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        self._libc.inotify_add_watch(inotify, SHM.encode(), IN_CREATE | IN_OPEN)
        output = self._spawn()
        server = os.pidfd_open(self._server)
        self._say(f"log {self._log.path}")
        self._say(f"server {self._server}")
        for fd in (0, output, server, inotify):
            self._poll.register(fd, select.POLLIN)
        now = time.monotonic
        look_at = 0.0
        while True:
            wake = min((t for t in (look_at, self._kill_at) if t), default=0.0)
            timeout = max(0.0, wake - now()) * 1000 if wake else None
            for fd, _ in self._poll.poll(timeout):
                if fd == server:
                    self._clean_up(output)
                    return
                if fd == output:
                    if not self._copy(output):
                        self._poll.unregister(output)
                elif fd == inotify:
                    if b"triton_" in os.read(inotify, 65_536):
                        look_at = now() + SETTLE_S
                elif fd == 0:
                    order = os.read(0, 4096)
                    if b"kill" in order:
                        self._kill_at = now()
                    elif not order:
                        self._poll.unregister(0)
                        self._end()
                elif fd in self._stubs:
                    self._poll.unregister(fd)
                    os.close(fd)
                    self._say(f"gone {self._stubs.pop(fd)}")
            if look_at and now() >= look_at:
                look_at = 0.0
                self._look()
            if self._kill_at and now() >= self._kill_at:
                self._kill_at = 0.0
                self._look()
                self._kill_group()

    def _spawn(self) -> int:
        read, write = os.pipe2(os.O_CLOEXEC)
        me = os.getpid()
        self._server = os.fork()
        if self._server:
            os.close(write)
            os.set_blocking(read, False)
            return read
        try:
            os.setpgid(0, 0)
            self._libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
            if os.getppid() != me:
                os._exit(1)
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            os.dup2(write, 1)
            os.dup2(write, 2)
            os.execv(self._command[0], self._command)
        except OSError as error:
            os.write(2, f"error: {self._command[0]}: {error.strerror}\n".encode())
        finally:
            os._exit(127)

    def _end(self) -> None:
        try:
            os.kill(self._server, signal.SIGTERM)
        except ProcessLookupError:
            pass
        self._kill_at = self._kill_at or time.monotonic() + self._grace

    def _look(self) -> None:
        """Take note of the server's stubs and shared-memory files."""
        known = set(self._stubs.values())
        for pid, parent in _group(self._server):
            for line in _lines(f"/proc/{pid}/maps"):
                at = line.find(f"{SHM}/triton_")
                name = line[at:].removesuffix(" (deleted)")
                if at >= 0 and name not in self._shm:
                    self._shm.add(name)
                    self._say(f"shm {name}")
            # Its children are the stubs; a stub's own children look the same and are not.
            if parent != self._server or pid in known:
                continue
            arguments = _read(f"/proc/{pid}/cmdline").split("\0")
            if len(arguments) > 8 and os.path.basename(arguments[0]) == STUB:
                try:
                    fd = os.pidfd_open(pid)
                except ProcessLookupError:
                    continue
                self._stubs[fd] = pid
                self._poll.register(fd, select.POLLIN)
                self._say(f"stub {pid}\t{arguments[8]}\t{arguments[1]}")

    def _kill_group(self) -> None:
        try:
            os.killpg(self._server, signal.SIGKILL)
        except ProcessLookupError:
            pass

    def _clean_up(self, output: int) -> None:
        # The server is dead but not yet reaped: its group's number cannot be taken by another.
        self._look()
        status = 0
        self._kill_group()
        while True:
            for pid in _children(os.getpid()):  # what left the group came to us when its parent died
                if pid != self._server:
                    try:
                        os.kill(pid, signal.SIGKILL)
                    except ProcessLookupError:
                        pass
            try:
                pid, code = os.waitpid(-1, 0)
            except ChildProcessError:
                break
            if pid == self._server:
                status = os.waitstatus_to_exitcode(code)
        while self._copy(output):
            pass
        for name in self._shm:
            try:
                os.unlink(name)
            except FileNotFoundError:
                pass
        shutil.rmtree(self._run_dir, ignore_errors=True)
        self._say(f"exit {status} {self._log.last_error}")

    def _copy(self, output: int) -> bool:
        try:
            data = os.read(output, 65_536)
        except BlockingIOError:
            return False
        if data:
            self._log.write(data)
        return bool(data)

    def _say(self, line: str) -> None:
        try:
            os.write(1, line.encode() + b"\n")
        except OSError:
            pass  # nobody is left to hear it


def _group(group: int) -> list[tuple[int, int]]:
    """(pid, parent) of every process of the group."""
    return [(pid, parent) for pid, parent, its_group in _processes() if its_group == group]


def _children(parent: int) -> list[int]:
    return [pid for pid, its_parent, _ in _processes() if its_parent == parent]


def _processes() -> list[tuple[int, int, int]]:
    found = []
    for name in os.listdir("/proc"):
        if name.isdigit():
            # The name in brackets may hold anything; the fields after it are numbers.
            fields = _read(f"/proc/{name}/stat").rpartition(")")[2].split()
            if len(fields) > 2:
                found.append((int(name), int(fields[1]), int(fields[2])))
    return found


def _read(path: str) -> str:
    try:
        with open(path, errors="replace") as file:
            return file.read()
    except OSError:
        return ""


def _lines(path: str) -> list[str]:
    return _read(path).splitlines()


def main() -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    warden = None
    try:
        warden = Warden(json.loads(sys.argv[1]))
        warden.run()
    except Exception as error:  # its end takes the server along; the owner sweeps
        if warden is not None:
            warden._log.write(traceback.format_exc().encode())
        os.write(1, f"failed {error}\n".encode())


if __name__ == "__main__":
    main()
