"""Message frames exchanged with the OCaml programs (``grader/ocaml/wire.ml``).

A frame is a 32-bit big-endian length and a payload of that many bytes; the payload is a sequence of fields of the same form.
"""

import struct
from collections.abc import Sequence

_LENGTH = struct.Struct(">I")
HEADER_BYTES = _LENGTH.size
MAX_FRAME_BYTES = 64 * 1024 * 1024


def _prefixed(payload: bytes) -> bytes:
    return _LENGTH.pack(len(payload)) + payload


def encode(fields: Sequence[bytes]) -> bytes:
    """Encode fields as one frame."""
    return _prefixed(b"".join(_prefixed(field) for field in fields))


def payload_length(header: bytes) -> int:
    """Length in bytes of the payload after a frame's header."""
    (length,) = _LENGTH.unpack(header)
    return int(length)


def decode(payload: bytes) -> list[bytes]:
    """Decode a frame's payload to fields; raises ValueError if the lengths do not add up."""
    fields: list[bytes] = []
    offset = 0
    while offset < len(payload):
        start = offset + HEADER_BYTES
        if start > len(payload):
            raise ValueError("a frame ends within a field's length")
        end = start + payload_length(payload[offset:start])
        if end > len(payload):
            raise ValueError("a frame ends within a field")
        fields.append(payload[start:end])
        offset = end
    return fields
