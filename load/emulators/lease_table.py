"""The lease table as a Triton keeps it: the very logic that Parley ships into a real one."""

from __future__ import annotations

import json
import time
from typing import Any

import grpc
from tritonclient.grpc import service_pb2 as pb

from gateway.triton.leases.table import Table
from gateway.triton.leases.wire import MODEL


class LeaseTable:
    """There once it was loaded."""

    def __init__(self) -> None:
        self._table: Table | None = None

    def load(self, request: pb.RepositoryModelLoadRequest) -> None:
        """A second table is refused by a real model; here the first one stays."""
        config = json.loads(request.parameters["config"].string_param)
        grace_s = float(config["parameters"]["grace_s"]["string_value"])
        self._table = self._table or Table(time.monotonic(), name="emulated", grace_s=grace_s)

    async def infer(self, request: pb.ModelInferRequest, context: Any) -> pb.ModelInferResponse:
        if self._table is None:
            await context.abort(
                grpc.StatusCode.NOT_FOUND, f"Request for unknown model: '{MODEL}' is not found"
            )
        assert self._table is not None
        try:
            reply = self._table.tell(json.loads(request.raw_input_contents[0][4:]), time.monotonic())
        except ValueError as error:
            reply = {"error": str(error)}
        raw = json.dumps(reply).encode()
        response = pb.ModelInferResponse(model_name=MODEL, model_version="1", id=request.id)
        response.outputs.add(name="REPLY", datatype="BYTES", shape=[1])
        response.raw_output_contents.append(len(raw).to_bytes(4, "little") + raw)
        return response
