"""A server on this machine that gives every request the same bytes."""

import socketserver
import threading
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field


@dataclass
class Answer:
    """Raw bytes of an answer, and how the server behaves before and after it sends them.

    Attributes:
        requests: first line of each request so far.
        barrier: passed by every request before it is answered.
        drip: sent again and again after the answer, with pauses unless `flood`.
        stall: whether the connection stays open after the answer.
    """

    content: bytes
    barrier: threading.Barrier | None = None
    drip: bytes = b""
    flood: bool = False
    stall: bool = False
    requests: list[str] = field(default_factory=list)
    address: str = ""


def file_answer(content: bytes) -> bytes:
    return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(content) + content


def redirect(target: str) -> bytes:
    return f"HTTP/1.1 302 Found\r\nLocation: {target}\r\nContent-Length: 0\r\n\r\n".encode()


@contextmanager
def serving(content: bytes, **behaviour):
    """Yield an Answer that a server gives to everyone; it can be changed while the server runs."""
    answer, is_over = Answer(content, **behaviour), threading.Event()

    class Handler(socketserver.BaseRequestHandler):
        def handle(self):
            answer.requests.append(self.request.recv(1 << 16).decode().split("\r\n")[0])
            with suppress(OSError, threading.BrokenBarrierError):
                if answer.barrier:
                    answer.barrier.wait(60)
                self.request.sendall(answer.content)
                while answer.drip and not is_over.wait(0 if answer.flood else 0.02):
                    self.request.sendall(answer.drip)
                if answer.stall:
                    is_over.wait(60)

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        answer.address = f"http://127.0.0.1:{server.server_address[1]}"
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield answer
        is_over.set()
        server.shutdown()
