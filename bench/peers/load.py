"""Other loaders at the work of rsflow's: decode a JPEG, take one random crop of it as torchvision's RandomResizedCrop
does, resize that to every size with a flip for each, and make batches of 64.

    cargo xtask bench --only load --images FOLDER \
        --peer "python bench/peers/load.py opencv {images} --workers {workers} --sizes {sizes}"

FOLDER has a folder of JPEGs for each class. Prints `N images/s`: an image counts once, at all its sizes. A pass over
all images comes first and is not measured.

torchvision, pillow: resize with antialiasing, in processes of PyTorch's DataLoader. opencv: the same without
antialiasing, which is less work. dali: NVIDIA's, its part for the CPU. turboloader: one size only; it reads a tar,
which is made first, and takes as many threads as there are cores, whatever --workers says.
"""

import argparse
import itertools
import math
import random
import tarfile
import tempfile
import time
import warnings
from pathlib import Path

BATCH = 64


def find_crop(width, height):
    """Left, top, width and height of a random crop."""
    for _ in range(10):
        area = width * height * random.uniform(0.08, 1.0)
        ratio = math.exp(random.uniform(math.log(3 / 4), math.log(4 / 3)))
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            return random.randint(0, width - w), random.randint(0, height - h), w, h
    return 0, 0, width, height


def flips():
    return random.random() < 0.5


def by_pillow(path, sizes):
    import numpy
    from PIL import Image

    image = Image.open(path).convert("RGB")
    x, y, w, h = find_crop(*image.size)
    image = image.crop((x, y, x + w, y + h))
    for size in sizes:
        resized = image.resize((size, size), Image.Resampling.BILINEAR)
        if flips():
            resized = resized.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        yield numpy.asarray(resized).transpose(2, 0, 1).copy()


def by_torchvision(path, sizes):
    from torchvision.io import ImageReadMode, decode_jpeg, read_file
    from torchvision.transforms.v2 import functional

    image = decode_jpeg(read_file(str(path)), mode=ImageReadMode.RGB)
    x, y, w, h = find_crop(image.shape[2], image.shape[1])
    image = image[:, y : y + h, x : x + w]
    for size in sizes:
        resized = functional.resize(image, [size, size], antialias=True)
        yield (resized.flip(-1) if flips() else resized).numpy()


def by_opencv(path, sizes):
    import cv2

    cv2.setNumThreads(0)
    image = cv2.imread(str(path))
    x, y, w, h = find_crop(image.shape[1], image.shape[0])
    image = image[y : y + h, x : x + w]
    for size in sizes:
        resized = cv2.resize(image, (size, size), interpolation=cv2.INTER_LINEAR)
        resized = cv2.flip(resized, 1) if flips() else resized
        yield cv2.cvtColor(resized, cv2.COLOR_BGR2RGB).transpose(2, 0, 1).copy()


class Images:
    """A data set of PyTorch."""

    def __init__(self, load, paths, sizes):
        self.load, self.paths, self.sizes = load, paths, sizes

    def __len__(self):
        return len(self.paths)

    def __getitem__(self, at):
        return list(self.load(self.paths[at], self.sizes))


def data_loader(load):
    def start(paths, options):
        import torch

        torch.set_num_threads(1)
        images = Images(load, paths, options.sizes)
        loader = torch.utils.data.DataLoader(
            images, BATCH, shuffle=True, num_workers=options.workers, persistent_workers=True
        )

        def batches():
            while True:
                for batch in loader:
                    yield batch[0].shape[0]

        return batches()

    return start


def dali(paths, options):
    from nvidia.dali import fn, pipeline_def, types

    @pipeline_def(batch_size=BATCH, num_threads=options.workers, device_id=None)
    def graph():
        encoded, _ = fn.readers.file(files=[str(path) for path in paths], random_shuffle=True)
        image = fn.decoders.image_random_crop(
            encoded, random_area=[0.08, 1.0], random_aspect_ratio=[3 / 4, 4 / 3], output_type=types.RGB
        )
        outputs = []
        for size in options.sizes:
            resized = fn.resize(image, size=[size, size], interp_type=types.INTERP_LINEAR, antialias=True)
            flipped = fn.flip(resized, horizontal=fn.random.coin_flip())
            outputs.append(fn.transpose(flipped, perm=[2, 0, 1]))
        return tuple(outputs)

    pipe = graph()
    pipe.build()

    def batches():
        while True:
            pipe.run()
            yield BATCH

    return batches()


def turboloader(paths, options):
    import turboloader as peer

    if len(options.sizes) != 1:
        raise SystemExit("turboloader makes images of one size")
    # It says so if it cannot decode an image, and takes zeros for it.
    warnings.simplefilter("error", RuntimeWarning)
    with tempfile.NamedTemporaryFile(suffix=".tar", delete=False) as file:
        with tarfile.open(fileobj=file, mode="w") as tar:
            for path in paths:
                tar.add(path.resolve(), arcname=path.relative_to(path.parent.parent))
    options.remove = file.name
    loader = peer.DataLoader(
        file.name,
        batch_size=BATCH,
        num_workers=options.workers,
        shuffle=True,
        image_size=options.sizes[0],
        output_format="numpy_chw",
        antialias=True,
        train_aug=True,
    )

    def batches():
        for epoch in itertools.count():
            loader.set_epoch(epoch)
            for batch in loader:
                yield len(batch[0] if isinstance(batch, tuple) else batch)

    return batches()


PEERS = {
    "pillow": data_loader(by_pillow),
    "torchvision": data_loader(by_torchvision),
    "opencv": data_loader(by_opencv),
    "dali": dali,
    "turboloader": turboloader,
}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("peer", choices=PEERS)
    parser.add_argument("images", type=Path)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--sizes", type=int, nargs="+", default=[224, 192, 160, 128, 96])
    parser.add_argument("--passes", type=int, default=3, help="over all images, that are measured")
    options = parser.parse_args()
    endings = {".jpg", ".jpeg"}
    paths = sorted(path for path in options.images.glob("*/*") if path.suffix.lower() in endings)
    if not paths:
        raise SystemExit(f"there are no JPEGs in the folders of {options.images}")
    options.remove = None
    try:
        batches = PEERS[options.peer](paths, options)
        for measured in [False, True]:
            start, images = time.perf_counter(), 0
            while images < len(paths) * (options.passes if measured else 1):
                images += next(batches)
        print(f"{images / (time.perf_counter() - start):.1f} images/s")
    finally:
        if options.remove:
            Path(options.remove).unlink()


if __name__ == "__main__":
    main()
