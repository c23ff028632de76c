"""Orientations in all places of EXIF and XMP."""

import struct
import zlib

from common import add, pack, picture, samples, saved
from lossy import riff
from pngs import chunk, png
from rasters import gif
from tiffs import tiff, tiff_file


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
