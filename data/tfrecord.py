"""TFRecord files without TensorFlow: where each record lies, and the record, both checked by their CRC-32C."""

from __future__ import annotations

import functools
import pathlib
import struct

import numpy as np

from data.elements import CorruptRecord
from data.robot_dataset import Report, refuse

_HEADER, _FOOTER = struct.Struct("<QI"), struct.Struct("<I")
_POLYNOMIAL = 0x82F63B78  # Castagnoli, reflected
_BLOCK = 256  # bytes that are taken one after the other, all blocks of a record at once


def record_offsets(path: pathlib.Path, report: Report = refuse) -> list[tuple[int, int]]:
    """(offset, length) of every record's data, by hopping from header to header.

    Raises ValueError where the file is truncated, or is no TFRecord (compressed ones are none); with `report` tells
    that and returns the records before.
    """
    places, position, size = [], 0, path.stat().st_size
    with path.open("rb") as file:
        while position < size:
            file.seek(position)
            header = file.read(_HEADER.size)
            where = f"{path}, record {len(places)}"
            length, check = _HEADER.unpack(header) if len(header) == _HEADER.size else (size, None)
            if check is not None and masked_crc(header[:8]) != check:
                report(f"{where}: its length fails its checksum; the file is damaged, or no plain TFRecord")
                break
            end = position + _HEADER.size + length + _FOOTER.size
            if end > size:
                report(f"{where}: the file ends inside it; copy the file again")
                break
            places.append((position + _HEADER.size, length))
            position = end
    return places


def read_record(path: pathlib.Path, offset: int, length: int) -> bytes:
    """The data of a record. Raises CorruptRecord where they fail their checksum."""
    with path.open("rb") as file:
        file.seek(offset)
        data = file.read(length)
        check = file.read(_FOOTER.size)
    if len(data) < length or masked_crc(data) != _FOOTER.unpack(check)[0]:
        raise CorruptRecord("it fails its checksum; copy the file again")
    return data


def masked_crc(data: bytes) -> int:
    """The CRC-32C of data, rotated and shifted as TFRecord stores it."""
    crc = crc32c(data)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def crc32c(data: bytes) -> int:
    """CRC-32C (Castagnoli) of data (RFC 3720, appendix B.4).

    A CRC is linear over GF(2): blocks are computed side by side, then shifted by what follows them and added.
    """
    table, crc = _byte_table(), 0xFFFFFFFF
    if len(data) < _BLOCK:
        for byte in data:
            crc = int(table[(crc ^ byte) & 0xFF]) ^ crc >> 8
        return crc ^ 0xFFFFFFFF
    blocks = np.zeros(-(-len(data) // _BLOCK) * _BLOCK, np.uint8)
    end = blocks[len(blocks) - len(data) :]  # zeros in front change nothing once the start value is in the data
    end[:] = np.frombuffer(data, np.uint8)
    end[:4] ^= 0xFF
    crc_R = np.zeros(len(blocks) // _BLOCK, np.uint32)
    for column_R in blocks.reshape(-1, _BLOCK).T:
        crc_R = table[(crc_R ^ column_R) & 0xFF] ^ crc_R >> 8
    level = 0
    while len(crc_R) > 1:
        if len(crc_R) % 2:
            crc_R = np.concatenate([np.zeros(1, np.uint32), crc_R])
        crc_R = _shifted(crc_R[::2], level) ^ crc_R[1::2]
        level += 1
    return int(crc_R[0]) ^ 0xFFFFFFFF


@functools.cache
def _byte_table() -> np.ndarray:
    """uint32[256]: what a byte turns a CRC of 0 into."""
    table = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        table = np.where(table & 1, table >> 1 ^ np.uint32(_POLYNOMIAL), table >> 1)
    return table


@functools.cache
def _shift_table(level: int) -> np.ndarray:
    """uint32[4,256]: byte k of a CRC, moved past `_BLOCK` * 2**level zero bytes."""
    if level == 0:
        table = np.arange(256, dtype=np.uint32) << np.arange(0, 32, 8, dtype=np.uint32)[:, None]
        for _ in range(_BLOCK):
            table = _byte_table()[table & 0xFF] ^ table >> 8
        return table
    return _shifted(_shift_table(level - 1), level - 1)


def _shifted(crc: np.ndarray, level: int) -> np.ndarray:
    tables = _shift_table(level)
    parts = [tables[byte][crc >> np.uint32(8 * byte) & 0xFF] for byte in range(4)]
    return parts[0] ^ parts[1] ^ parts[2] ^ parts[3]
