"""An OTLP/HTTP collector: a small HTTP server that reads what comes with OpenTelemetry's own protobufs."""

from __future__ import annotations

import gzip
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.common.v1.common_pb2 import KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span as Wire


@dataclass(frozen=True)
class Got:
    """A span as it arrived."""

    service: str
    wire: Wire

    @property
    def name(self) -> str:
        return self.wire.name

    @property
    def trace(self) -> str:
        return self.wire.trace_id.hex()

    @property
    def id(self) -> str:
        return self.wire.span_id.hex()

    @property
    def parent(self) -> str:
        return self.wire.parent_span_id.hex()

    @property
    def links(self) -> list[str]:
        return [link.span_id.hex() for link in self.wire.links]

    @property
    def ms(self) -> float:
        return (self.wire.end_time_unix_nano - self.wire.start_time_unix_nano) / 1e6

    @property
    def failed(self) -> bool:
        return self.wire.status.code == self.wire.status.STATUS_CODE_ERROR

    @property
    def about(self) -> dict[str, Any]:
        return {pair.key: _value(pair) for pair in self.wire.attributes}


@dataclass
class Collector:
    port: int
    tls: bool = False
    spans: list[Got] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    status: int = 200
    """What it answers."""
    news: threading.Condition = field(default_factory=threading.Condition)

    @property
    def url(self) -> str:
        return f"http{'s' * self.tls}://127.0.0.1:{self.port}"

    def wait(self, until: Callable[[list[Got]], bool], within_s: float = 10.0) -> list[Got]:
        """The spans, once they are as they should be; blocks."""
        with self.news:
            assert self.news.wait_for(lambda: until(self.spans), within_s), [
                (span.service, span.name) for span in self.spans
            ]
            return list(self.spans)

    def named(self, name: str) -> list[Got]:
        return [span for span in self.spans if span.name == name]


@contextmanager
def collecting(tls: ssl.SSLContext | None = None) -> Iterator[Collector]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            if self.headers.get("content-encoding") == "gzip":
                body = gzip.decompress(body)
            assert self.path == "/v1/traces"
            assert self.headers["content-type"] == "application/x-protobuf"
            asked = ExportTraceServiceRequest.FromString(body)
            with it.news:
                it.headers.append({key.lower(): value for key, value in self.headers.items()})
                if it.status == 200:
                    it.spans += _spans(asked)
                it.news.notify_all()
            self.send_response(it.status)
            self.end_headers()
            self.wfile.write(ExportTraceServiceResponse().SerializeToString())

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    if tls is not None:
        server.socket = tls.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    it = Collector(server.server_address[1], tls is not None)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield it
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _spans(asked: ExportTraceServiceRequest) -> list[Got]:
    found = []
    for resource in asked.resource_spans:
        about = {pair.key: _value(pair) for pair in resource.resource.attributes}
        for scope in resource.scope_spans:
            found += [Got(str(about["service.name"]), span) for span in scope.spans]
    return found


def _value(pair: KeyValue) -> Any:
    kind = pair.value.WhichOneof("value")
    return getattr(pair.value, kind) if kind else None
