"""The MongoDB wire protocol, as much of it as drivers use: OP_MSG, and OP_QUERY for the first handshake."""

from __future__ import annotations

import itertools
import logging
import socketserver
import struct
from collections.abc import Callable
from typing import Any

import bson
from bson import CodecOptions
from bson.codec_options import DatetimeConversion
from bson.raw_bson import RawBSONDocument

Document = dict[str, Any]
Handler = Callable[[Document, "Peer"], Document]

_HEADER = struct.Struct("<iiii")
_OP_REPLY, _OP_QUERY, _OP_MSG = 1, 2004, 2013
_CHECKSUM_PRESENT, _MORE_TO_COME = 1, 2
_MAX_MESSAGE = 48_000_000
# Dates that Python cannot hold come as milliseconds instead of as an error.
PLAIN: CodecOptions[Document] = CodecOptions(document_class=dict, datetime_conversion=DatetimeConversion.DATETIME_AUTO)
# What a client inserts is handed on byte for byte.
RAW: CodecOptions[RawBSONDocument] = CodecOptions(
    document_class=RawBSONDocument, datetime_conversion=DatetimeConversion.DATETIME_AUTO
)

log = logging.getLogger(__name__)


class Peer:
    """One client connection, as commands see it."""

    def __init__(self, number: int, address: str) -> None:
        self.number = number
        self.address = address


class Server(socketserver.ThreadingTCPServer):
    """Serve each connection in a thread of its own."""

    allow_reuse_address = True
    daemon_threads = True
    request_queue_size = 128

    def __init__(self, port: int, handler: Handler) -> None:
        super().__init__(("127.0.0.1", port), _Connection)
        self.handler = handler
        self.numbers = itertools.count(1)

    def handle_error(self, _request: Any, client_address: Any) -> None:
        """Log what a connection's thread could not deal with."""
        log.exception("the connection from %s failed", client_address)


class _Connection(socketserver.StreamRequestHandler):
    """Read requests and write replies until the client hangs up."""

    server: Server
    disable_nagle_algorithm = True

    def handle(self) -> None:
        """Answer message after message."""
        host, port = self.client_address[:2]
        peer = Peer(next(self.server.numbers), f"{host}:{port}")
        try:
            while message := self._read():
                self._answer(*message, peer)
        except (ConnectionError, TimeoutError):
            log.debug("%s hung up", peer.address)

    def _read(self) -> tuple[int, int, bytes] | None:
        """Return request id, operation and body of the next message, or None at the end."""
        head = self.rfile.read(_HEADER.size)
        if len(head) < _HEADER.size:
            return None
        length, request_id, _, operation = _HEADER.unpack(head)
        if not _HEADER.size <= length <= _MAX_MESSAGE:
            raise ConnectionError(f"message of {length} bytes")
        body = self.rfile.read(length - _HEADER.size)
        return (request_id, operation, body) if len(body) == length - _HEADER.size else None

    def _answer(self, request_id: int, operation: int, body: bytes, peer: Peer) -> None:
        """Run the command in one message and send its reply, unless the client wants none."""
        if operation == _OP_QUERY:
            payload = struct.pack("<iqii", 8, 0, 0, 1) + bson.encode(self.server.handler(_query(body), peer))
            self._send(request_id, _OP_REPLY, payload)
            return
        if operation != _OP_MSG:
            raise ConnectionError(f"operation {operation} is not spoken here")
        flags, command = _message(body)
        reply = self.server.handler(command, peer)
        if not flags & _MORE_TO_COME:
            self._send(request_id, _OP_MSG, b"\0\0\0\0\0" + bson.encode(reply))

    def _send(self, request_id: int, operation: int, payload: bytes) -> None:
        """Write one message."""
        self.wfile.write(_HEADER.pack(_HEADER.size + len(payload), 0, request_id, operation) + payload)


def _query(body: bytes) -> Document:
    """Return the command inside an OP_QUERY."""
    end = body.index(b"\0", 4)
    command = _decode(body, end + 9, PLAIN)[0]
    return {**command, "$db": body[4:end].decode().partition(".")[0]}


def _message(body: bytes) -> tuple[int, Document]:
    """Return flags and command of an OP_MSG, with its document sequences put back in place."""
    (flags,) = struct.unpack_from("<I", body)
    end = len(body) - 4 if flags & _CHECKSUM_PRESENT else len(body)
    command: Document = {}
    position = 4
    while position < end:
        kind = body[position]
        position += 1
        if kind == 0:
            document, position = _decode(body, position, PLAIN)
            command = {**document, **command}
        else:
            (size,) = struct.unpack_from("<i", body, position)
            name, documents = _sequence(body[position + 4 : position + size])
            command[name] = documents
            position += size
    return flags, command


def _sequence(section: bytes) -> tuple[str, list[Any]]:
    """Return name and documents of a kind-1 section."""
    end = section.index(b"\0")
    name = section[:end].decode()
    options: CodecOptions[Any] = RAW if name == "documents" else PLAIN
    documents = []
    position = end + 1
    while position < len(section):
        document, position = _decode(section, position, options)
        documents.append(document)
    return name, documents


def _decode(body: bytes, position: int, options: CodecOptions[Any]) -> tuple[Any, int]:
    """Return the document at a position, and the position after it."""
    (size,) = struct.unpack_from("<i", body, position)
    return bson.decode(body[position : position + size], options), position + size
