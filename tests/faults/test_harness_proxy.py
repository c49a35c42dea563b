"""The proxy passes everything on, late, broken or not at all, as it is told."""

import contextlib
import socket
import socketserver
import threading
import time
from collections.abc import Iterator

import pytest
from tests.faults.harness import proxy


class Echo(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        with contextlib.suppress(OSError):
            while data := self.request.recv(4096):
                self.request.sendall(data)


@pytest.fixture
def link() -> Iterator[proxy.Proxy]:
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Echo) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        made = proxy.Proxy(1, server.server_address[1])
        yield made
        made.close()
        server.shutdown()


def asked(to: socket.socket, words: bytes) -> bytes:
    to.sendall(words)
    found = b""
    while len(found) < len(words):
        some = to.recv(4096)
        if not some:
            raise ConnectionError("ended")
        found += some
    return found


def test_what_is_sent_comes_back_whole(link: proxy.Proxy) -> None:
    with socket.create_connection(("127.0.0.1", link.port)) as to:
        assert asked(to, b"some words") == b"some words"
        assert asked(to, bytes(300_000)) == bytes(300_000)


def test_latency_is_added_once_to_what_is_under_way_together(link: proxy.Proxy) -> None:
    link.latency_s = 0.2
    with socket.create_connection(("127.0.0.1", link.port)) as to:
        begun = time.monotonic()
        for word in (b"one", b"two", b"three"):
            to.sendall(word)
            time.sleep(0.01)
        assert asked(to, b"!")
        took = time.monotonic() - begun
    assert 0.2 <= took < 0.6


def test_a_share_of_what_is_sent_meets_a_reset(link: proxy.Proxy) -> None:
    link.resets, broken, tries = 0.3, 0, 200
    for _ in range(tries):
        with socket.create_connection(("127.0.0.1", link.port)) as to:
            try:
                asked(to, b"words")
            except ConnectionError:
                broken += 1
    assert broken == link.broken
    assert 0.15 * tries < broken < 0.45 * tries


def test_nothing_passes_while_it_is_cut_off_and_everything_afterwards(link: proxy.Proxy) -> None:
    with socket.create_connection(("127.0.0.1", link.port)) as to:
        assert asked(to, b"before") == b"before"
        link.cut()
        to.settimeout(0.3)
        to.sendall(b"meanwhile")
        with pytest.raises(TimeoutError):
            to.recv(100)
        link.mend()
        assert to.recv(100) == b"meanwhile"
