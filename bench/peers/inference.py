"""Forward passes of one network at several sizes: rsflow's library, PyTorch (eager, and compiled with frozen
weights) and onnxruntime, one after the other in processes of their own, several rounds in turn.

    rsflow import net.pth --arch resnet50 --sizes 224,160,96 --out net.safetensors
    rsflow export net.safetensors --to onnx --size all --out net.onnx
    python inference.py --library librsflow_net.so --checkpoint net.safetensors --onnx net.onnx \
        --arch resnet50 --weights net.pth

Needs torch, torchvision, numpy and onnxruntime. Prints milliseconds of a pass, from float32 pixels for the others
and from bytes for rsflow, as the least median of the rounds, and how many times as long as rsflow's each takes.
"""

import argparse
import ctypes
import json
import os
import subprocess
import sys
import time

CONTENDERS = ["rsflow", "eager", "compiled", "onnxruntime"]


def median(run, seconds):
    """Of passes of `run` for about so long, after a warm-up."""
    for _ in range(3):
        run()
    times, end = [], time.perf_counter() + seconds
    while len(times) < 5 or (time.perf_counter() < end and len(times) < 200):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return 1e3 * sorted(times)[len(times) // 2]


def rsflow(options):
    import numpy

    library = ctypes.CDLL(os.path.abspath(options.library))
    library.rsflow_open.restype = ctypes.c_void_p
    library.rsflow_error.restype = ctypes.c_char_p
    library.rsflow_class_count.restype = ctypes.c_size_t
    sizes = (ctypes.c_uint32 * len(options.sizes))(*options.sizes)
    count = ctypes.c_size_t(len(sizes))
    net = library.rsflow_open(options.checkpoint.encode(), sizes, count, b"cpu", options.precision.encode())
    assert net, library.rsflow_error().decode()
    net = ctypes.c_void_p(net)
    classes = library.rsflow_class_count(net)

    def prepare(size, batch):
        pixels = numpy.random.randint(0, 256, (batch, size, size, 3), numpy.uint8)
        logits = numpy.empty((batch, classes), numpy.float32)
        pointers = [ctypes.c_void_p(array.ctypes.data) for array in (pixels, logits)]

        def run():
            done = library.rsflow_logits(
                net, pointers[0], ctypes.c_size_t(batch), ctypes.c_uint32(size), pointers[1]
            )
            assert done == 1 and pixels.size and logits.size, library.rsflow_error().decode()

        return run

    return prepare


def pytorch(options, compiled):
    import torch
    import torch._inductor.config
    import torchvision

    torch.set_num_threads(options.threads)
    torch._inductor.config.freezing = True
    net = getattr(torchvision.models, options.arch)()
    net.load_state_dict(torch.load(options.weights))
    dtype = {"float32": torch.float32, "bfloat16": torch.bfloat16}[options.precision]
    net = net.eval().to(dtype=dtype, memory_format=torch.channels_last)

    def prepare(size, batch):
        torch._dynamo.reset()
        call = torch.compile(net) if compiled else net
        images = torch.rand(batch, 3, size, size, dtype=dtype)
        images = images.to(memory_format=torch.channels_last)

        def run():
            # Freezing does not go with inference_mode.
            with torch.no_grad():
                call(images)

        return run

    return prepare


def onnxruntime(options):
    import numpy
    import onnxruntime

    def prepare(size, batch):
        settings = onnxruntime.SessionOptions()
        settings.intra_op_num_threads = options.threads
        path = options.onnx.removesuffix(".onnx") + f".{size}.onnx"
        session = onnxruntime.InferenceSession(path, settings, ["CPUExecutionProvider"])
        images = numpy.random.rand(batch, 3, size, size).astype(numpy.float32)
        return lambda: session.run(None, {"images": images})

    return prepare


def measure(options):
    """What one contender takes, as JSON on stdout."""
    prepare = {
        "rsflow": lambda: rsflow(options),
        "eager": lambda: pytorch(options, compiled=False),
        "compiled": lambda: pytorch(options, compiled=True),
        "onnxruntime": lambda: onnxruntime(options),
    }[options.only]()
    for size in options.sizes:
        for batch in options.batches:
            row = [size, batch, median(prepare(size, batch), options.seconds)]
            print(json.dumps(row), flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--library", required=True)
    parser.add_argument("--checkpoint", required=True)
    parser.add_argument("--onnx", required=True, help="NAME.onnx of the files NAME.SIZE.onnx")
    parser.add_argument("--arch", required=True)
    parser.add_argument("--weights", required=True)
    parser.add_argument("--precision", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--sizes", type=int, nargs="+", default=[224, 160, 96])
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 32])
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--contenders", nargs="+", choices=CONTENDERS, default=CONTENDERS)
    parser.add_argument("--only", choices=CONTENDERS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.only:
        return measure(options)
    contenders = [name for name in options.contenders if name != "onnxruntime" or options.precision == "float32"]
    assert "rsflow" in contenders, "rsflow's times are what others are compared with"
    environment = {**os.environ, "OMP_NUM_THREADS": str(options.threads)}
    best = {}
    for _ in range(options.rounds):
        for name in contenders:
            command = [sys.executable, *sys.argv, "--only", name]
            done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True)
            for line in done.stdout.decode().splitlines():
                if line.startswith("["):
                    size, batch, time_ms = json.loads(line)
                    known = best.setdefault((size, batch), {})
                    known[name] = min(time_ms, known.get(name, time_ms))
    print(f"{options.arch} {options.precision}, {options.threads} threads, ms of a pass")
    print("size batch " + " ".join(f"{name:>16}" for name in contenders))
    for (size, batch), times in best.items():
        ours = times["rsflow"]
        cells = [f"{times[name]:8.2f} ({times[name] / ours:4.2f}x)" for name in contenders]
        print(f"{size:4} {batch:5} " + " ".join(f"{cell:>16}" for cell in cells))


if __name__ == "__main__":
    main()
