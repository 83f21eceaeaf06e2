"""Consistent Overhead Byte Stuffing: a frame without zero bytes, so that 0x00 may end it.

After S. Cheshire and M. Baker, "Consistent Overhead Byte Stuffing", IEEE/ACM Transactions on
Networking 7(2), 1999. A full run of 254 bytes at the very end gets no further code byte.
"""

# A run longer than this is copied by a slice, a shorter one byte by byte: on a board a slice is
# an object, on CPython a loop is slow.
_SLICE_BYTES_MIN = 16


def encoded_bytes_max(length):
    """Return how long ``length`` bytes may become, the ending 0x00 included."""
    return length + (length + 253) // 254 + 1 if length else 2


def decoded_bytes_max(length):
    """Return the longest body whose frame, the ending 0x00 included, fits into ``length`` bytes."""
    length -= 1
    return length - (length + 254) // 255


def encode_in_place(buffer, end):
    """Encode ``buffer[1:end]``; return where the frame, which begins at 0 and ends in 0x00, ends.

    ``buffer`` is a bytearray of at least ``encoded_bytes_max(end - 1)`` bytes.
    """
    code_at = 0
    at = 1
    while at < end:
        if at - code_at == 255:
            # The run is full: make room for the code byte of the next one.
            buffer[at + 1 : end + 1] = buffer[at:end]
            end += 1
            buffer[code_at] = 255
            code_at = at
        elif not buffer[at]:
            buffer[code_at] = at - code_at
            code_at = at
        at += 1
    buffer[code_at] = end - code_at
    buffer[end] = 0
    return end + 1


def decode_into(target, source, length):
    """Decode ``source[:length]``, in which no byte is zero; return how many bytes came out.

    ``target`` must be another bytearray, as long as ``length``. -1: these bytes are no COBS.
    """
    at = 0
    out = 0
    while at < length:
        code = source[at]
        end = at + code
        if not code or end > length:
            return -1
        at += 1
        if code > _SLICE_BYTES_MIN:
            target[out : out + code - 1] = memoryview(source)[at:end]
            out += code - 1
            at = end
        else:
            while at < end:
                target[out] = source[at]
                out += 1
                at += 1
        if code < 255 and at < length:
            target[out] = 0
            out += 1
    return out
