"""JPEG and WebP, by Pillow, and WebP animations."""

import struct

from PIL import Image

from common import SIZES, add, pack, picture, saved


def jpegs():
    for mode in ["L", "RGB", "CMYK"]:
        for progressive in [False, True]:
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
                    add(f"{kind}_{width}x{height}_{subsampling}.jpg", data)
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
