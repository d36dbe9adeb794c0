"""Extracts Qt binary resources (.rcc, format 1 to 3, zlib): extract_rcc.py FOLDER FILE.rcc ..., each into FOLDER/<name of the file>."""
import os
import struct
import sys
import zlib


def extract(path, folder):
    data = open(path, "rb").read()
    if data[:4] != b"qres":
        sys.exit(f"{path} is no Qt resource")
    version, tree, blobs, names = struct.unpack_from(">4I", data, 4)
    entry = 14 if version == 1 else 22

    def name_of(at):
        length = struct.unpack_from(">H", data, names + at)[0]
        return data[names + at + 6 : names + at + 6 + 2 * length].decode("utf-16-be")

    def walk(index, parent):
        name, flags, first, second = struct.unpack_from(">IHII", data, tree + index * entry)
        here = os.path.join(parent, name_of(name)) if index else parent
        if flags & 2:  # a folder: its count and its first child
            for child in range(second, second + first):
                walk(child, here)
            return
        start = blobs + second
        length = struct.unpack_from(">I", data, start)[0]
        content = data[start + 4 : start + 4 + length]
        if flags & 4:
            sys.exit(f"{here} is compressed with zstd")
        os.makedirs(os.path.dirname(here), exist_ok=True)
        with open(here, "wb") as file:
            file.write(zlib.decompress(content[4:]) if flags & 1 else content)

    walk(0, folder)


for resource in sys.argv[2:]:
    extract(resource, os.path.join(sys.argv[1], os.path.basename(resource)[: -len(".rcc")]))
