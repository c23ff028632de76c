"""Makes table.txt: what torchvision 0.26, timm 1.0 and Pillow 13 make of images by a formula.

    python generate.py > table.txt

A line is an operation, and for each group of images the CRC-32 of all its pixels. `augmentations.rs` makes
the same images.
"""

import zlib
from unittest import mock

import numpy as np
import torch
from PIL import Image, ImageOps
from timm.data import auto_augment as timm
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

TINY = [(1, 1), (1, 7), (9, 1), (2, 2), (2, 5), (3, 3), (5, 4), (4, 3)]
SMALL = [(17, 13), (64, 48), (30, 20), (101, 67), (90, 90), (31, 120)]
LARGE = [(500, 375), (40000, 2), (3, 33000)]


def image(width, height, pattern):
    """0 is noise, 1 a smooth image of few levels, 2 one colour."""
    y, x, channel = np.meshgrid(
        np.arange(height, dtype=np.uint32),
        np.arange(width, dtype=np.uint32),
        np.arange(1, 4, dtype=np.uint32),
        indexing="ij",
    )
    if pattern == 0:
        v = x * np.uint32(2654435761) ^ y * np.uint32(2246822519) ^ channel * np.uint32(3266489917)
        v ^= v >> np.uint32(15)
        v *= np.uint32(2246822519)
        v ^= v >> np.uint32(13)
    elif pattern == 1:
        v = np.uint32(25) * channel + (x * channel // np.uint32(2) + y * np.uint32(2)) % (np.uint32(40) * channel)
    else:
        v = channel * np.uint32(67)
    return Image.fromarray((v & np.uint32(255)).astype(np.uint8))


GROUPS = [
    [image(*size, pattern) for size in TINY for pattern in range(3)],
    [image(*size, pattern) for size in SMALL for pattern in range(3)],
    [image(*size, pattern) for size in LARGE for pattern in range(2)],
]


def crc(pixels):
    return f"{zlib.crc32(np.ascontiguousarray(pixels).tobytes()):08x}"


def line(name, change, groups=GROUPS):
    sums = []
    for group in groups:
        outputs = [np.asarray(change(image)).reshape(-1) for image in group]
        sums.append(crc(np.concatenate(outputs)))
    print(name, *sums, sep="\t")


def by_torchvision(policy, kind, bin, bins, negative):
    def change(image):
        magnitudes = policy._AUGMENTATION_SPACE[kind][0](bins, image.height, image.width)
        magnitude = 0.0 if magnitudes is None else float(magnitudes[bin])
        magnitude = -magnitude if negative else magnitude
        return policy._apply_image_or_video_transform(image, kind, magnitude, policy.interpolation, policy._fill)

    return change


def by_timm(kind, level, negative, resample):
    def change(image):
        with mock.patch.object(timm, "_randomly_negate", lambda v: -v if negative else v):
            function = timm.LEVEL_TO_ARG[kind]
            arguments = function(level, {}) if function else ()
        return timm.NAME_TO_OP[kind](image, *arguments, fillcolor=(124, 116, 104), resample=resample)

    return change


def main():
    for end in [0.3, 30.0, 0.9, 150 / 331 * 500, 0.99, 135.0, 32.0]:
        for bins in [2, 10, 31]:
            print(f"linspace {end} {bins}", crc(torch.linspace(0.0, end, bins).numpy()), sep="\t")
            print(f"falling {end} {bins}", crc(torch.linspace(end, 0.0, bins).numpy()), sep="\t")
    for name, policy in [("rand", v2.RandAugment()), ("trivial", v2.TrivialAugmentWide())]:
        for kind, (_, signed) in policy._AUGMENTATION_SPACE.items():
            for bin, bins in [(0, 31), (9, 31), (20, 31), (30, 31), (3, 10), (1, 2)]:
                for negative in [False, True] if signed else [False]:
                    sign = "-" if negative else "+"
                    change = by_torchvision(policy, kind, bin, bins, negative)
                    line(f"{name} {kind} {bin} {bins} {sign}", change)
    coloured = v2.RandAugment(fill=[9, 99, 200])
    for kind in ["ShearX", "ShearY", "TranslateX", "TranslateY", "Rotate"]:
        line(f"coloured {kind} 20 31 +", by_torchvision(coloured, kind, 20, 31, False))
    for increasing, kinds in [(False, timm._RAND_TRANSFORMS), (True, timm._RAND_INCREASING_TRANSFORMS)]:
        for index, kind in enumerate(kinds):
            # Pillow 13 refuses to keep no bits.
            levels = [3.0, 6.54321, 10.0] if index != 4 else [3.0, 6.54321]
            for level in levels:
                for negative in [False, True]:
                    sign = "-" if negative else "+"
                    for sampling, resample in [("bilinear", 2), ("bicubic", 3)]:
                        if sampling == "bicubic" and not kind.startswith(("Shear", "Translate", "Rotate")):
                            continue
                        # These are in both lists.
                        if increasing and kind in timm._RAND_TRANSFORMS:
                            continue
                        change = by_timm(kind, level, negative, resample)
                        name = f"timm {index} {level} {sign} {sampling} {str(increasing).lower()}"
                        line(name, change)
    for factor in [0.0, 0.25, 0.5, 1.0, 1.3, 1.999, 3.7]:
        line(f"brightness {factor}", lambda image: F.adjust_brightness(image, factor))
        line(f"contrast {factor}", lambda image: F.adjust_contrast(image, factor))
        line(f"colour {factor}", lambda image: F.adjust_saturation(image, factor))
        line(f"sharpness {factor}", lambda image: F.adjust_sharpness(image, factor))
    for hue in [-0.5, -0.3, -0.1, -0.001, 0.0, 0.05, 0.2, 0.4, 0.5]:
        line(f"hue {hue}", lambda image: F.adjust_hue(image, hue))
    for degrees in [180, -90, 45, 200.5]:
        line(f"rotate {degrees}", lambda image: F.rotate(image, degrees))
    line("vertical", F.vertical_flip)
    line("horizontal", F.horizontal_flip)
    line("invert", ImageOps.invert)
    # Every colour that there is.
    levels = np.arange(1 << 24, dtype=np.uint32)
    every = np.stack([levels >> 16, levels >> 8 & 255, levels & 255], -1).astype(np.uint8)
    every = [[Image.fromarray(every.reshape(4096, 4096, 3))]]
    for hue in [-0.33, 0.0, 0.1]:
        line(f"every hue {hue}", lambda image: F.adjust_hue(image, hue), every)
    for factor in [0.37, 1.63]:
        line(f"every colour {factor}", lambda image: F.adjust_saturation(image, factor), every)


main()
