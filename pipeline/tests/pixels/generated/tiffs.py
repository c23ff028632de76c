"""TIFF of all layouts, and what Pillow writes."""

import struct
import zlib

from PIL import Image

from common import add, pack, picture, samples, saved, seeded


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
        ("rgba_unmarked", 2, 8, 4, ()),
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
