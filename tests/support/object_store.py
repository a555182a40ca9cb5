"""An object store that speaks S3, for tests: moto's server on a free port, filled from folders."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

CREDENTIALS = {
    "AWS_ACCESS_KEY_ID": "a-test-key",
    "AWS_SECRET_ACCESS_KEY": "a-test-secret",
    "AWS_DEFAULT_REGION": "us-east-1",
}
"""For the environment of whoever reads from it."""


@contextmanager
def object_store(*folders: Path, path: str = "voices/live", also: Sequence[Path] = ()) -> Iterator[str]:
    """Yields the URL of a model repository, as Triton writes it, with these model folders in it. also: files beside them."""
    boto3 = pytest.importorskip("boto3")
    server = pytest.importorskip("moto.server")
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    store = server.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    store.start()
    bucket = f"models-{secrets.token_hex(4)}"  # buckets outlive moto's servers
    try:
        host, port = store.get_host_and_port()
        client = boto3.client(
            "s3",
            endpoint_url=f"http://{host}:{port}",
            aws_access_key_id=CREDENTIALS["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=CREDENTIALS["AWS_SECRET_ACCESS_KEY"],
            region_name=CREDENTIALS["AWS_DEFAULT_REGION"],
        )
        client.create_bucket(Bucket=bucket)
        for folder in folders:
            for file in sorted(folder.rglob("*")):
                if file.is_file() and "__pycache__" not in file.parts:
                    key = f"{path}/{folder.name}/{file.relative_to(folder)}"
                    client.put_object(Bucket=bucket, Key=key, Body=file.read_bytes())
        for file in also:
            client.put_object(Bucket=bucket, Key=f"{path}/{file.name}", Body=file.read_bytes())
        client.close()
        yield f"s3://{host}:{port}/{bucket}/{path}"
    finally:
        store.stop()
