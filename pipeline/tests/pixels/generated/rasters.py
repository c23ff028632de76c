"""BMP, Netpbm and GIF."""

import struct

from common import SIZES, add, pack, palette, picture, samples, saved, seeded


def bmp(rows, width, bits, compression=0, colours=b"", masks=b"", header=40, down=False, data=None):
    """`rows`: bytes of each row, without padding, from the top."""
    height = len(rows)
    if data is None:
        order = rows if down else rows[::-1]
        data = b"".join(row + bytes(-len(row) % 4) for row in order)
    if header == 12:
        info = struct.pack("<IHHHH", 12, width, height, 1, bits)
    else:
        used = len(colours) // 4 if bits <= 8 else 0
        info = struct.pack(
            "<IiiHHIIiiII", 40, width, -height if down else height, 1, bits, compression, len(data), 2835, 2835, used, 0
        )
        if header > 40:
            info = struct.pack("<I", header) + info[4:] + masks.ljust(16, b"\0")[:16]
            info = info.ljust(header, b"\0")[:header]
            masks = b""
    offset = 14 + len(info) + len(masks) + len(colours)
    return struct.pack("<2sIHHI", b"BM", offset + len(data), 0, 0, offset) + info + masks + colours + data


def run_lengths(rows, four, deltas=False, key=0):
    """RLE8 or RLE4 of rows from the bottom, with runs, literals and end-of-line codes."""
    rng = seeded("rle", four, key)
    data = b""
    for row in rows[::-1]:
        at = 0
        while at < len(row):
            left = len(row) - at
            if left >= 3 and rng.random() < 0.5:
                count = rng.randint(3, min(left, 20))
                part = row[at : at + count]
                if four:
                    body = bytes((a << 4) | b for a, b in zip(part[::2], part[1::2] + [0]))
                    if count % 2:
                        body = body[: count // 2] + bytes([part[-1] << 4])
                else:
                    body = bytes(part)
                data += bytes([0, count]) + body + bytes(len(body) % 2)
            else:
                count = 1
                while four and count < left and count < 2:
                    count += 1
                if not four:
                    while count < left and row[at + count] == row[at] and count < 255:
                        count += 1
                first, second = row[at], row[at + count - 1]
                data += bytes([count, (first << 4) | second if four else first])
            at += count
        data += b"\0\0"
    return data + b"\0\1"


def quads(rgb):
    return b"".join(bytes([rgb[at + 2], rgb[at + 1], rgb[at], 0]) for at in range(0, len(rgb), 3))


def bmps():
    for index, (width, height) in enumerate(SIZES):
        for bits in [1, 4, 8]:
            rows = pack(samples(width, height, 1, (1 << bits) - 1, index), bits)
            add(f"bmp/{bits}bit_{width}x{height}.bmp", bmp(rows, width, bits, colours=quads(palette(1 << bits, index))))
        small = seeded("bmp16", index)
        rows = [b"".join(struct.pack("<H", small.randrange(1 << 16)) for _ in range(width)) for _ in range(height)]
        fives = struct.pack("<III", 0x7C00, 0x3E0, 0x1F)
        sixes = struct.pack("<III", 0xF800, 0x7E0, 0x1F)
        add(f"bmp/16bit_{width}x{height}.bmp", bmp(rows, width, 16))
        add(f"bmp/16bit_555_{width}x{height}.bmp", bmp(rows, width, 16, 3, masks=fives))
        add(f"bmp/16bit_565_{width}x{height}.bmp", bmp(rows, width, 16, 3, masks=sixes, down=index % 2 == 1))
        rows = pack(samples(width, height, 3, key=index), 8)
        add(f"bmp/24bit_{width}x{height}.bmp", bmp(rows, width, 24, down=index % 2 == 1))
        rows = pack(samples(width, height, 4, key=index), 8)
        add(f"bmp/32bit_{width}x{height}.bmp", bmp(rows, width, 32))
        rows = samples(width, height, 1, 15, index)
        add(
            f"bmp/rle4_{width}x{height}.bmp",
            bmp(rows, width, 4, 2, colours=quads(palette(16)), data=run_lengths(rows, True, key=index)),
        )
        rows = samples(width, height, 1, 255, index)
        rows = [[value // 32 * 8 for value in row] for row in rows]
        add(
            f"bmp/rle8_{width}x{height}.bmp",
            bmp(rows, width, 8, 1, colours=quads(palette(256)), data=run_lengths(rows, False, key=index)),
        )
        rows = pack(samples(width, height, 1, 15, index), 4)
        os2 = b"".join(bytes(reversed(palette(16)[at : at + 3])) for at in range(0, 48, 3))
        add(f"bmp/os2_4bit_{width}x{height}.bmp", bmp(rows, width, 4, colours=os2, header=12))
        add(f"bmp/os2_24bit_{width}x{height}.bmp", bmp(pack(samples(width, height, 3), 8), width, 24, header=12))
    rows = pack(samples(14, 9, 4), 8)
    for name, masks in [
        ("bgrx", (0xFF0000, 0xFF00, 0xFF, 0)),
        ("bgra", (0xFF0000, 0xFF00, 0xFF, 0xFF000000)),
        ("xbgr", (0xFF000000, 0xFF0000, 0xFF00, 0)),
        ("rgba", (0xFF, 0xFF00, 0xFF0000, 0xFF000000)),
        ("odd", (0x3FF00000, 0xFFC00, 0x3FF, 0)),
    ]:
        packed = struct.pack("<IIII", *masks)
        for header in [56, 108, 124]:
            add(f"bmp/32bit_{name}_{header}.bmp", bmp(rows, 14, 32, 3, masks=packed, header=header))
    rows = pack(samples(14, 9, 2), 8)
    for name, masks in [("wide", (0xFF0000, 0xFF00, 0xFF)), ("gaps", (0xA000, 0x7E0, 0x1F))]:
        add(f"bmp/16bit_{name}_masks.bmp", bmp(rows, 14, 16, 3, masks=struct.pack("<III", *masks)))
    rows = pack(samples(14, 9, 1, 200), 8)
    add("bmp/few_colours.bmp", bmp(rows, 14, 8, colours=quads(palette(201))))
    grey = quads(bytes(value for level in range(256) for value in (level,) * 3))
    add("bmp/grey.bmp", bmp(rows, 14, 8, colours=grey))
    add("bmp/compressed_jpeg.bmp", bmp(rows, 14, 24, 4, data=b"\xff\xd8\xff\xd9"))
    rows = samples(12, 5, 1, 255)
    skips = b"\4\7\0\2\3\1\5\x21\0\0\0\2\1\1\2\x30\0\0\3\x40\0\2\x0b\0\1\2\0\1"
    rows = rows[:4]
    add("bmp/rle8_skips.bmp", bmp(rows, 12, 8, 1, colours=quads(palette(256)), data=skips))
    rows = samples(12, 5, 1, 255)
    ended = b"\x0c\7\0\0\0\1"
    add("bmp/rle8_ends_early.bmp", bmp(rows, 12, 8, 1, colours=quads(palette(256)), data=ended))


def netpbms():
    for index, (width, height) in enumerate(SIZES):
        bits = samples(width, height, 1, 1, index)
        text = "\n".join("".join(map(str, row)) for row in bits)
        add(f"pnm/p1_{width}x{height}.pbm", f"P1\n# a comment\n{width} {height}\n{text}\n".encode())
        add(f"pnm/p4_{width}x{height}.pbm", f"P4\n{width} {height}\n".encode() + b"".join(pack(bits, 1)))
        for top in [1, 100, 255, 1000, 65535]:
            for kind, channels in [(2, 1), (3, 3), (5, 1), (6, 3)]:
                if index % 2 and top in (100, 1000) and width > 1:
                    continue
                rows = samples(width, height, channels, top, index)
                head = f"P{kind}\n{width} {height}\n{top}\n".encode()
                if kind < 4:
                    body = "\n".join(" ".join(map(str, row)) for row in rows).encode() + b"\n"
                else:
                    letter = "H" if top > 255 else "B"
                    body = b"".join(struct.pack(f">{len(row)}{letter}", *row) for row in rows)
                add(f"pnm/p{kind}_{top}_{width}x{height}.pnm", head + body)
    add("pnm/comments.ppm", b"P6 # one\n#two\n2# three\n 1\n#four\n255\n" + bytes([1, 2, 3, 4, 5, 6]))
    add("pnm/plain_comments.pgm", b"P2\n3 1 9\n1 # one\n5\t\t\n#two\n9")
    add("pnm/beyond_the_maximum.pgm", b"P5 3 1 100 " + bytes([50, 100, 200]))
    add("pnm/plain_beyond_the_maximum.pgm", b"P2 3 1 100 50 100 200 ")
    add("pnm/no_maximum.pgm", b"P5 3 1 0 " + bytes([50, 100, 200]))
    add("pnm/large_maximum.pgm", b"P5 3 1 70000 " + bytes(6))


def gif_codes(indices, bits):
    """LZW without a dictionary: a clear code before the codes would get longer."""
    clear, number, used, size = 1 << bits, 0, 0, bits + 1
    codes = []
    for at, index in enumerate(indices):
        if at % ((1 << bits) - 2) == 0:
            codes.append(clear)
        codes.append(index)
    for code in [*codes, clear + 1]:
        number, used = number | (code << used), used + size
    data = number.to_bytes((used + 7) // 8, "little")
    blocks = [data[at : at + 255] for at in range(0, len(data), 255)]
    return bytes([bits]) + b"".join(bytes([len(block)]) + block for block in blocks) + b"\0"


def interlace(rows):
    return rows[0::8] + rows[4::8] + rows[2::4] + rows[1::2]


def gif(canvas, frames, bits=4, colours=True, background=0, version=b"GIF89a", end=b";"):
    """`frames`: dicts of place, rows and options."""
    head = struct.pack("<HHBBB", *canvas, (0x80 if colours else 0) | (bits - 1), background, 0)
    data = version + head + (palette(1 << bits) if colours is True else colours or b"")
    for frame in frames:
        x, y = frame.get("place", (0, 0))
        rows = frame["rows"]
        control = frame.get("transparent"), frame.get("disposal", 0)
        if control != (None, 0):
            transparent = control[0]
            flags = control[1] << 2 | (transparent is not None)
            data += b"!\xf9\4" + struct.pack("<BHBB", flags, 5, transparent or 0, 0)
        if "comment" in frame:
            data += b"!\xfe\5hello\0"
        local = frame.get("local", b"")
        flags = (0x80 | bits - 1 if local else 0) | (0x40 if frame.get("interlaced") else 0)
        data += b"," + struct.pack("<HHHHB", x, y, len(rows[0]), len(rows), flags) + local
        order = interlace(rows) if frame.get("interlaced") else rows
        data += gif_codes([index for row in order for index in row], max(2, bits))
    return data + end


def gifs():
    for index, (width, height) in enumerate(SIZES):
        for bits in [1, 2, 4, 8]:
            rows = samples(width, height, 1, (1 << bits) - 1, index)
            frame = {"rows": rows, "interlaced": index % 2 == 1}
            if index % 3 == 1:
                frame["transparent"] = 1
            version = b"GIF87a" if index % 3 == 0 else b"GIF89a"
            add(f"gif/{bits}bit_{width}x{height}.gif", gif((width, height), [frame], bits, version=version))
    rows, small = samples(20, 14, 1, 15), samples(9, 6, 1, 15, 1)
    local = palette(16, 5)
    cases = {
        "small_frame": {"frames": [{"rows": small, "place": (4, 3)}]},
        "small_frame_background": {"frames": [{"rows": small, "place": (4, 3)}], "background": 7},
        "small_frame_transparent": {"frames": [{"rows": small, "place": (4, 3), "transparent": 5}]},
        "small_frame_local": {"frames": [{"rows": small, "place": (4, 3), "local": local}], "background": 3},
        "small_frame_disposal_2": {"frames": [{"rows": small, "place": (4, 3), "disposal": 2}], "background": 3},
        "beyond_the_canvas": {"frames": [{"rows": rows, "place": (5, 6)}]},
        "local_palette": {"frames": [{"rows": rows, "local": local}]},
        "only_a_local_palette": {"frames": [{"rows": rows, "local": local}], "colours": False},
        "no_palette": {"frames": [{"rows": rows}], "colours": False},
        "grey_palette": {"frames": [{"rows": rows}], "colours": bytes(v for i in range(16) for v in (i,) * 3)},
        "comment": {"frames": [{"rows": rows, "comment": True}]},
        "two_frames": {"frames": [{"rows": rows}, {"rows": small, "place": (2, 2)}]},
        "two_frames_disposal": {"frames": [{"rows": rows, "disposal": 3}, {"rows": small, "transparent": 2}]},
        "no_end": {"frames": [{"rows": rows}], "end": b""},
        "no_frame": {"frames": []},
    }
    for name, options in cases.items():
        add(f"gif/{name}.gif", gif((20, 14), **options))
    for mode in ["L", "P", "1", "RGB", "RGBA"]:
        for interlaced in [False, True]:
            data = saved(picture(mode, 31, 22), "GIF", interlace=interlaced)
            add(f"gif/pillow_{mode.lower()}{'_interlaced' if interlaced else ''}.gif", data)
    frames = [picture("RGB", 24, 18, key) for key in range(3)]
    add("gif/pillow_animated.gif", saved(frames[0], "GIF", save_all=True, append_images=frames[1:]))
