"""A loaded model held against its contract by using it: requests, and what came of them in sentences.

Works on any Triton; costs a recogniser some seconds of audio and a voice some sentences. Numbers
(latency, capacity, word errors) are not measured here.
"""

from __future__ import annotations

import asyncio

import grpc.aio

from gateway.triton.catalogue.findings import Finding, error, ok
from gateway.triton.catalogue.verify_asr import verify_asr
from gateway.triton.catalogue.verify_tts import verify_tts
from gateway.triton.channel import GRPCInferenceServiceStub
from gateway.triton.errors import TritonError
from gateway.triton.model_info import ModelInfo, family_of
from gateway.triton.stream import Drains

_DEADLINE_S = 90.0
"""Of all checks of one model."""


async def verify(channel: grpc.aio.Channel, info: ModelInfo, *, answer_s: float = 5.0) -> list[Finding]:
    """What a loaded model does with requests, ok or not, a finding for each part of its contract.

    info: of the model as its Triton describes it.
    answer_s: longest wait for the answer to a chunk, or for a chunk of a synthesis.
    Never raises for what the model does; a model of another family than asr and tts has no contract.
    """
    checks = {"asr": verify_asr, "tts": verify_tts}.get(family_of(info))
    if checks is None:
        return [ok(f"{family_of(info) or 'this'} models have no contract that is checked")]
    drains = Drains(deadline_s=answer_s)
    try:
        async with asyncio.timeout(_DEADLINE_S):
            return await checks(GRPCInferenceServiceStub(channel), info, drains, answer_s)
    except TimeoutError:
        return [error(f"its checks did not come to an end within {_DEADLINE_S:g} s")]
    except TritonError as failure:
        return [error(str(failure))]
    finally:
        await drains.close()
