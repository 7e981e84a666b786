"""The harness finds the server's addresses in whatever words it prints them."""

from __future__ import annotations

import pytest

from conftest import Server, addresses

EXPECTED = Server("http://127.0.0.1:4001", "127.0.0.1:4002")


@pytest.mark.parametrize("printed", [
    "listening on http://127.0.0.1:4001\ngrpc on 127.0.0.1:4002\n",
    "gRPC on http://127.0.0.1:4002\nlistening on http://127.0.0.1:4001/\n",
    "API and console http://127.0.0.1:4001, OTLP/gRPC 127.0.0.1:4002",
    "\x1b[32m INFO\x1b[0m up \x1b[3mhttp\x1b[0m=http://127.0.0.1:4001 \x1b[3mgrpc\x1b[0m\x1b[2m=\x1b[0m127.0.0.1:4002",
    '{"listen":"http://127.0.0.1:4001","grpc_listen":"127.0.0.1:4002"}',
])
def test_both_addresses_are_found(printed: str) -> None:
    assert addresses(printed) == EXPECTED


@pytest.mark.parametrize("printed", ["", "listening on http://127.0.0.1:4001\n", "grpc on 127.0.0.1:4002\n",
                                     "listening on http://127.0.0.1:0, grpc on 127.0.0.1:0\n"])
def test_half_a_start_is_no_start(printed: str) -> None:
    assert addresses(printed) is None
