"""Generates small image files of all kinds, and what Pillow makes of them.

Run by hand with Pillow 13, in this folder: `python generate.py`. Writes `files.bin.gz`, the files one after
another, and `files.txt`, a line of columns per file:

    name  bytes  stored  upright

`stored` is the size and the CRC-32 of the RGB bytes of `convert("RGB")` (of 16-bit grey, the upper 8 bits
of Pillow's 16), or `refused`; `upright` is the same after `exif_transpose` where that differs. Both are `-`
where Pillow does not show it: it always turns a TIFF.
"""

import gzip
import io
import warnings
import zlib

from PIL import Image, ImageOps

import lossy
import orientations
import pngs
import rasters
import tiffs
from common import entries


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
    warnings.simplefilter("ignore")
    kinds = [lossy.jpegs, pngs.pngs, rasters.bmps, lossy.webps, tiffs.tiffs]
    kinds += [rasters.netpbms, rasters.gifs, orientations.orientations]
    for make in kinds:
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
        archive += data
        lines.append("\t".join([name, str(len(data)), stored, turned]))
    with open("files.txt", "w") as table:
        table.write("\n".join(lines) + "\n")
    with open("files.bin.gz", "wb") as to:
        to.write(gzip.compress(archive, 9, mtime=0))
    print(f"{len(lines)} files, {len(archive)} bytes, {sum('refused' in line for line in lines)} refused")


main()
