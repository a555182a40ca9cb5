"""How many calls for speech are open: what an autoscaler, and whoever drains this process, looks at."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable
from typing import Any

import grpc
import grpc.aio

from gateway.grpc_methods import method_of, with_method
from gateway.telemetry.speech_metrics import SpeechMetrics

KIND_OF = {
    "/nvidia.riva.asr.RivaSpeechRecognition/StreamingRecognize": "asr",
    "/nvidia.riva.asr.RivaSpeechRecognition/Recognize": "asr",
    "/nvidia.riva.tts.RivaSpeechSynthesis/SynthesizeOnline": "tts",
    "/nvidia.riva.tts.RivaSpeechSynthesis/Synthesize": "tts",
    "/parley.v1.Tts/Synthesize": "tts",
}


class CountStreams(grpc.aio.ServerInterceptor):
    """Counts the calls of KIND_OF while their methods run; it does nothing for each message."""

    def __init__(self, metrics: SpeechMetrics) -> None:
        self._metrics = metrics

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        handler = await continuation(handler_call_details)
        kind = KIND_OF.get(handler_call_details.method)
        if handler is None or kind is None:
            return handler
        method, stream = method_of(handler), self._metrics.stream
        assert inspect.iscoroutinefunction(method), handler_call_details.method

        async def counted(request: Any, context: Any) -> Any:
            with stream(kind):
                return await method(request, context)

        return with_method(handler, counted)
