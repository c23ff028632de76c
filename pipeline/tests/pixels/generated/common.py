"""The pictures of all files, and the list of files."""

import io
import random

from PIL import Image

SIZES = [(1, 1), (7, 5), (8, 8), (9, 17), (16, 16), (17, 9), (23, 31), (33, 12), (40, 24)]

entries = {}


def add(name, data):
    assert name not in entries, name
    entries[name] = bytes(data)


def seeded(*key):
    return random.Random(repr(key))


def samples(width, height, channels, top=255, key=0):
    """Rows of samples: a gradient with some noise, different in every channel."""
    rng = seeded(width, height, channels, top, key)
    rows = []
    for y in range(height):
        row = []
        for x in range(width):
            for channel in range(channels):
                slope = (x * (3 + channel) + y * (7 - channel)) * top // (4 * (width + height) + 1)
                value = slope + channel * top // 5 + rng.randint(-top // 16, top // 16)
                row.append(value % (top + 1))
        rows.append(row)
    return rows


def picture(mode, width, height, key=0):
    channels = len(Image.new(mode, (1, 1)).getbands())
    flat = b"".join(bytes(row) for row in samples(width, height, channels, key=key))
    if mode == "1":
        return Image.frombytes("L", (width, height), flat).convert("1")
    if mode == "P":
        image = Image.frombytes("P", (width, height), flat)
        image.putpalette(palette(256))
        return image
    return Image.frombytes(mode, (width, height), flat)


def palette(colours, key=0):
    rng = seeded("palette", colours, key)
    return bytes(rng.randrange(256) for _ in range(3 * colours))


def saved(image, kind, **options):
    to = io.BytesIO()
    image.save(to, kind, **options)
    return to.getvalue()


def pack(rows, depth, pad=1, least_first=False):
    """Packs samples of up to 16 bits, most significant first; rows are padded to `pad` bytes."""
    packed = []
    for row in rows:
        number, bits = 0, 0
        for sample in row:
            number, bits = (number << depth) | sample, bits + depth
        spare = -bits % (8 * pad)
        data = (number << spare).to_bytes((bits + spare) // 8, "big")
        packed.append(data)
    return packed
