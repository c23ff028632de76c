"""A training step of an RS-Net as one would write it in PyTorch: a batch norm for each size, the learned ensemble, and
the distillation of EnsembleTopDown; SGD with momentum; images that are on the device already.

    cargo xtask bench --only steps --against \
        "python bench/peers/step.py --arch {arch} --batch {batch} --sizes {sizes} --classes {classes}"

Prints `N images/s`, the median of the steps: an image counts once, at all its sizes. --precision bfloat16 is autocast
with channels last.
"""

import argparse
import time

import torch
import torchvision
from torch import nn
from torch.nn import functional


class PrivateNorm(nn.Module):
    """Batch norms of which `at` says which one is used."""

    def __init__(self, channels, sizes):
        super().__init__()
        self.norms = nn.ModuleList(nn.BatchNorm2d(channels) for _ in range(sizes))
        self.at = 0

    def forward(self, x):
        return self.norms[self.at](x)


def make_private(module, sizes):
    for name, child in module.named_children():
        if isinstance(child, nn.BatchNorm2d):
            setattr(module, name, PrivateNorm(child.num_features, sizes))
        else:
            make_private(child, sizes)


def loss_of(logits, weights, labels):
    """Cross-entropies of all sizes and of their ensemble, and the divergences of each from its teachers: the ensemble
    and all that are at least as large."""
    ensemble = sum(weight * each.detach() for weight, each in zip(weights.softmax(0), logits))
    loss = functional.cross_entropy(ensemble, labels)
    teachers = [ensemble.detach().softmax(1)]
    distilled = 0.0
    for each in logits:
        loss = loss + functional.cross_entropy(each, labels)
        for teacher in teachers:
            distilled = distilled + functional.kl_div(each.log_softmax(1), teacher, reduction="batchmean")
        teachers.append(each.detach().softmax(1))
    return loss + 2 / (len(logits) + 1) * distilled


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--arch", default="resnet18")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--sizes", type=int, nargs="+", default=[128, 112, 96, 80, 64])
    parser.add_argument("--classes", type=int, default=1000)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--steps", type=int, default=5)
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    torch.backends.cudnn.benchmark = True
    is_half = options.precision == "bfloat16"
    layout = torch.channels_last if is_half else torch.contiguous_format
    net = getattr(torchvision.models, options.arch)(num_classes=options.classes)
    make_private(net, len(options.sizes))
    net = net.to(options.device, memory_format=layout).train()
    norms = [module for module in net.modules() if isinstance(module, PrivateNorm)]
    weights = nn.Parameter(torch.ones(len(options.sizes), device=options.device))
    optimizer = torch.optim.SGD([*net.parameters(), weights], 0.1, momentum=0.9, weight_decay=1e-4)
    images = []
    for size in options.sizes:
        shape = (options.batch, 3, size, size)
        images.append(torch.rand(shape, device=options.device).contiguous(memory_format=layout))
    labels = torch.randint(options.classes, (options.batch,), device=options.device)

    def synchronize():
        if options.device.startswith("cuda"):
            torch.cuda.synchronize()

    def step():
        logits = []
        with torch.autocast(torch.device(options.device).type, torch.bfloat16, enabled=is_half):
            for at, batch in enumerate(images):
                for norm in norms:
                    norm.at = at
                logits.append(net(batch))
        loss = loss_of([each.float() for each in logits], weights, labels)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()

    times = []
    for _ in range(2 + options.steps):
        synchronize()
        start = time.perf_counter()
        step()
        synchronize()
        times.append(time.perf_counter() - start)
    median = sorted(times[2:])[options.steps // 2]
    print(f"{options.batch / median:.2f} images/s")


if __name__ == "__main__":
    main()
