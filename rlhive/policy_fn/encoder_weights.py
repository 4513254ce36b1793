"""Weights of image encoders: the published formats, downloads with a pinned checksum, safetensors in the cache."""

from __future__ import annotations

import functools
import hashlib
import urllib.request
from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import IO

import attrs
import torch
from tensordict import TensorDict
from torch import Generator, Tensor, nn

from rlhive.command_line import command_line
from rlhive.core.errors import LoadError
from rlhive.core.files import file_sha256, replacing
from rlhive.core.tree_file import check_leaves, named_leaves, read_tree, write_tree
from rlhive.core.types import Params
from rlhive.paths import cache_dir
from rlhive.policy_fn.resnet import DEPTHS, ResNet

_TIMEOUT = 20.0  # seconds without an answer
_CHUNK = 1 << 20  # bytes read at once


@attrs.frozen
class Published:
    """Where weights are published, and the checksum of the file; None if nobody published one."""

    url: str
    sha256: str | None


_R3M = "https://pytorch.s3.amazonaws.com/models/rl/r3m"
_TORCHVISION = "https://download.pytorch.org/models"
SOURCES = {
    "r3m18": Published(f"{_R3M}/r3m_18.pt", None),
    "r3m34": Published(f"{_R3M}/r3m_34.pt", None),
    "r3m50": Published(f"{_R3M}/r3m_50.pt", None),
    "rrl18": Published(
        f"{_TORCHVISION}/resnet18-f37072fd.pth",
        "f37072fd47e89c5e827621c5baffa7500819f7896bbacec160b1a16c560e07ec",
    ),
    "rrl34": Published(
        f"{_TORCHVISION}/resnet34-b627a593.pth",
        "b627a593bcbe140c234610266fe4f8ae95ea42fc881d091c9b6052e6b1d0590f",
    ),
    "rrl50": Published(
        f"{_TORCHVISION}/resnet50-0676ba61.pth",
        "0676ba61b6795bbe1773cffd859882e5e297624d384b6993f7c9e683e722fb8a",
    ),
}


def load_weights(path: str | PathLike[str]) -> Params:
    """The ResNet in a file: R3M's checkpoint, torchvision's `state_dict`, or what `write_weights` wrote.

    No code in the file is run.

    Returns:
        The tree of `ResNet.init`, float32.

    Raises:
        LoadError: there is no such file, it holds more than tensors, or tensors of another network.
    """
    path = Path(path)
    if not path.is_file():
        raise LoadError(f"{path}: there is no such file")
    if path.suffix == ".safetensors":
        return _checked(path, named_leaves(read_tree(path)[0]))
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file fails with errors of a dozen types
        reason = str(error).partition("\n")[0].partition(". ")[0]
        raise LoadError(f"{path}: cannot be read as plain tensors: {reason}") from None
    state = state.get("r3m", state) if isinstance(state, Mapping) else None
    if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
        raise LoadError(f"{path}: is neither a checkpoint of R3M nor a state_dict of torchvision's ResNet")
    return tree_of(state, path)


def tree_of(state: Mapping[str, Tensor], where: object) -> Params:
    """The tree of `ResNet.init` from a `state_dict` of R3M or of torchvision's ResNet; `where` is for messages.

    Raises:
        LoadError: the names or shapes are of another network, or a value is not finite.
    """
    names = {name: name.removeprefix("module.").removeprefix("convnet.") for name in state}
    own = {new: state[name] for name, new in names.items() if not new.startswith(("lang_", "fc."))}
    kept = {name.replace(".", "/"): value for name, value in own.items() if "num_batches" not in name}
    return _checked(where, kept)


def module_weights(module: nn.Module) -> Params:
    """The tree of `ResNet.init` with the weights of the authors' `R3M` module or of torchvision's ResNet."""
    return tree_of(module.state_dict(), type(module).__name__)


def depth_of(params: Params) -> int:
    """The depth of the ResNet with this tree; the names must be those of a ResNet."""
    return next(depth for depth in DEPTHS if _shapes(depth).keys() == named_leaves(params).keys())


def weights_sha256(params: Params) -> str:
    """SHA-256 over names, shapes and values: the same for the same weights, whatever file they came in."""
    digest = hashlib.sha256()
    for name, leaf in sorted(named_leaves(params).items()):
        digest.update(f"{name} {list(leaf.shape)} {leaf.dtype}\n".encode())
        digest.update(leaf.detach().cpu().contiguous().numpy().data)
    return digest.hexdigest()


def write_weights(path: str | PathLike[str], params: Params, source: str) -> str:
    """Writes the weights as safetensors in one step, with their SHA-256 in the header; returns the SHA-256."""
    sha256 = weights_sha256(params)
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as beside:
        write_tree(beside, params, {"kind": "encoder", "sha256": sha256, "source": source})
    return sha256


def weights_dir() -> Path:
    """Where weights are kept."""
    return cache_dir() / "encoders"


def keep_weights(name: str, params: Params, source: str) -> str:
    """Keeps the weights in the cache, where `find_weights` finds them; returns their SHA-256."""
    sha256 = weights_sha256(params)
    path = _kept_path(name, sha256)
    kept = _cached(path)
    if kept is None or weights_sha256(kept) != sha256:
        write_weights(path, params, source)
    return sha256


def find_weights(name: str, sha256: str) -> Params:
    """The weights of that name and SHA-256, from the cache.

    Raises:
        LoadError: they are not there, or the file there is damaged.
    """
    kept = _kept_path(name, sha256)
    for path in (kept, published_path(name)):
        params = _cached(path)
        if params is not None and weights_sha256(params) == sha256:
            return params
    damaged = f"{kept} is damaged: delete it, and " if kept.is_file() else ""
    raise LoadError(
        f"the weights of {name} with sha256 {sha256} are not in the cache: {damaged}{_by_hand(kept)}"
    )


def published_weights(name: str) -> Params:
    """The published weights of that name, from the cache or downloaded and checked.

    Raises:
        LoadError: the file is damaged, or not there and cannot be downloaded; the message says what to do.
    """
    target, published = published_path(name), SOURCES[name]
    if target.is_file():
        try:
            return load_weights(target)
        except LoadError as error:
            raise LoadError(f"{name}: {error}; delete it, and {_by_hand(target, published.url)}") from None
    if published.sha256 is None:
        raise LoadError(
            f"{name}: no checksum is published for its weights, so they are not downloaded: "
            f"{_by_hand(target, published.url)}"
        )
    source = weights_dir() / published.url.rpartition("/")[2]
    try:
        download(published, source)
        params = load_weights(source)
    except OSError as error:
        raise LoadError(
            f"{name}: cannot be downloaded ({error}): {_by_hand(target, published.url)}"
        ) from None
    write_weights(target, params, f"{published.url} sha256:{published.sha256}")
    source.unlink()
    return params


def download(published: Published, path: Path) -> None:
    """Downloads the file to `path`, in one step once its checksum is right.

    Raises:
        OSError: no answer, or the connection breaks.
        LoadError: the checksum is another.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as beside:
        with urllib.request.urlopen(published.url, timeout=_TIMEOUT) as answer, beside.open("wb") as file:
            while chunk := _read(answer, published.url):
                file.write(chunk)
        found = file_sha256(beside)
        if found != published.sha256:
            raise LoadError(
                f"{published.url}: has sha256 {found}, expected {published.sha256}; not used, try again"
            )


def _read(answer: IO[bytes], url: str) -> bytes:
    try:
        return answer.read(_CHUNK)
    except OSError as error:  # else `replacing` would name the local file
        raise OSError(f"{url}: {error}") from error


def _kept_path(name: str, sha256: str) -> Path:
    return weights_dir() / f"{name}-{sha256[:12]}.safetensors"


def published_path(name: str) -> Path:
    """Where the cache keeps the published weights of that name."""
    return weights_dir() / f"{name}.safetensors"


def _cached(path: Path) -> Params | None:
    """The weights in a file of the cache; None if it is missing or damaged."""
    try:
        return load_weights(path)
    except LoadError:
        return None


def _by_hand(target: Path, url: str = "") -> str:
    first = f"download {url} and " if url else ""
    return f"{first}run {command_line(f'rlhive.policy_fn.r3m convert FILE {target}')}"


@functools.cache
def _shapes(depth: int) -> dict[str, torch.Size]:
    return {name: leaf.shape for name, leaf in named_leaves(ResNet(depth).init(Generator())).items()}


def _checked(where: object, leaves: Mapping[str, Tensor]) -> Params:
    """The leaves as a tree in the order of `ResNet.init`, float32."""
    shapes = min(map(_shapes, DEPTHS), key=lambda shapes: len(shapes.keys() ^ leaves.keys()))
    check_leaves(where, leaves, shapes)
    ordered = {name: leaves[name].detach().cpu().float().clone() for name in shapes}
    return TensorDict(ordered, batch_size=[]).unflatten_keys("/")
