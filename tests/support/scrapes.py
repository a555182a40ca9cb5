"""Metrics pages over the length of a run: which series moved, from the first look to the last."""

from __future__ import annotations

import asyncio
import re
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from prometheus_client.parser import text_string_to_metric_families

Labels = frozenset[tuple[str, str]]


@dataclass
class Course:
    """One series on one page."""

    first: float
    """At the first look at its page; 0 where it was not there yet."""
    values: set[float] = field(default_factory=set)
    last: float = 0.0


class Scrapes:
    """`look()` reads every page once more."""

    def __init__(self, pages: Mapping[str, str]) -> None:
        """pages: URLs of metrics pages by name."""
        self._pages = dict(pages)
        self._looked: set[str] = set()
        self._courses: dict[tuple[str, str, Labels], Course] = {}
        self._kinds: dict[str, str] = {}

    async def look(self) -> None:
        for page, url in self._pages.items():
            text = await asyncio.to_thread(_read, url)
            there: set[tuple[str, str, Labels]] = set()
            for family in text_string_to_metric_families(text):
                for sample in family.samples:
                    name = re.sub(r"_(bucket|sum|count)$", "", sample.name)
                    if sample.name.endswith(("_bucket", "_sum", "_created")) or name == "python_info":
                        continue
                    key = page, name, frozenset(sample.labels.items())
                    there.add(key)
                    self._kinds[name] = family.type
                    course = self._courses.get(key)
                    if course is None:
                        first = 0.0 if page in self._looked else sample.value
                        course = self._courses[key] = Course(first)
                    course.values.add(sample.value)
                    course.last = sample.value
            for key, course in self._courses.items():
                if key[0] == page and key not in there:
                    course.values.add(0.0)  # a level of something that is gone
                    course.last = 0.0
            self._looked.add(page)

    async def until(self, what: str, happened: Callable[[], bool], within_s: float = 15.0) -> None:
        """A page of numbers tells nobody when they change: it is read again and again."""
        try:
            async with asyncio.timeout(within_s):
                while True:
                    await self.look()
                    if happened():
                        return
                    await asyncio.sleep(0.05)
        except TimeoutError:
            raise AssertionError(f"never seen on a metrics page: {what}") from None

    def names(self) -> set[str]:
        return set(self._kinds)

    def series(self) -> list[tuple[str, dict[str, str]]]:
        """Every name and its labels that any page has had."""
        return [(name, dict(labels)) for _, name, labels in self._courses]

    def moved(self, name: str, where: Callable[[dict[str, str]], bool] = lambda labels: True) -> bool:
        """Whether one of its series did: a counter or a histogram has grown, a level has had two values."""
        kind = self._kinds.get(name)
        for (_, its, labels), course in self._courses.items():
            if its != name or not where(dict(labels)):
                continue
            if kind in ("counter", "histogram"):
                if max(course.values) > course.first:
                    return True
            elif len(course.values | {course.first}) > 1:
                return True
        return False

    def now(self, name: str, **labels: str) -> float:
        """The sum over the pages and over labels that are not named, as of the last look."""
        return sum(
            course.last
            for (_, its, has), course in self._courses.items()
            if its == name and labels.items() <= dict(has).items()
        )


def _read(url: str) -> str:
    with urllib.request.urlopen(url, timeout=5.0) as answer:
        return str(answer.read().decode())
