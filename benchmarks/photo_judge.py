"""A network that judges photos, and shares nothing with the models that are judged; what the benchmarks of photos share.

It has six convolutional layers, and is fitted to photos with their labels; of random weights it is a control.
"""

import argparse
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ssl_diffusion.data.loading import load_pool
from ssl_diffusion.data.pool import Pool
from ssl_diffusion.data.settings import DataSettings

__all__ = ["EPOCHS", "Judge", "cifar_judge", "fitted", "judged_by", "network", "photo_arguments"]

EPOCHS, BATCH, PEAK = 12, 128, 0.1

Judge = Callable[[NDArray[np.uint8]], NDArray[np.int64]]


def network(classes: int, seed: int) -> nn.Module:
    """A convolutional network of six layers for photos of 32 px, of random weights."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        layers: list[nn.Module] = []
        for i, o in ((3, 32), (32, 32), (32, 64), (64, 64), (64, 128), (128, 128)):
            layers += [nn.Conv2d(i, o, 3, padding=1, bias=False), nn.BatchNorm2d(o), nn.ReLU()]
            if i == o and o < 128:
                layers.append(nn.MaxPool2d(2))
        model = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(128, classes))
    return model.to("cuda" if torch.cuda.is_available() else "cpu", memory_format=torch.channels_last)


def standardized(images: NDArray[np.uint8] | Tensor, model: nn.Module) -> Tensor:
    """Images in [-2, 2], on the device of the model."""
    device = next(model.parameters()).device
    return (torch.as_tensor(images).to(device).float() / 255 - 0.5) * 4


def fitted(images: NDArray[np.uint8], labels: NDArray[np.int64], classes: int, epochs: int) -> nn.Module:
    """A network fitted to labeled photos, mirrored and moved by up to four pixels."""
    model, generator = network(classes, 0), torch.Generator().manual_seed(0)
    optimizer = torch.optim.SGD(model.parameters(), PEAK, momentum=0.9, weight_decay=5e-4, nesterov=True)
    steps = epochs * (len(images) // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, PEAK, total_steps=steps)
    x, y = standardized(images, model), torch.as_tensor(labels, device=next(model.parameters()).device)
    x = nn.functional.pad(x, (4, 4, 4, 4), mode="reflect")
    size = images.shape[-1]
    for _ in range(epochs):
        for rows in torch.randperm(len(x), generator=generator)[: BATCH * (len(x) // BATCH)].split(BATCH):
            top, left = torch.randint(9, (2,), generator=generator).tolist()
            batch = x[rows, :, top : top + size, left : left + size]
            mirrored = torch.rand(len(rows), generator=generator).to(batch.device) < 0.5
            batch = torch.where(mirrored[:, None, None, None], batch.flip(3), batch)
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(batch), y[rows], label_smoothing=0.1).backward()
            optimizer.step()
            schedule.step()
    return model


def judged_by(model: nn.Module) -> Judge:
    """The class that a network sees."""
    model.eval()

    def judge(images: NDArray[np.uint8]) -> NDArray[np.int64]:
        with torch.inference_mode():
            parts = [model(standardized(images[i : i + 500], model)).argmax(1).cpu() for i in range(0, len(images), 500)]
        return torch.cat(parts).numpy()

    return judge


def cifar_judge(cifar: Path, epochs: int) -> tuple[Pool, Judge]:
    """All photos of CIFAR, and the judge that is fitted to those for training."""
    whole = load_pool(DataSettings(path=str(cifar)))
    known = whole.images[whole.train], whole.labels[whole.train]
    return whole, judged_by(fitted(*known, len(whole.classes), epochs))


def photo_arguments(description: str | None, name: str, out: Path) -> argparse.ArgumentParser:
    """Options of a benchmark that fits models to photos of CIFAR and asks a judge; --cifar may be missing with --table."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cifar", type=Path, help="folder with train/ and test/ of CIFAR-10 as image files")
    parser.add_argument("--epochs", type=int, default=EPOCHS, help="of the judge")
    parser.add_argument("--work", type=Path, default=Path("runs") / name, help="folder of photos, runs and pictures")
    parser.add_argument("--out", type=Path, default=out, help="file of the rows")
    parser.add_argument("--table", action="store_true", help="only print the rows that are there")
    return parser
