"""The states of many sequences, carried from batch to batch of a graph.

A batch's new states stay together as they came. When the next batch is the same sequences in the same order they
go back into the graph without being copied; otherwise the rows are picked together anew.
"""

from __future__ import annotations

import weakref
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gateway.triton.exported.description import Graph

Array = NDArray[Any]


class Row:
    """A sequence's place in the states of the last batch that it was in."""

    __slots__ = ("__weakref__", "at", "block")

    def __init__(self) -> None:
        self.block: Block | None = None
        """None before the first step."""
        self.at = 0


class Block:
    """New states [batch, …] by the name of the input that they go into next."""

    __slots__ = ("arrays", "rows")

    def __init__(self, arrays: dict[str, Array], rows: Sequence[Row]) -> None:
        self.arrays = arrays
        self.rows = [weakref.ref(row) for row in rows]
        for at, row in enumerate(rows):
            row.block, row.at = self, at


class Carried:
    """Of one graph."""

    def __init__(self, graph: Graph) -> None:
        self._graph = graph

    def feeds(self, rows: Sequence[Row]) -> dict[str, Array]:
        """START and states of these sequences, batch first, in their order."""
        starts = np.array([[row.block is None] for row in rows], dtype=np.float32)
        return {self._graph.start: starts, **self._states(rows)}

    def keep(self, rows: Sequence[Row], made: Mapping[str, Array]) -> None:
        """What the graph made of `feeds`."""
        left = {id(row.block): row.block for row in rows if row.block is not None}
        Block({state.input: made[state.output] for state in self._graph.states}, rows)
        for block in left.values():
            _let_go(block)

    def _states(self, rows: Sequence[Row]) -> dict[str, Array]:
        block = rows[0].block
        same = block is not None and len(rows) == len(block.rows)
        if (
            block is not None
            and same
            and all(row.block is block and row.at == at for at, row in enumerate(rows))
        ):
            return block.arrays
        states = {}
        for state in self._graph.states:
            states[state.input] = joined = np.zeros((len(rows), *state.dims), dtype=np.float32)
            for at, row in enumerate(rows):
                if row.block is not None:
                    joined[at] = row.block.arrays[state.input][row.at]
        return states


def _let_go(block: Block) -> None:
    """Sequences that were not in the latest batch get states of their own: one that is quiet must not hold the
    memory of all it was once together with."""
    rows = [row for row in (ref() for ref in block.rows) if row is not None and row.block is block]
    if len(rows) < len(block.rows):
        for row in rows:
            Block({name: array[row.at : row.at + 1].copy() for name, array in block.arrays.items()}, [row])
