"""PNG of all colour types, depths and filters, and what Pillow writes."""

import struct
import zlib

from common import SIZES, add, pack, palette, picture, samples, saved


def chunk(name, body):
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def filtered(rows, depth, channels):
    """Rows with the five filters in turn."""
    step = max(1, depth * channels // 8)
    before, result = None, b""
    for index, row in enumerate(pack(rows, depth)):
        before = before or bytes(len(row))
        left = bytes(step) + row[:-step] if len(row) > step else bytes(len(row))
        corner = bytes(step) + before[:-step] if len(row) > step else bytes(len(row))

        def paeth(a, b, c):
            p = a + b - c
            return min((abs(p - a), 0, a), (abs(p - b), 1, b), (abs(p - c), 2, c))[2]

        guess = [
            lambda a, b, c: 0,
            lambda a, b, c: a,
            lambda a, b, c: b,
            lambda a, b, c: (a + b) // 2,
            paeth,
        ][index % 5]
        differences = [(v - guess(a, b, c)) % 256 for v, a, b, c in zip(row, left, before, corner)]
        result += bytes([index % 5]) + bytes(differences)
        before = row
    return result


ADAM7 = [(0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)]


def png(rows, width, depth, colour, interlaced=False, before=(), after=(), data_chunks=1):
    channels = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[colour]
    if interlaced:
        data = b""
        for x0, y0, dx, dy in ADAM7:
            taken = []
            for row in rows[y0::dy]:
                pixels = [row[x * channels : (x + 1) * channels] for x in range(x0, width, dx)]
                taken.append([sample for pixel in pixels for sample in pixel])
            if taken and taken[0]:
                data += filtered(taken, depth, channels)
    else:
        data = filtered(rows, depth, channels)
    data = zlib.compress(data, 9)
    step = max(1, -(-len(data) // data_chunks))
    parts = [chunk(b"IDAT", data[at : at + step]) for at in range(0, len(data), step)]
    head = struct.pack(">IIBBBBB", width, len(rows), depth, colour, 0, 0, int(interlaced))
    return b"".join(
        [b"\x89PNG\r\n\x1a\n", chunk(b"IHDR", head), *before, *parts, *after, chunk(b"IEND", b"")]
    )


def pngs():
    kinds = [(0, d) for d in (1, 2, 4, 8, 16)] + [(2, 8), (2, 16), (4, 8), (4, 16), (6, 8), (6, 16)]
    kinds += [(3, d) for d in (1, 2, 4, 8)]
    for colour, depth in kinds:
        channels = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[colour]
        for index, (width, height) in enumerate(SIZES[:8]):
            top = (1 << depth) - 1
            before = []
            if colour == 3:
                before.append(chunk(b"PLTE", palette(1 << depth, index)))
            if colour in (0, 2) and index % 3 == 1:
                before.append(chunk(b"tRNS", struct.pack(">H", top // 2) * channels))
            if colour == 3 and index % 3 == 1:
                before.append(chunk(b"tRNS", bytes(range(0, 200, 50))[: 1 << depth]))
            data = png(
                samples(width, height, channels, top, index),
                width,
                depth,
                colour,
                interlaced=index % 2 == 1,
                before=before,
                data_chunks=1 + index % 3,
            )
            name = f"png/colour{colour}_{depth}bit_{width}x{height}.png"
            add(name, data)
    for mode in ["RGB", "RGBA", "P", "L"]:
        frames = [picture(mode, 21, 14, key) for key in range(3)]
        for default in [False, True]:
            add(
                f"png/animated_{mode.lower()}{'_default' if default else ''}.png",
                saved(frames[0], "PNG", save_all=True, append_images=frames[1:], default_image=default),
            )
    rows = samples(13, 9, 3)
    for name, extra in [
        ("gamma", chunk(b"gAMA", struct.pack(">I", 45455))),
        ("background", chunk(b"bKGD", struct.pack(">HHH", 1, 2, 3))),
        ("suggested_palette", chunk(b"PLTE", palette(7))),
        ("unknown", chunk(b"abCd", b"something")),
        ("text", chunk(b"tEXt", b"Comment\0words")),
        ("physical", chunk(b"pHYs", struct.pack(">IIB", 1000, 2000, 1))),
        ("srgb", chunk(b"sRGB", b"\0")),
    ]:
        add(f"png/chunk_{name}.png", png(rows, 13, 8, 2, before=[extra]))
    short = [chunk(b"PLTE", palette(3))]
    add("png/palette_of_3.png", png(samples(9, 9, 1, 2), 9, 8, 3, before=short))
    add("png/index_beyond_the_palette.png", png(samples(9, 9, 1, 15), 9, 4, 3, before=short))
