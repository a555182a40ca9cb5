"""Fixtures that several rooms share, each started when a test first asks for it."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec
from typing import TYPE_CHECKING

import pytest

# The exporter's own environment has neither servers nor clients, and so nothing to tell.
pytest_plugins = ["tests.support.leak_plugin"] if find_spec("starlette") and find_spec("grpc") else []

if TYPE_CHECKING:
    from tests.support.cluster import Cluster


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """A real control plane with two simulated nodes of one GPU each; see tests/support/cluster.py."""
    from tests.support.cluster import Cluster

    with Cluster() as running:
        yield running


@pytest.fixture
def namespace(cluster: Cluster) -> Iterator[str]:
    """A fresh namespace, in which Pod Security admits only what is `restricted`."""
    with cluster.namespace() as name:
        yield name
