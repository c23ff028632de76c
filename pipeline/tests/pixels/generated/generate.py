"""Generates small image files of all kinds, and what Pillow makes of them.

Run by hand with Pillow 13, in this folder: `python generate.py`. Writes `files.bin`, the files one after
another, and `files.txt`, a line of columns per file:

    name  bytes  stored  upright  pixels

`stored` is the size and the CRC-32 of the RGB bytes of `convert("RGB")`, or `refused`; `upright` is the
same after `exif_transpose` where that differs; of 16-bit grey, the upper 8 bits of Pillow's 16. Both are `-` where Pillow does not tell: it always turns a
TIFF. `pixels` is the number of bytes that follow the file in `files.bin`: the RGB bytes of `stored`, or of
`upright` for a TIFF, compressed by zlib, for kinds that are compared within a tolerance.
"""

import io
import random
import struct
import zlib

from PIL import Image, ImageOps

SIZES = [(1, 1), (7, 5), (8, 8), (9, 17), (16, 16), (17, 9), (23, 31), (33, 12), (40, 24)]

entries = {}
with_pixels = set()


def add(name, data, pixels=False):
    assert name not in entries, name
    entries[name] = bytes(data)
    if pixels:
        with_pixels.add(name)


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


# --- JPEG ---


def jpegs():
    for mode in ["L", "RGB", "CMYK"]:
        for progressive in [False, True]:
            loose = progressive or mode == "CMYK"
            kind = f"jpeg/{mode.lower()}_{'progressive' if progressive else 'sequential'}"
            for index, (width, height) in enumerate(SIZES):
                for subsampling in [0, 1, 2] if mode == "RGB" else [0]:
                    data = saved(
                        picture(mode, width, height, index),
                        "JPEG",
                        quality=[30, 75, 92, 100][(index + subsampling) % 4],
                        subsampling=subsampling,
                        progressive=progressive,
                        optimize=index % 2 == 1,
                        restart_marker_blocks=[0, 1, 3, 0, 2][index % 5],
                    )
                    add(f"{kind}_{width}x{height}_{subsampling}.jpg", data, loose)
    for width in range(1, 18):
        for height in [1, 2, 15, 17][width % 2 :: 2]:
            add(
                f"jpeg/odd_{width}x{height}.jpg",
                saved(picture("RGB", width, height), "JPEG", quality=80, subsampling=2 - width % 3),
            )
    add("jpeg/rgb_kept.jpg", saved(picture("RGB", 19, 21), "JPEG", keep_rgb=True))
    add("jpeg/restart_rows.jpg", saved(picture("RGB", 40, 40), "JPEG", restart_marker_rows=1))
    for quality in [1, 5, 50, 95]:
        add(f"jpeg/quality_{quality}.jpg", saved(picture("RGB", 24, 24), "JPEG", quality=quality))
    bytes_after = saved(picture("RGB", 20, 12), "JPEG") + b"trailing bytes"
    add("jpeg/trailing_bytes.jpg", bytes_after)


# --- PNG ---


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


# --- BMP ---


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


# --- WebP ---


def webps():
    for index, (width, height) in enumerate(SIZES):
        for mode in ["RGB", "RGBA"]:
            image = picture(mode, width, height, index)
            for lossless in [False, True]:
                name = f"webp/{mode.lower()}_{'lossless' if lossless else 'lossy'}_{width}x{height}.webp"
                add(name, saved(image, "WEBP", lossless=lossless, quality=[40, 75, 95][index % 3], method=index % 7))
    for mode in ["RGB", "RGBA"]:
        for lossless in [False, True]:
            frames = [picture(mode, 24, 18, key) for key in range(3)]
            data = saved(frames[0], "WEBP", save_all=True, append_images=frames[1:], lossless=lossless)
            add(f"webp/animated_{mode.lower()}_{'lossless' if lossless else 'lossy'}.webp", data)
    frame = saved(picture("RGBA", 10, 8), "WEBP", lossless=True)[12:]
    plain = saved(picture("RGB", 10, 8), "WEBP", quality=80)[12:]
    blue = b"\xff\x80\x10\xff"
    for name, body, flags, blend in [("alpha", frame, 0x12, 0), ("alpha_no_blend", frame, 0x12, 2), ("opaque", plain, 2, 0)]:
        for colour_name, background in [("background", blue), ("no_background", bytes(4))]:
            place = struct.pack("<I", 3)[:3] + struct.pack("<I", 2)[:3]
            sides = struct.pack("<I", 9)[:3] + struct.pack("<I", 7)[:3]
            still = b"".join([place, sides, b"\x64\0\0", bytes([blend]), body])
            parts = riff(
                [
                    (b"VP8X", bytes([flags, 0, 0, 0]) + struct.pack("<I", 19)[:3] + struct.pack("<I", 15)[:3]),
                    (b"ANIM", background + b"\0\0"),
                    (b"ANMF", still),
                ]
            )
            add(f"webp/small_frame_{name}_{colour_name}.webp", parts)
    for name in ["photo", "drawing"]:
        image = picture("RGB", 33, 29)
        data = saved(image, "WEBP", lossless=True, exact=True, quality=100 if name == "photo" else 0)
        add(f"webp/{name}.webp", data)
    flat = Image.new("RGB", (40, 40), (10, 200, 90))
    add("webp/flat_lossless.webp", saved(flat, "WEBP", lossless=True))
    few = picture("P", 30, 30).convert("RGB").quantize(5).convert("RGB")
    add("webp/few_colours.webp", saved(few, "WEBP", lossless=True))


def riff(chunks):
    body = b"WEBP"
    for name, data in chunks:
        body += name + struct.pack("<I", len(data)) + data + bytes(len(data) % 2)
    return b"RIFF" + struct.pack("<I", len(body)) + body


# --- TIFF ---


def packbits(data):
    result, at = b"", 0
    while at < len(data):
        run = 1
        while at + run < len(data) and data[at + run] == data[at] and run < 128:
            run += 1
        if run > 2:
            result, at = result + bytes([257 - run, data[at]]), at + run
        else:
            literal = data[at : at + min(7, len(data) - at)]
            result, at = result + bytes([len(literal) - 1]) + literal, at + len(literal)
    return result


def lzw(data):
    codes, number, bits = [(256, 9)], 0, 0
    table, width, word = {bytes([value]): value for value in range(256)}, 9, b""
    count = 258
    for value in data:
        longer = word + bytes([value])
        if longer in table:
            word = longer
            continue
        codes.append((table[word], width))
        table[longer] = count
        count += 1
        width = 9 if count < 512 else 10 if count < 1024 else 11 if count < 2048 else 12
        if count == 4094:
            codes.append((256, width))
            table, width, count = {bytes([v]): v for v in range(256)}, 9, 258
        word = bytes([value])
    if word:
        codes.append((table[word], width))
        count += 1
        width = 9 if count < 512 else 10 if count < 1024 else 11 if count < 2048 else 12
    codes.append((257, width))
    for code, size in codes:
        number, bits = (number << size) | code, bits + size
    spare = -bits % 8
    return (number << spare).to_bytes((bits + spare) // 8, "big")


CODECS = {1: lambda data: data, 5: lzw, 8: zlib.compress, 32773: packbits, 32946: zlib.compress}
REVERSED = bytes(int(f"{value:08b}"[::-1], 2) for value in range(256))


def tiff(
    rows,
    width,
    depth,
    channels,
    photometric,
    compression=1,
    order="<",
    big=False,
    planar=False,
    tile=None,
    strip=None,
    fill=1,
    predictor=False,
    extra=(),
    tags=(),
):
    """`rows` are lists of samples; `tile` is a pair of sides and `strip` a number of rows."""
    height = len(rows)
    planes = [[row[plane::channels] for row in rows] for plane in range(channels)] if planar else [rows]
    per_pixel = 1 if planar else channels
    chunks = []
    for plane in planes:
        if tile:
            boxes = [(x, y, *tile) for y in range(0, height, tile[1]) for x in range(0, width, tile[0])]
        else:
            strip = strip or height
            boxes = [(0, y, width, min(strip, height - y)) for y in range(0, height, strip)]
        for x, y, w, h in boxes:
            part = [row[x * per_pixel : (x + w) * per_pixel] for row in plane[y : y + h]]
            part = [row + [0] * (w * per_pixel - len(row)) for row in part]
            part += [[0] * (w * per_pixel)] * (h - len(part))
            if predictor:
                part = [
                    [(v - (row[at - per_pixel] if at >= per_pixel else 0)) % (1 << depth) for at, v in enumerate(row)]
                    for row in part
                ]
            if depth == 16:
                data = b"".join(struct.pack(f"{order}{len(row)}H", *row) for row in part)
            else:
                data = b"".join(pack(part, depth))
            data = CODECS[compression](data)
            chunks.append(data.translate(REVERSED) if fill == 2 else data)
    entries = {
        256: (4, [width]),
        257: (4, [height]),
        258: (3, [depth] * channels),
        259: (3, [compression]),
        262: (3, [photometric]),
        277: (3, [channels]),
    }
    if planar:
        entries[284] = (3, [2])
    if fill == 2:
        entries[266] = (3, [2])
    if predictor:
        entries[317] = (3, [2])
    if extra:
        entries[338] = (3, list(extra))
    if tile:
        entries |= {322: (4, [tile[0]]), 323: (4, [tile[1]])}
    else:
        entries[278] = (4, [strip])
    entries |= dict(tags)
    offsets, counts = (324, 325) if tile else (273, 279)
    return tiff_file(entries, chunks, offsets, counts, order, big)


def tiff_file(entries, chunks, offsets=273, counts=279, order="<", big=False):
    head = 16 if big else 8
    at = head
    places = []
    body = b""
    for data in chunks:
        places.append(at + len(body))
        body += data + bytes(len(data) % 2)
    if chunks:
        entries[offsets] = (4, places)
        entries[counts] = (4, [len(data) for data in chunks])
    letters = {1: "B", 2: "B", 3: "H", 4: "I", 6: "b", 7: "B", 8: "h", 9: "i", 16: "Q"}
    start = at + len(body)
    inline = 8 if big else 4
    entry_size = 20 if big else 12
    after = start + (8 if big else 2) + entry_size * len(entries) + (8 if big else 4)
    directory, outside = b"", b""
    for tag in sorted(entries):
        kind, values = entries[tag]
        data = struct.pack(f"{order}{len(values)}{letters[kind]}", *values)
        field = data.ljust(inline, b"\0")
        if len(data) > inline:
            field = struct.pack(order + ("Q" if big else "I"), after + len(outside))
            outside += data + bytes(len(data) % 2)
        directory += struct.pack(order + ("HHQ" if big else "HHI"), tag, kind, len(values)) + field
    count = struct.pack(order + ("Q" if big else "H"), len(entries))
    last = struct.pack(order + ("Q" if big else "I"), 0)
    magic = (b"II" if order == "<" else b"MM") + struct.pack(order + "H", 43 if big else 42)
    if big:
        magic += struct.pack(order + "HHQ", 8, 0, start)
    else:
        magic += struct.pack(order + "I", start)
    return magic + body + count + directory + last + outside


def colour_map(depth, key=0):
    rng = seeded("map", depth, key)
    return {320: (3, [rng.randrange(1 << 16) for _ in range(3 << depth)])}


def tiffs():
    # Photometric, depth, channels and extra samples.
    kinds = [
        ("bilevel", 1, 1, 1, ()),
        ("bilevel_inverted", 0, 1, 1, ()),
        ("grey2", 1, 2, 1, ()),
        ("grey4", 1, 4, 1, ()),
        ("grey4_inverted", 0, 4, 1, ()),
        ("grey8", 1, 8, 1, ()),
        ("grey8_inverted", 0, 8, 1, ()),
        ("grey16", 1, 16, 1, ()),
        ("grey_alpha", 1, 8, 2, (2,)),
        ("grey_associated", 1, 8, 2, (1,)),
        ("grey_extra", 1, 8, 2, (0,)),
        ("palette1", 3, 1, 1, ()),
        ("palette2", 3, 2, 1, ()),
        ("palette4", 3, 4, 1, ()),
        ("palette8", 3, 8, 1, ()),
        ("palette_alpha", 3, 8, 2, (2,)),
        ("rgb8", 2, 8, 3, ()),
        ("rgb16", 2, 16, 3, ()),
        ("rgba8", 2, 8, 4, (2,)),
        ("rgba_associated", 2, 8, 4, (1,)),
        ("rgba_associated16", 2, 16, 4, (1,)),
        ("rgba16", 2, 16, 4, (2,)),
        ("rgbx", 2, 8, 4, (0,)),
        ("rgba_untold", 2, 8, 4, ()),
        ("rgbax", 2, 8, 5, (1, 0)),
        ("cmyk8", 5, 8, 4, ()),
        ("cmyk16", 5, 16, 4, ()),
        ("cmykx", 5, 8, 5, (0,)),
        ("ycbcr", 6, 8, 3, ()),
        ("lab", 8, 8, 3, ()),
    ]
    for index, (name, photometric, depth, channels, extra) in enumerate(kinds):
        width, height = [(21, 14), (17, 19), (32, 16)][index % 3]
        rows = samples(width, height, channels, (1 << depth) - 1, index)
        tags = colour_map(depth, index) if photometric == 3 else {}
        if photometric == 6:
            tags = {530: (3, [1, 1])}
        variants = {
            "raw": {},
            "strips": {"strip": 5},
            "big_endian": {"order": ">", "strip": 4},
            "bigtiff": {"big": True},
            "packbits": {"compression": 32773, "strip": 6},
            "lzw": {"compression": 5},
            "deflate": {"compression": 8, "strip": 9},
            "tiles": {"tile": (16, 16)},
            "tiles_lzw": {"tile": (16, 16), "compression": 5, "order": ">"},
            "fill_order": {"fill": 2},
            "fill_order_packbits": {"fill": 2, "compression": 32773},
        }
        if depth >= 8:
            variants["predictor"] = {"predictor": True, "compression": 5, "strip": 7}
            variants["predictor_big_endian"] = {"predictor": True, "compression": 8, "order": ">"}
        if channels > 1:
            variants["planar"] = {"planar": True}
            variants["planar_strips"] = {"planar": True, "strip": 4, "compression": 32773}
            variants["planar_tiles"] = {"planar": True, "tile": (16, 16)}
            variants["planar_tiles_lzw"] = {"planar": True, "tile": (16, 16), "compression": 5}
        for variant, options in variants.items():
            data = tiff(rows, width, depth, channels, photometric, extra=extra, tags=tags, **options)
            add(f"tiff/{name}_{variant}.tif", data)
    for mode in ["1", "L", "RGB", "P", "CMYK", "YCbCr"]:
        codecs = ["raw", "tiff_lzw", "tiff_adobe_deflate", "tiff_deflate", "packbits"]
        codecs += ["group3", "group4", "tiff_ccitt"] if mode == "1" else []
        codecs += ["jpeg", "webp", "zstd", "lzma"] if mode == "RGB" else []
        for codec in codecs:
            try:
                data = saved(picture(mode, 29, 18), "TIFF", compression=codec)
            except (OSError, KeyError, ValueError) as error:
                print(f"TIFF {mode} {codec} is not written: {error}")
                continue
            add(f"tiff/pillow_{mode.lower()}_{codec}.tif", data)
    for mode in ["F", "I", "I;16"]:
        grey = picture("L", 12, 9)
        add(f"tiff/pillow_{mode.lower().replace(';', '')}.tif", saved(grey.convert(mode), "TIFF"))
    frames = [picture("RGB", 12, 9, key) for key in range(2)]
    add("tiff/two_pages.tif", saved(frames[0], "TIFF", save_all=True, append_images=frames[1:]))
    rows = samples(20, 12, 3)
    add("tiff/signed.tif", tiff(rows, 20, 8, 3, 2, tags={339: (3, [2, 2, 2])}))
    add("tiff/grey_signed.tif", tiff(samples(20, 12, 1), 20, 8, 1, 1, tags={339: (3, [2])}))
    add("tiff/one_depth_for_all.tif", tiff(rows, 20, 8, 3, 2, tags={258: (3, [8])}))
    add("tiff/three_bits.tif", tiff(samples(20, 12, 1, 7), 20, 3, 1, 1))
    add("tiff/twelve_bits.tif", tiff(samples(20, 12, 1, 4095), 20, 12, 1, 1))
    add("tiff/subsampled.tif", tiff(samples(20, 12, 3)[:6], 20, 8, 3, 6, tags={530: (3, [2, 2])}))
    for orientation in range(9):
        tags = {274: (3, [orientation])}
        add(f"tiff/orientation_{orientation}.tif", tiff(rows, 20, 8, 3, 2, tags=tags))


# --- Netpbm ---


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


# --- GIF ---


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


# --- Orientation ---

XMP = (
    '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
    '<rdf:Description xmlns:tiff="http://ns.adobe.com/tiff/1.0/"{}</rdf:Description></rdf:RDF></x:xmpmeta>'
)
EXIF = b"Exif\0\0"


def xmp(orientation, element=False):
    tag = f"><tiff:Orientation>{orientation}</tiff:Orientation>" if element else f' tiff:Orientation="{orientation}">'
    return XMP.format(tag).encode()


def block(kind, values, order="<", tag=274, extra=None):
    """An EXIF block of a TIFF directory with one entry."""
    return tiff_file({tag: (kind, values), **(extra or {})}, [], order=order)


def app1(body):
    return b"\xff\xe1" + struct.pack(">H", len(body) + 2) + body


def orientations():
    plain = saved(picture("RGB", 12, 7), "JPEG", quality=90, subsampling=0)
    rows = samples(12, 7, 3)
    lossless = saved(picture("RGB", 12, 7), "WEBP", lossless=True)[12:]
    ns = b"http://ns.adobe.com/xap/1.0/\0"

    def jpeg_of(exif=None, packet=None, more=()):
        parts = [app1(EXIF + exif)] if exif is not None else []
        parts += [app1(ns + packet)] if packet is not None else []
        return plain[:2] + b"".join(parts + list(more)) + plain[2:]

    def png_of(exif=None, packet=None, more=(), after=()):
        parts = [chunk(b"eXIf", exif)] if exif is not None else []
        parts += [chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + packet)] if packet is not None else []
        return png(rows, 12, 8, 2, before=parts + list(more), after=after)

    def webp_of(exif=None, packet=None, more=()):
        flags = (8 if exif is not None else 0) | (4 if packet is not None else 0)
        parts = [(b"VP8X", bytes([flags, 0, 0, 0, 11, 0, 0, 6, 0, 0])), (lossless[:4], lossless[8:])]
        parts += [(b"EXIF", exif)] if exif is not None else []
        parts += [(b"XMP ", packet)] if packet is not None else []
        return riff(parts + list(more))

    def tiff_of(exif=None, packet=None):
        tags = {274: (3, [exif])} if exif is not None else {}
        tags |= {700: (1, list(packet))} if packet is not None else {}
        return tiff(rows, 12, 8, 3, 2, tags=tags)

    writers = [("jpg", jpeg_of), ("png", png_of), ("webp", webp_of)]
    for ending, write in writers:
        for number in range(1, 9):
            add(f"orientation/short_{number}.{ending}", write(block(3, [number])))
            add(f"orientation/xmp_{number}.{ending}", write(packet=xmp(number, number % 2 == 0)))
        for name, exif in {
            "long": block(4, [6]),
            "long_big_endian": block(4, [6], ">"),
            "short_big_endian": block(3, [6], ">"),
            "byte": block(1, [6]),
            "signed_short": block(8, [6]),
            "undefined": block(7, [6]),
            "text": block(2, [ord("6"), 0]),
            "two_values": block(3, [6, 8]),
            "out_of_range": block(3, [9]),
            "zero": block(3, [0]),
            "twice_prefixed": EXIF + block(3, [6]),
            "empty": b"",
            "not_tiff": b"XX*\0\x08\0\0\0\0\0",
            "cut": block(3, [6])[:18],
            "no_entry": tiff_file({}, []),
            "in_second_place": block(3, [6], extra={271: (2, list(b"maker\0"))}),
        }.items():
            add(f"orientation/exif_{name}.{ending}", write(exif))
        add(f"orientation/exif_before_xmp.{ending}", write(block(3, [3]), xmp(6)))
        add(f"orientation/exif_upright_before_xmp.{ending}", write(block(3, [1]), xmp(6)))
        add(f"orientation/exif_invalid_before_xmp.{ending}", write(block(3, [0]), xmp(6)))
        add(f"orientation/exif_without_it_then_xmp.{ending}", write(block(3, [6], tag=256), xmp(6)))
        add(f"orientation/exif_empty_then_xmp.{ending}", write(b"", xmp(6)))
        add(f"orientation/xmp_out_of_range.{ending}", write(packet=xmp(9)))
        add(f"orientation/xmp_two_digits.{ending}", write(packet=xmp(61)))
        add(f"orientation/xmp_first_counts.{ending}", write(packet=xmp(3) + xmp(6)))
        add(f"orientation/xmp_spaces.{ending}", write(packet=XMP.format(' tiff:Orientation = "6">').encode()))
        add(f"orientation/xmp_quote.{ending}", write(packet=XMP.format(" tiff:Orientation='6'>").encode()))
    for number in [1, 3, 6]:
        add(f"orientation/tag_{number}.tif", tiff_of(number))
        add(f"orientation/xmp_{number}.tif", tiff_of(packet=xmp(number)))
    add("orientation/tag_before_xmp.tif", tiff_of(3, xmp(6)))
    add("orientation/long.tif", tiff(rows, 12, 8, 3, 2, tags={274: (4, [6])}))
    add("orientation/long_big_endian.tif", tiff(rows, 12, 8, 3, 2, order=">", tags={274: (4, [6])}))
    add("orientation/big.tif", tiff(rows, 12, 8, 3, 2, big=True, tags={274: (3, [6])}))
    long = block(3, [6], extra={271: (2, [65] * 40)})
    add("orientation/exif_in_two_segments.jpg", jpeg_of(long[:30], more=[app1(EXIF + long[30:])]))
    add("orientation/two_xmp_segments.jpg", jpeg_of(packet=xmp(3), more=[app1(ns + xmp(6))]))
    add("orientation/exif_after_the_pixels.png", png_of(after=[chunk(b"eXIf", block(3, [6]))]))
    add("orientation/xmp_compressed.png", png_of(more=[itxt(xmp(6), compressed=True)]))
    add("orientation/xmp_after_the_pixels.png", png_of(after=[itxt(xmp(6))]))
    add("orientation/xmp_in_text.png", png_of(more=[chunk(b"tEXt", b"XML:com.adobe.xmp\0" + xmp(6))]))
    packed = zlib.compress(xmp(6))
    add("orientation/xmp_in_ztxt.png", png_of(more=[chunk(b"zTXt", b"XML:com.adobe.xmp\0\0" + packed)]))
    add("orientation/two_eXIf.png", png_of(block(3, [3]), more=[chunk(b"eXIf", block(3, [6]))]))
    for name in ["exif", "APP1"]:
        for order in ["<", ">"]:
            data = EXIF + block(3, [6], order)
            digits = data.hex()
            lines = "\n".join(digits[at : at + 72] for at in range(0, len(digits), 72))
            text = f"Raw profile type {name}".encode() + b"\0", f"\n{name}\n{len(data):8}\n{lines}\n".encode()
            suffix = f"{name.lower()}_{'little' if order == '<' else 'big'}"
            add(f"orientation/raw_profile_{suffix}.png", png_of(more=[chunk(b"tEXt", text[0] + text[1])]))
            packed = text[0] + b"\0" + zlib.compress(text[1])
            add(f"orientation/raw_profile_{suffix}_compressed.png", png_of(more=[chunk(b"zTXt", packed)]))
            add(f"orientation/eXIf_before_raw_profile_{suffix}.png", png_of(block(3, [3]), more=[chunk(b"tEXt", text[0] + text[1])]))
    add("orientation/xmp_damaged_text.png", png_of(more=[chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + b"no zlib")]))
    frame = [{"rows": samples(12, 7, 1, 15)}]
    data = gif((12, 7), frame, end=b"")
    packet = xmp(6)
    magic = b"\x01" + bytes(range(255, -1, -1)) + b"\0"
    add("orientation/xmp.gif", data[:61] + b"!\xff\x0bXMP DataXMP" + packet + magic + data[61:] + b";")
    add("orientation/prefixed.webp", webp_of(EXIF + block(3, [6])))


def itxt(packet, compressed=False):
    body = zlib.compress(packet) if compressed else packet
    return chunk(b"iTXt", b"XML:com.adobe.xmp\0" + bytes([compressed, 0]) + b"\0\0" + body)


# --- Table ---


def described(image):
    return f"{image.width}x{image.height} {zlib.crc32(image.tobytes()):08x}"


def opened(data, turned):
    with Image.open(io.BytesIO(data)) as image:
        image.load()
        shift = 4 if getattr(image, "tag_v2", {}).get(258) == (12,) else 8
        if turned:
            image = ImageOps.exif_transpose(image)
        if image.mode in ("I", "I;16", "I;16B"):
            image = image.convert("I")
            # `convert` clips to white what exceeds 255; rsflow keeps the upper bits instead.
            flat = bytes(min(255, max(0, value >> shift)) for value in image.get_flattened_data())
            image = Image.frombytes("L", image.size, flat)
        return image.convert("RGB")


def attempt(data, turned):
    try:
        return opened(data, turned)
    except Exception:
        return None


def main():
    import warnings

    warnings.simplefilter("ignore")
    for make in [jpegs, pngs, bmps, webps, tiffs, netpbms, gifs, orientations]:
        make()
    lines, archive = [], b""
    for name, data in entries.items():
        image, upright = attempt(data, False), attempt(data, True)
        stored = described(image) if image else "refused"
        turned = "-"
        if image and upright is None:
            print(f"{name}: no exif_transpose")
        elif image and described(upright) != stored:
            turned = described(upright)
        if name.endswith(".tif") and ("orientation" in name):
            stored, turned = "-", stored
        pixels = zlib.compress(image.tobytes(), 9) if image and name in with_pixels else b""
        archive += data + pixels
        lines.append("\t".join([name, str(len(data)), stored, turned, str(len(pixels))]))
    with open("files.txt", "w") as table:
        table.write("\n".join(lines) + "\n")
    with open("files.bin", "wb") as to:
        to.write(archive)
    print(f"{len(lines)} files, {len(archive)} bytes, {sum('refused' in line for line in lines)} refused")


main()
