"""gRPC services over HTTP/2 on the event loop itself: no thread, no completion queue between a socket and
the coroutine that reads it (docs/decisions/own-http2.md)."""
