"""Writes kinds of JPEG that Pillow reads and cannot write, and what Pillow makes of them.

Run by hand with Pillow 13, in this folder: `python generate.py`. Writes `files.bin.gz`, the files one after
another, and `files.txt`, a line of columns per file:

    name  bytes  stored

`stored` is the size and the CRC-32 of the RGB bytes of `convert("RGB")`, or `refused`. Files whose names
begin with "lost" have lost data, which Pillow fills in and we refuse. The entropy-coded data is written
here, from the coefficients of random pictures.
"""

import gzip
import io
import itertools
import math
import random
import zlib
from pathlib import Path

import numpy as np
from PIL import Image

ZIGZAG = sorted(
    range(64),
    key=lambda i: (i // 8 + i % 8, i // 8 if (i // 8 + i % 8) % 2 else i % 8),
)
LUMINANCE, CHROMINANCE = [
    [
        min(255, (base + slope * (i // 8 + i % 8)) * scale // 4)
        for i in range(64)
    ]
    for base, slope, scale in [(10, 5, 6), (14, 7, 7)]
]
DCT = np.array(
    [
        [
            math.cos((2 * x + 1) * u * math.pi / 16) * (math.sqrt(0.125) if u == 0 else 0.5)
            for x in range(8)
        ]
        for u in range(8)
    ]
)


def standard_tables():
    """The tables K.3 to K.6, as Pillow writes them: {(class, slot): (counts, symbols)}."""
    out = io.BytesIO()
    Image.new("RGB", (16, 16)).save(out, "JPEG")
    data, at, tables = out.getvalue(), 2, {}
    while data[at + 1] != 0xDA:
        length = data[at + 2] * 256 + data[at + 3]
        body = data[at + 4 : at + 2 + length]
        while data[at + 1] == 0xC4 and body:
            counts = list(body[1:17])
            symbols = list(body[17 : 17 + sum(counts)])
            tables[body[0] >> 4, body[0] & 15] = (counts, symbols)
            body = body[17 + len(symbols) :]
        at += 2 + length
    return tables


STANDARD = standard_tables()


def codes(table):
    counts, symbols = table
    code, at, found = 0, 0, {}
    for length, count in enumerate(counts, 1):
        for _ in range(count):
            found[symbols[at]] = (code, length)
            code, at = code + 1, at + 1
        code <<= 1
    return found


def flat_table(symbols):
    """A table of codes of one length, without the code of ones."""
    symbols = sorted(symbols) or [0]
    length = max(1, len(symbols).bit_length())
    counts = [0] * 16
    counts[length - 1] = len(symbols)
    return counts, symbols


def segment(marker, body):
    return bytes([0xFF, marker]) + (len(body) + 2).to_bytes(2, "big") + bytes(body)


def dht(kind, slot, table):
    return segment(0xC4, [kind << 4 | slot] + table[0] + table[1])


def dqt(slot, table, wide=False):
    values = [table[i] for i in ZIGZAG]
    body = b"".join(v.to_bytes(2 if wide else 1, "big") for v in values)
    return segment(0xDB, bytes([wide << 4 | slot]) + body)


class Bits:
    def __init__(self):
        self.value, self.count = 0, 0

    def add(self, value, count):
        self.value = self.value << count | value
        self.count += count

    def bytes(self):
        pad = -self.count % 8
        self.add((1 << pad) - 1, pad)
        return self.value.to_bytes(self.count // 8, "big").replace(b"\xff", b"\xff\0")


def size_of(value):
    return abs(value).bit_length()


def low_bits(value):
    return value if value >= 0 else value + (1 << size_of(value)) - 1


class Picture:
    """Quantized coefficients of a random picture: for each component [rows, columns, 64]."""

    def __init__(self, seed, size, sampling, quant=None, detail=40):
        self.size, self.sampling = size, sampling
        width, height = size
        self.max = (max(h for h, _ in sampling), max(v for _, v in sampling))
        self.mcus = (-(-width // (8 * self.max[0])), -(-height // (8 * self.max[1])))
        self.quant = quant or [LUMINANCE] + [CHROMINANCE] * (len(sampling) - 1)
        noise = np.random.default_rng(seed)
        self.blocks, self.extent = [], []
        for (h, v), table in zip(sampling, self.quant):
            columns, rows = self.mcus[0] * h, self.mcus[1] * v
            self.extent.append(
                (-(-width * h // (8 * self.max[0])), -(-height * v // (8 * self.max[1])))
            )
            y, x = np.mgrid[0 : rows * 8, 0 : columns * 8]
            a, b, c, d = noise.uniform(-0.5, 0.5, 4)
            plane = 128 + 90 * np.sin(a * x + b * y + c * 9) + noise.normal(0, detail * abs(d), x.shape)
            plane = np.clip(plane, 0, 255) - 128
            found = np.zeros((rows, columns, 64), int)
            for row, column in itertools.product(range(rows), range(columns)):
                block = plane[row * 8 : row * 8 + 8, column * 8 : column * 8 + 8]
                found[row, column] = np.round((DCT @ block @ DCT.T).flatten() / table)
            self.blocks.append(found)

    def in_order(self, components):
        """The MCUs of a scan, each a list of (component, row, column)."""
        if len(components) == 1:
            (only,) = components
            columns, rows = self.extent[only]
            return [[(only, r, c)] for r in range(rows) for c in range(columns)]
        mcus = itertools.product(range(self.mcus[1]), range(self.mcus[0]))
        return [
            [
                (component, row * self.sampling[component][1] + v, column * self.sampling[component][0] + h)
                for component in components
                for v in range(self.sampling[component][1])
                for h in range(self.sampling[component][0])
            ]
            for row, column in mcus
        ]

    def scan(self, components, restart=0, band=None, ah=0, al=0):
        """Yields the restart intervals of a scan: lists of (component, class, symbol, bits)."""
        mcus = self.in_order(components)
        step = restart or len(mcus)
        for start in range(0, len(mcus), step):
            interval = mcus[start : start + step]
            if band is None:
                yield self.sequential(interval)
            elif band[0] == 0:
                yield self.dc_scan(interval, ah, al)
            else:
                yield self.ac_scan(interval, band, ah, al)

    def dc(self, place, before, al):
        component, row, column = place
        value = int(self.blocks[component][row, column, 0]) >> al
        difference = value - before.get(component, 0)
        before[component] = value
        size = size_of(difference)
        return component, 0, size, [(low_bits(difference), size)]

    def sequential(self, mcus):
        out, before = [], {}
        for place in itertools.chain(*mcus):
            component, row, column = place
            out.append(self.dc(place, before, 0))
            block = self.blocks[component][row, column]
            run = 0
            for k in range(1, 64):
                value = int(block[ZIGZAG[k]])
                if value == 0:
                    run += 1
                    continue
                while run > 15:
                    out.append((component, 1, 0xF0, []))
                    run -= 16
                out.append((component, 1, run << 4 | size_of(value), [(low_bits(value), size_of(value))]))
                run = 0
            if run:
                out.append((component, 1, 0, []))
        return out

    def dc_scan(self, mcus, ah, al):
        before = {}
        places = list(itertools.chain(*mcus))
        if ah == 0:
            return [self.dc(place, before, al) for place in places]
        values = [int(self.blocks[c][row, column, 0]) for c, row, column in places]
        return [(c, 0, None, [(v >> al & 1, 1)]) for (c, *_), v in zip(places, values)]

    def ac_scan(self, mcus, band, ah, al):
        out, eobrun, pending = [], 0, []

        def end_run():
            nonlocal eobrun, pending
            if eobrun:
                size = eobrun.bit_length() - 1
                out.append((component, 1, size << 4, [(eobrun - (1 << size), size)] + pending))
            eobrun, pending = 0, []

        for ((component, row, column),) in mcus:
            block = self.blocks[component][row, column]
            values = [int(block[ZIGZAG[k]]) for k in range(band[0], band[1] + 1)]
            shifted = [abs(v) >> al for v in values]
            is_new = [s == 1 if ah else s > 0 for s in shifted]
            last = max((i for i, new in enumerate(is_new) if new), default=-1)
            run, corrections = 0, []
            for i, (value, magnitude) in enumerate(zip(values, shifted)):
                if i > last:
                    corrections += [(magnitude & 1, 1)] if ah and magnitude > 1 else []
                    continue
                if magnitude == 0:
                    run += 1
                    if run == 16:
                        end_run()
                        out.append((component, 1, 0xF0, corrections))
                        run, corrections = 0, []
                    continue
                if ah and magnitude > 1:
                    corrections.append((magnitude & 1, 1))
                    continue
                end_run()
                size = size_of(magnitude)
                bits = [(int(value > 0), 1)] if ah else [(low_bits(magnitude if value > 0 else -magnitude), size)]
                out.append((component, 1, run << 4 | size, bits + corrections))
                run, corrections = 0, []
            if last < len(values) - 1:
                eobrun += 1
                pending += corrections
                if eobrun == 0x7FFF:
                    end_run()
        end_run()
        return out


class File:
    """A file that is written segment by segment."""

    def __init__(self, picture, sof=0xC0, ids=None, slots=None, quant_slots=None):
        self.picture, self.sof = picture, sof
        count = len(picture.sampling)
        self.ids = ids or list(range(1, count + 1))
        # Slots of the Huffman tables (DC, AC) and of the quantization tables.
        self.slots = slots or [(min(i, 1), min(i, 1)) for i in range(count)]
        self.quant_slots = quant_slots or [min(i, 1) for i in range(count)]
        self.parts = [b"\xff\xd8"]

    def add(self, *parts):
        self.parts += parts
        return self

    def jfif(self):
        return self.add(segment(0xE0, b"JFIF\0\1\1\0\0\1\0\1\0\0"))

    def adobe(self, transform):
        return self.add(segment(0xEE, b"Adobe\0\x64\0\0\0\0" + bytes([transform])))

    def quantization(self, wide=False):
        tables = dict(zip(self.quant_slots, self.picture.quant))
        return self.add(*(dqt(slot, table, wide) for slot, table in tables.items()))

    def frame(self):
        width, height = self.picture.size
        body = b"\x08" + height.to_bytes(2, "big") + width.to_bytes(2, "big")
        body += bytes([len(self.ids)])
        for name, (h, v), slot in zip(self.ids, self.picture.sampling, self.quant_slots):
            body += bytes([name, h << 4 | v, slot])
        return self.add(segment(self.sof, body))

    def restarts(self, interval):
        return self.add(segment(0xDD, interval.to_bytes(2, "big"))) if interval else self

    def standard_huffman(self, only=None):
        return self.add(*(dht(*where, table) for where, table in STANDARD.items() if only is None or where in only))

    def scan(self, components, restart=0, band=None, ah=0, al=0, tables=None, after=None, markers=None):
        """`tables`: "standard" does not write tables. `after`: bytes at the end of interval i."""
        intervals = list(self.picture.scan(components, restart, band, ah, al))
        used = {}
        for component, kind, symbol, _ in itertools.chain(*intervals):
            if symbol is not None:
                used.setdefault((kind, self.slots[component][kind]), set()).add(symbol)
        if tables == "standard":
            coded = {where: codes(STANDARD[where[0], where[1]]) for where in used}
        else:
            flat = {where: flat_table(symbols) for where, symbols in used.items()}
            self.add(*(dht(*where, table) for where, table in flat.items()))
            coded = {where: codes(table) for where, table in flat.items()}
        body = bytes([len(components)])
        for component in components:
            dc, ac = self.slots[component]
            body += bytes([self.ids[component], dc << 4 | ac])
        start, end = band or (0, 63)
        self.add(segment(0xDA, body + bytes([start, end, ah << 4 | al])))
        for i, interval in enumerate(intervals):
            if i:
                number = (markers or {}).get(i - 1, (i - 1) % 8)
                self.add(*([] if number is None else [bytes([0xFF, 0xD0 + number])]))
            bits = Bits()
            for component, kind, symbol, extra in interval:
                if symbol is not None:
                    bits.add(*coded[kind, self.slots[component][kind]][symbol])
                for value in extra:
                    bits.add(*value)
            self.add(bits.bytes(), (after or {}).get(i, b""))
        return self

    def end(self):
        return b"".join(self.parts) + b"\xff\xd9"


def whole(picture, groups, restart=0, sof=0xC0, encoding="jfif", tables=None, **options):
    """A sequential file with its components grouped into scans."""
    file = File(picture, sof, **options)
    if encoding == "jfif":
        file.jfif()
    elif encoding is not None:
        file.adobe(encoding)
    file.quantization().frame().restarts(restart)
    if tables == "standard":
        file.standard_huffman()
    for group in groups:
        file.scan(group, restart, tables=tables)
    return file.end()


THREE = [
    [[0, 1, 2]],
    [[0], [1], [2]],
    [[1], [2], [0]],
    [[2], [1], [0]],
    [[0, 1], [2]],
    [[2], [0, 1]],
    [[0], [1, 2]],
    [[1, 2], [0]],
    [[0, 2], [1]],
]
FOUR = [
    [[0, 1, 2, 3]],
    [[0], [1], [2], [3]],
    [[3], [2], [1], [0]],
    [[0, 1], [2, 3]],
    [[3], [0, 1, 2]],
    [[0, 3], [1], [2]],
]
SAMPLINGS = {
    "444": [(1, 1)] * 3,
    "422": [(2, 1), (1, 1), (1, 1)],
    "420": [(2, 2), (1, 1), (1, 1)],
    "440": [(1, 2), (1, 1), (1, 1)],
    "411": [(4, 1), (1, 1), (1, 1)],
    "410": [(4, 2), (1, 1), (1, 1)],
    "441": [(1, 4), (1, 1), (1, 1)],
    "3x1": [(3, 1), (1, 1), (1, 1)],
    "1x3": [(1, 3), (1, 1), (1, 1)],
    "3x2": [(3, 2), (1, 1), (1, 1)],
    "3x3": [(3, 3), (1, 1), (1, 1)],
    "22_21_12": [(2, 2), (2, 1), (1, 2)],
    "22_12_21": [(2, 2), (1, 2), (2, 1)],
    "11_21_11": [(1, 1), (2, 1), (1, 1)],
    "11_22_22": [(1, 1), (2, 2), (2, 2)],
    "12_22_21": [(1, 2), (2, 2), (2, 1)],
    "11_12_11": [(1, 1), (1, 2), (1, 1)],
    "41_21_11": [(4, 1), (2, 1), (1, 1)],
    "22_22_11": [(2, 2), (2, 2), (1, 1)],
    "11_11_31": [(1, 1), (1, 1), (3, 1)],
}
SAMPLINGS_OF_FOUR = {
    "1111": [(1, 1)] * 4,
    "420": [(2, 2), (1, 1), (1, 1), (2, 2)],
    "422": [(2, 1), (1, 1), (1, 1), (2, 1)],
    "odd": [(1, 1), (1, 2), (2, 1), (1, 1)],
}
SIZES = [(1, 1), (2, 3), (3, 2), (4, 4), (5, 1), (1, 7), (8, 8), (9, 7), (16, 17), (17, 16), (17, 17)]
SIZES += [(15, 33), (33, 15), (24, 24), (25, 40), (40, 25), (31, 9), (12, 20)]


def fits(sampling, groups):
    blocks = lambda group: sum(sampling[i][0] * sampling[i][1] for i in group)
    return all(len(group) == 1 or blocks(group) <= 10 for group in groups)


def sequential():
    draw = random.Random(1)
    seed = 0
    for name, sampling in SAMPLINGS.items():
        for i, groups in enumerate(THREE):
            if not fits(sampling, groups):
                continue
            seed += 1
            size, restart = draw.choice(SIZES), draw.choice([0, 0, 1, 2, 5])
            encoding = draw.choice(["jfif", "jfif", 0, 1, None])
            sof, tables = draw.choice([0xC0, 0xC1]), draw.choice([None, "standard"])
            order = "_".join("".join(map(str, group)) for group in groups)
            label = f"scans_{name}_{order}_{size[0]}x{size[1]}_r{restart}_{encoding}"
            yield label, whole(Picture(seed, size, sampling), groups, restart, sof, encoding, tables)
    for name, sampling in SAMPLINGS_OF_FOUR.items():
        for groups in FOUR:
            seed += 1
            size, restart = draw.choice(SIZES), draw.choice([0, 1, 3])
            if not fits(sampling, groups):
                continue
            encoding = draw.choice([0, 2, None])
            order = "_".join("".join(map(str, group)) for group in groups)
            label = f"four_{name}_{order}_{size[0]}x{size[1]}_r{restart}_{encoding}"
            yield label, whole(Picture(seed, size, sampling), groups, restart, 0xC0, encoding)
    # Every width and height up to 17, for the kinds of upsampling.
    for name in ["422", "420", "440", "411", "3x2", "22_21_12", "11_22_22"]:
        for side in range(1, 18):
            seed += 1
            size = (side, draw.randint(1, 17)) if side % 2 else (draw.randint(1, 17), side)
            groups = draw.choice([g for g in THREE if fits(SAMPLINGS[name], g)])
            yield f"small{side}_{name}_{size[0]}x{size[1]}", whole(Picture(seed, size, SAMPLINGS[name]), groups)
    for h, v in [(1, 1), (2, 2), (4, 4), (3, 1)]:
        for size in [(1, 1), (9, 15), (17, 40)]:
            seed += 1
            yield f"grey_{h}x{v}_{size[0]}x{size[1]}", whole(Picture(seed, size, [(h, v)]), [[0]], 2)


def scripts(count):
    """Progressions: (components, band, ah, al)."""
    every = list(range(count))
    return {
        "spectral": [(every, (0, 0), 0, 0)] + [([i], band, 0, 0) for band in [(1, 5), (6, 63)] for i in every],
        "approximation": [(every, (0, 0), 0, 1)]
        + [([i], (1, 63), 0, 2) for i in every]
        + [([i], (1, 63), 2, 1) for i in every]
        + [(every, (0, 0), 1, 0)]
        + [([i], (1, 63), 1, 0) for i in every],
        "apart": [([i], (0, 0), 0, 0) for i in every[::-1]] + [([i], (1, 63), 0, 0) for i in every],
        "singles": [(every, (0, 0), 0, 0)] + [([i], (k, k), 0, 0) for i in every for k in range(1, 12)]
        + [([i], (12, 63), 0, 0) for i in every],
        # Without some of the scans; the coefficients that are coded are complete.
        "dc": [(every, (0, 0), 0, 0)],
        "dc_apart": [([i], (0, 0), 0, 0) for i in every],
        "luma": [(every, (0, 0), 0, 0), ([0], (1, 63), 0, 0)],
        "luma_low": [(every, (0, 0), 0, 1), ([0], (1, 2), 0, 0), (every, (0, 0), 1, 0)],
        "high": [(every, (0, 0), 0, 0)] + [([i], (6, 63), 0, 0) for i in every],
        "low": [(every, (0, 0), 0, 0)] + [([i], (1, 9), 0, 0) for i in every],
    }


def progressive():
    draw = random.Random(2)
    seed = 1000
    kinds = ["444", "420", "422", "440", "22_21_12", "3x2", "11_22_22"]
    for name in kinds:
        for script, scans in scripts(3).items():
            for _ in range(2):
                seed += 1
                size, restart = draw.choice(SIZES[6:]), draw.choice([0, 0, 1, 4])
                file = File(Picture(seed, size, SAMPLINGS[name], detail=60), 0xC2).jfif().quantization()
                file.frame().restarts(restart)
                for components, band, ah, al in scans:
                    file.scan(components, restart, band, ah, al)
                yield f"progressive_{name}_{script}_{size[0]}x{size[1]}_r{restart}_{seed}", file.end()
    for name, sampling in [("grey", [(1, 1)]), ("grey22", [(2, 2)]), ("four", SAMPLINGS_OF_FOUR["420"])]:
        for script, scans in scripts(len(sampling)).items():
            seed += 1
            size = draw.choice(SIZES[6:])
            file = File(Picture(seed, size, sampling), 0xC2)
            (file.adobe(2) if len(sampling) == 4 else file.jfif()).quantization().frame()
            for components, band, ah, al in scans:
                file.scan(components, 0, band, ah, al)
            yield f"progressive_{name}_{script}_{size[0]}x{size[1]}", file.end()
    # All sizes of the last row of MCUs.
    for rows in range(1, 8):
        seed += 1
        size = (8 * draw.randint(1, 6) - draw.randint(0, 3), 8 * rows - draw.randint(0, 3))
        for script in ["dc", "dc_apart", "luma"]:
            file = File(Picture(seed, size, SAMPLINGS["420"]), 0xC2).jfif().quantization().frame()
            for components, band, ah, al in scripts(3)[script]:
                file.scan(components, 0, band, ah, al)
            yield f"smooth_{script}_{size[0]}x{size[1]}", file.end()


def tables():
    """Tables that are missing, late, in other slots, or redefined between scans."""
    picture = lambda seed: Picture(seed, (24, 20), SAMPLINGS["420"])
    start = lambda seed, **options: File(picture(seed), **options).jfif()
    colour = [0, 1, 2]
    yield "tables_no_huffman", start(2001).quantization().frame().scan(colour, tables="standard").end()
    for i, left_out in enumerate(STANDARD):
        only = set(STANDARD) - {left_out}
        file = start(2010 + i).quantization().frame().standard_huffman(only)
        yield f"tables_no_huffman_{left_out[0]}{left_out[1]}", file.scan(colour, tables="standard").end()
    file = start(2002).quantization().frame()
    for component in colour:
        file.scan([component], tables="standard")
    yield "tables_no_huffman_scans", file.end()
    # The slots 0 and 1 are filled before the first scan; a later definition replaces them.
    file = start(2003).quantization().frame().scan([0], tables="standard").scan([1, 2])
    yield "tables_huffman_after_default", file.end()
    slots = [(2, 3), (3, 2), (3, 2)]
    file = start(2004, sof=0xC1, slots=slots, quant_slots=[2, 3, 3])
    yield "tables_slots_2_3", file.quantization(wide=True).frame().scan(colour).end()
    file = start(2005, slots=[(0, 0), (2, 2), (2, 2)]).quantization().frame().scan([0])
    body = b"".join(file.parts) + segment(0xDA, bytes([2, 2, 0x22, 3, 0x22, 0, 63, 0])) + b"\x55" * 90
    yield "tables_no_huffman_2", body + b"\xff\xd9"
    yield "tables_no_quantization", start(2006).frame().scan(colour).end()
    file = start(2007, quant_slots=[0, 3, 3]).add(dqt(0, LUMINANCE), dqt(1, CHROMINANCE))
    yield "tables_no_quantization_3", file.frame().scan(colour).end()
    file = start(2008).add(dqt(0, LUMINANCE)).frame().scan([0]).add(dqt(1, CHROMINANCE))
    yield "tables_quantization_between_scans", file.scan([1, 2]).end()
    file = start(2009).add(dqt(0, LUMINANCE)).frame().scan([0]).scan([1, 2])
    yield "tables_quantization_missing_in_second_scan", file.add(dqt(1, CHROMINANCE)).end()
    # All components name slot 0, which is defined anew after the first scan.
    file = start(2020, quant_slots=[0, 0, 0]).add(dqt(0, LUMINANCE)).frame().scan([0])
    yield "tables_quantization_redefined", file.add(dqt(0, CHROMINANCE)).scan([1]).scan([2]).end()
    file = File(picture(2021), 0xC2, quant_slots=[0, 0, 0]).jfif().add(dqt(0, LUMINANCE)).frame()
    file.scan(colour, band=(0, 0)).add(dqt(0, CHROMINANCE))
    for component in colour:
        file.scan([component], band=(1, 63))
    yield "tables_quantization_redefined_progressive", file.end()
    file = File(picture(2022), 0xC2).jfif().quantization().frame()
    body = b"".join(file.parts) + segment(0xDA, bytes([3, 1, 0, 2, 0x11, 3, 0x11, 0, 0, 0])) + b"\x55" * 90
    yield "tables_no_huffman_progressive", body + b"\xff\xd9"
    file = start(2023, ids=[82, 71, 66])
    file.parts = file.parts[:1]
    yield "tables_rgb_by_ids", file.quantization().frame().scan(colour).end()


JUNK = {
    "zeros": b"\0" * 11,
    "text": b"extraneous bytes",
    "pattern": b"\x12\x34\x56" * 50,
    "stuffed": b"\x31\xff\x00\x32\xff\x00",
    "one": b"\x99",
    "two": b"\x1a\x0d",
}


def extraneous():
    """Bytes that are no part of the image, and markers out of turn."""
    colour = [0, 1, 2]
    start = lambda seed, **options: File(Picture(seed, (33, 30), SAMPLINGS["420"]), **options).jfif()
    for i, (name, junk) in enumerate(JUNK.items()):
        begin = lambda: start(3000 + i).quantization().frame()
        yield f"junk_{name}_before_end", begin().standard_huffman().scan(colour, tables="standard").add(junk).end()
        yield f"junk_{name}_before_end_flat", begin().scan(colour).add(junk).end()
        file = begin().restarts(2).scan(colour, 2, after={0: junk, 2: junk})
        yield f"junk_{name}_before_restarts", file.end()
        file = begin().scan([0], after={0: junk}).scan([1, 2], after={0: junk})
        yield f"junk_{name}_between_scans", file.end()
        file = start(3000 + i, sof=0xC2).quantization().frame()
        file.scan(colour, band=(0, 0), after={0: junk})
        for component in colour:
            file.scan([component], band=(1, 63), after={0: junk})
        yield f"junk_{name}_progressive", file.end()
        yield f"junk_{name}_between_segments", start(3000 + i).add(junk).quantization().add(junk).frame().add(junk).scan(colour).end()
    fill = b"\xff" * 3
    begin = lambda: start(3100).quantization().add(fill).frame().add(fill)
    yield "fill_bytes", begin().scan(colour, after={0: fill}).end()
    yield "fill_bytes_before_restarts", begin().restarts(3).scan(colour, 3, after={0: fill, 1: fill}).end()
    yield "last_restart", begin().restarts(3).scan(colour, 3, after={1: b"\xff\xd1"}).end()
    for number in range(8):
        file = begin().restarts(1).scan(colour, 1, markers={1: number})
        yield f"{'lost_' if number in (0, 2, 3, 7) else ''}restart_{number}_for_1", file.end()
    file = begin().restarts(1).scan(colour, 1, after={1: b"\xff\xd0\x12\x34"})
    yield "restart_repeated", file.end()
    yield "lost_restart_all_0", begin().restarts(2).scan(colour, 2, markers={i: 0 for i in range(9)}).end()
    yield "reserved_marker", begin().scan(colour).add(segment(0x70, b"abc")).end()
    yield "extension_marker", begin().add(segment(0xF7, b"abc")).scan(colour).end()
    yield "comment_between_scans", begin().scan([0]).add(segment(0xFE, b"abc")).scan([1, 2]).end()
    yield "after_end", begin().scan(colour).end() + b"abc\xff\xd8\xff"
    # Data of further blocks is no extraneous data: the frame is too short for it.
    tall, low = Picture(3200, (24, 40), SAMPLINGS["444"]), (24, 24)
    for name, restart in [("", 0), ("_restarts", 3)]:
        file = File(tall).jfif().quantization()
        tall.size = low
        file.frame().restarts(restart)
        tall.size = (24, 40)
        yield f"lost_rows{name}", file.scan(colour, restart).end()
    yield "lost_scan", begin().scan([0, 1]).end()
    yield "lost_all_scans", begin().end()
    yield "twice", begin().scan([0]).scan([0]).scan([1, 2]).end()
    file = start(3101, sof=0xC2).quantization().frame().scan(colour, band=(0, 0), al=1)
    yield "lost_refinement", file.end()


def stored(data):
    try:
        image = Image.open(io.BytesIO(data)).convert("RGB")
    except Exception:
        return "refused"
    return f"{image.width}x{image.height} {zlib.crc32(image.tobytes()):08x}"


def main():
    files = {}
    for name, data in itertools.chain(sequential(), progressive(), tables(), extraneous()):
        assert name not in files, name
        files[name] = data
    here = Path(__file__).parent
    (here / "files.bin.gz").write_bytes(gzip.compress(b"".join(files.values()), 9, mtime=0))
    lines = (f"{name}.jpg\t{len(data)}\t{stored(data)}\n" for name, data in files.items())
    (here / "files.txt").write_text("".join(lines))


main()
