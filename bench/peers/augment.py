"""The cost of augmentations by torchvision v2 and by timm, on one core.

    python augment.py FOLDER

FOLDER holds folders of PPM files, as `cargo bench -p rsflow-pipeline --bench augment -- --pictures FOLDER`
writes them. Each operation is measured on all pictures of a folder. A line of the output is a JSON object:
the folder (`pictures`), the `operation`, who does it (`by`), and the mean `microseconds` per picture, the best
of some rounds. Operations have the names and strengths of the benchmark of rsflow.
"""

import json
import sys
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from timm.data import auto_augment as timm
from timm.data.random_erasing import RandomErasing
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as F

ROUNDS = 9
ROUND_SECONDS = 0.02
MEAN = (124, 116, 104)


def shear(x, y):
    """torchvision's RandAugment, for a picture that is moved by so many pixels for each along the other axis."""
    degrees = [float(np.degrees(np.arctan(x))), float(np.degrees(np.arctan(y)))]
    return lambda image: F.affine(image, 0.0, [0, 0], 1.0, degrees, InterpolationMode.NEAREST, [0] * 3, [0, 0])


def translate(x, y):
    def change(image):
        height, width = F.get_size(image)
        shift = [int(x * width), int(y * height)]
        return F.affine(image, 0.0, shift, 1.0, [0.0, 0.0], InterpolationMode.NEAREST, [0] * 3)

    return change


def erase(value):
    """Overwrites the middle quarter of a tensor."""

    def change(image):
        height, width = image.shape[-2:]
        i, j, h, w = height // 4, width // 4, height // 2, width // 2
        return F.erase(image, i, j, h, w, value(h, w))

    return change


# Bin 20 of 31, as in rsflow's benchmark.
SHIFT = 150 / 331 * 20 / 30
BY_TORCHVISION = {
    "Copy": lambda image: image.clone() if isinstance(image, torch.Tensor) else image.copy(),
    "ShearX": shear(0.2, 0.0),
    "ShearY": shear(0.0, 0.2),
    "TranslateX": translate(SHIFT, 0.0),
    "TranslateY": translate(0.0, SHIFT),
    "Rotate": lambda image: F.rotate(image, 20.0, InterpolationMode.NEAREST, fill=[0] * 3),
    "Brightness": lambda image: F.adjust_brightness(image, 1.6),
    "Colour": lambda image: F.adjust_saturation(image, 1.6),
    "Contrast": lambda image: F.adjust_contrast(image, 1.6),
    "Sharpness": lambda image: F.adjust_sharpness(image, 1.6),
    "Posterize": lambda image: F.posterize(image, 5),
    "Solarize": lambda image: F.solarize(image, 85),
    "AutoContrast": F.autocontrast,
    "Equalize": F.equalize,
    "Hue": lambda image: F.adjust_hue(image, 30 / 255),
    "Invert": F.invert,
    "FlipHorizontal": F.horizontal_flip,
    "FlipVertical": F.vertical_flip,
}
BY_TORCHVISION_ON_TENSORS = {
    "Erase colour": erase(lambda h, w: torch.tensor(MEAN, dtype=torch.uint8)[:, None, None]),
    "Erase noise": erase(lambda h, w: torch.randint(256, (3, h, w), dtype=torch.uint8)),
}


def by_timm(operation, *arguments, **options):
    return lambda image: operation(image, *arguments, fillcolor=MEAN, **options)


# Level 6 of 10, where everything increases.
BY_TIMM = {
    "Brightness": by_timm(timm.brightness, 1.54),
    "Colour": by_timm(timm.color, 1.54),
    "Contrast": by_timm(timm.contrast, 1.54),
    "Sharpness": by_timm(timm.sharpness, 1.54),
    "Posterize": by_timm(timm.posterize, 2),
    "Solarize": by_timm(timm.solarize, 103),
    "SolarizeAdd": by_timm(timm.solarize_add, 66),
    "AutoContrast": by_timm(timm.auto_contrast),
    "Equalize": by_timm(timm.equalize),
    "Invert": by_timm(timm.invert),
}
for name, resample in [("bilinear", Image.Resampling.BILINEAR), ("bicubic", Image.Resampling.BICUBIC)]:
    BY_TIMM |= {
        f"ShearX {name}": by_timm(timm.shear_x, 0.18, resample=resample),
        f"ShearY {name}": by_timm(timm.shear_y, 0.18, resample=resample),
        f"TranslateX {name}": by_timm(timm.translate_x_rel, 0.27, resample=resample),
        f"TranslateY {name}": by_timm(timm.translate_y_rel, 0.27, resample=resample),
        f"Rotate {name}": by_timm(timm.rotate, 18.0, resample=resample),
    }


def erase_by_timm(mode):
    """timm erases pictures that are tensors of floats already, in place."""
    erasing = RandomErasing(1.0, 0.25, 0.25, 1.0, 1.0, mode=mode, device="cpu")
    return lambda image: erasing(image.clone())


BY_TIMM_ON_FLOATS = {"Erase colour": erase_by_timm("const"), "Erase noise": erase_by_timm("pixel")}


def tensor(image):
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous()


def seconds(change, images):
    """Per image, the best of some rounds."""
    best = float("inf")
    for _ in range(ROUNDS):
        count = 0
        start = time.perf_counter()
        while time.perf_counter() - start < ROUND_SECONDS:
            for image in images:
                change(image)
            count += len(images)
        best = min(best, (time.perf_counter() - start) / count)
    return best


def main():
    torch.set_num_threads(1)
    torch.manual_seed(0)
    for folder in sorted(path for path in Path(sys.argv[1]).iterdir() if path.is_dir()):
        images = [Image.open(path).convert("RGB") for path in sorted(folder.glob("*.ppm"))]
        tensors = [tensor(image) for image in images]
        floats = [image.float() for image in tensors]
        for by, operations, inputs in [
            ("torchvision, Pillow", BY_TORCHVISION, images),
            ("torchvision, tensors", BY_TORCHVISION | BY_TORCHVISION_ON_TENSORS, tensors),
            ("timm", BY_TIMM, images),
            ("timm", BY_TIMM_ON_FLOATS, floats),
        ]:
            for operation, change in operations.items():
                microseconds = seconds(change, inputs) * 1e6
                line = {"pictures": folder.name, "operation": operation, "by": by, "microseconds": microseconds}
                print(json.dumps(line), flush=True)


main()
