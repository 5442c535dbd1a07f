"""Checkpoints in shards: a folder that each rank writes its own part of, and reads what it needs from (PyTorch's DCP).

``content.pt`` in the folder holds the whole content of the checkpoint, as a single file would, but with every sharded
tensor on the meta device: a name, a shape and a dtype. Their values are in DCP's files, under the path to that place.
"""

from __future__ import annotations

import os
import pickle
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.metadata import Metadata, StorageMeta
from torch.distributed.tensor import DTensor
from torch.distributed.tensor._dtensor_spec import DTensorSpec, TensorMeta
from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

TensorPath = tuple[str, ...]
Content = dict[str, Any]

_CONTENT = "content.pt"
_METADATA_NEEDS = {
    "torch": {"Size"},
    "torch.serialization": {"_get_layout"},
    "torch.distributed.checkpoint.metadata": {
        *("Metadata", "MetadataIndex", "StorageMeta", "TensorStorageMetadata", "TensorProperties"),
        *("ChunkStorageMetadata", "_MEM_FORMAT_ENCODING"),
    },
    "torch.distributed.checkpoint.filesystem": {"_StorageInfo"},
}


class Shards:
    """The sharded tensors of a content, and the rest of it.

    Args:
        content: Nested dicts and lists. Its tensors are kept, not copied.
    """

    def __init__(self, content: Content) -> None:
        self.tensors: dict[str, DTensor] = {}
        self.rest: Content = map_tensors(content, self._split)

    def _split(self, path: TensorPath, tensor: Tensor) -> Tensor:
        if not isinstance(tensor, DTensor):
            return tensor.detach()
        self.tensors["/".join(path)] = tensor
        return torch.empty(tensor.shape, dtype=tensor.dtype, device="meta")

    def write(self, folder: Path, group: dist.ProcessGroup) -> list[Path]:
        """Writes this rank's shards, and on rank 0 the rest, to the disk.

        Args:
            folder: The same for all ranks, new or empty.
            group: All ranks, on CPUs. All must call this.

        Returns:
            The files that this rank has written.

        Raises:
            OSError: Any rank could not write: no space is left, say. All ranks but this one may raise it, too.
        """
        try:
            dcp.save(self.tensors, storage_writer=_Writer(folder), process_group=group)
        except CheckpointException as error:
            failed, (reason, _) = next(iter(error.failures.items()))
            raise OSError(f"rank {failed}: {reason}") from error
        files = sorted(folder.glob(f"__{dist.get_rank(group)}_*.distcp"))
        if dist.get_rank(group) > 0:
            return files
        with (folder / _CONTENT).open("wb") as file:
            torch.save(self.rest, file)
            file.flush()
            os.fsync(file.fileno())
        return [folder / ".metadata", folder / _CONTENT, *files]


class Stage:
    """Copies of contents in this host's memory, which training does not change. Buffers are used again."""

    def __init__(self) -> None:
        self._buffers: dict[str, Tensor] = {}

    def copy(self, shards: Shards) -> Shards:
        """A copy of the content. That of the one before is overwritten.

        Args:
            shards: On any device.
        """
        copy = Shards({})
        copy.rest = map_tensors(shards.rest, lambda _, x: x if x.is_meta else x.to("cpu", copy=True))
        for key, tensor in shards.tensors.items():
            local = tensor.to_local()
            buffer = self._buffers.get(key)
            if buffer is None or buffer.shape != local.shape or buffer.dtype != local.dtype:
                buffer = torch.empty_like(local, device="cpu", pin_memory=local.is_cuda)
                self._buffers[key] = buffer
            buffer.copy_(local, non_blocking=True)
            copy.tensors[key] = _with_local(tensor, buffer)
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        return copy


def is_sharded(content: Content) -> bool:
    """Whether any tensor of the content is sharded over ranks."""
    return bool(Shards(content).tensors)


def read_shards(
    folder: Path,
    parameters: Mapping[str, Tensor] | None = None,
    wanted: Callable[[TensorPath], bool] = lambda path: True,
) -> Content:
    """The content of a folder, in one process or in all ranks, without communication.

    Args:
        folder: What `Shards.write` has written.
        parameters: By name. A tensor that stands under the name of a sharded one and has its shape comes in the same
            shards, on the same devices. All others come whole, on the CPU.
        wanted: By its path, whether a sharded tensor is read. Those not read stay on the meta device.

    Raises:
        OSError: A file cannot be read.
        RuntimeError: A file is damaged.
        pickle.UnpicklingError: A file holds more than tensors and plain values.
    """
    targets: dict[str, Tensor] = {}

    def place(path: TensorPath, tensor: Tensor) -> Tensor:
        if not tensor.is_meta or not wanted(path):
            return tensor
        parameter = _namesake(path, tensor, parameters or {})
        key = "/".join(path)
        if parameter is None:
            targets[key] = torch.empty_like(tensor, device="cpu")
        else:
            targets[key] = _with_local(parameter, torch.empty_like(parameter.to_local(), dtype=tensor.dtype))
        return targets[key]

    content = torch.load(folder / _CONTENT, map_location="cpu", weights_only=True)
    content = map_tensors(content, place)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is disabled")
        try:
            dcp.load(targets, storage_reader=_Reader(folder), no_dist=True)
        except CheckpointException as error:
            reason, _ = next(iter(error.failures.values()))
            raise RuntimeError(str(reason)) from error
    return content  # type: ignore[no-any-return]


def shard_as(content: Content, parameters: Mapping[str, Tensor]) -> Content:
    """A content of whole tensors, such as a single file's, in the shards that `read_shards` gives.

    Args:
        content: On the CPU; may be mapped to a file, of which only what is needed is read.
        parameters: By name.
    """

    def place(path: TensorPath, tensor: Tensor) -> Tensor:
        parameter = _namesake(path, tensor, parameters)
        if parameter is None:
            return tensor.clone()
        shape, offset = compute_local_shape_and_global_offset(tensor.shape, parameter.device_mesh, parameter.placements)
        own = tensor[tuple(slice(at, at + size) for at, size in zip(offset, shape, strict=True))]
        return _with_local(parameter, torch.empty_like(parameter.to_local(), dtype=tensor.dtype).copy_(own))

    return map_tensors(content, place)  # type: ignore[no-any-return]


def map_tensors(tree: Any, function: Callable[[TensorPath, Tensor], Tensor], path: TensorPath = ()) -> Any:
    """A copy of nested dicts, lists and tuples, with ``function(path, tensor)`` in the place of each tensor."""
    if isinstance(tree, Tensor):
        return function(path, tree)
    if isinstance(tree, Mapping):
        return {key: map_tensors(value, function, (*path, str(key))) for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        return type(tree)(map_tensors(value, function, (*path, str(i))) for i, value in enumerate(tree))
    return tree


def _namesake(path: TensorPath, tensor: Tensor, parameters: Mapping[str, Tensor]) -> DTensor | None:
    """The sharded parameter whose name is on the path: a weight, its moments and its average are sharded alike."""
    for name in path:
        parameter = parameters.get(name)
        if isinstance(parameter, DTensor) and parameter.shape == tensor.shape:
            return parameter
    return None


def _with_local(tensor: DTensor, local: Tensor) -> DTensor:
    """A tensor sharded like another one, with another local part. ``DTensor.from_local`` would move it to the mesh."""
    meta = TensorMeta(tensor.shape, tensor.stride(), local.dtype)
    spec = DTensorSpec(tensor.device_mesh, tensor.placements, tensor_meta=meta)
    return DTensor(local, spec, requires_grad=False)  # type: ignore[no-any-return, call-arg]


class _Writer(dcp.FileSystemWriter):
    """One file a rank, flushed to disk; without ids and paths, so that equal contents make equal files."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, single_file_per_rank=True, sync_files=True, per_thread_copy_ahead=0)

    def storage_meta(self) -> StorageMeta:
        return StorageMeta()


class _Reader(dcp.FileSystemReader):
    """Has read DCP's table of contents, a pickle, without running code from it."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        with (folder / ".metadata").open("rb") as file:
            self._contents: Metadata = _MetadataUnpickler(file).load()

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        return self._contents


class _MetadataUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        found = super().find_class(module, name) if module.split(".")[0] == "torch" else None
        if name in _METADATA_NEEDS.get(module, ()) or (module == "torch" and isinstance(found, torch.dtype)):
            return found
        raise pickle.UnpicklingError(f"the checkpoint's table of contents asks for {module}.{name}")
