"""CPU time of a process by its threads, by the kernel's own clock of each (schedstat)."""

from __future__ import annotations

from pathlib import Path


class ThreadMeter:
    """CPU seconds of a process by its threads: the first one, the detector's, all others. What a thread used
    after the last look before it ended is lost."""

    def __init__(self, pid: int) -> None:
        self._tasks = Path(f"/proc/{pid}/task")
        self._pid = pid
        self._last: dict[int, int] = {}
        self._used = [0.0, 0.0, 0.0]
        self._kinds: dict[int, int] = {}

    def begin(self) -> None:
        """From now on."""
        self.look()
        self._used = [0.0, 0.0, 0.0]

    def look(self) -> list[float]:
        """[event loop, detector, others], s since `begin`."""
        for task in self._tasks.iterdir():
            number = int(task.name)
            try:
                ran = int((task / "schedstat").read_text().split()[0])
                if number not in self._kinds:
                    self._kinds[number] = self._kind(task)
            except (OSError, IndexError):
                continue  # it has ended
            self._used[self._kinds[number]] += (ran - self._last.get(number, 0)) / 1e9
            self._last[number] = ran
        return list(self._used)

    def _kind(self, task: Path) -> int:
        if int(task.name) == self._pid:
            return 0
        return (
            1 if _nice(task) > _nice(self._tasks / str(self._pid)) else 2
        )  # the detector runs below the rest


def _nice(task: Path) -> int:
    return int((task / "stat").read_text().rpartition(")")[2].split()[16])
