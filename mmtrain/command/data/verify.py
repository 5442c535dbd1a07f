"""Whether shards still hold, bit by bit, what was indexed."""

from __future__ import annotations

from collections.abc import Collection, Iterator

from rich.console import Console

from mmtrain.command.data.table import printable
from mmtrain.data import Manifest, ShardIndex
from mmtrain.data.progress import progress_bar
from mmtrain.data.shards.blocks import Blocks
from mmtrain.data.shards.manifest import require_same
from mmtrain.errors import DataError


def verify(manifests: Collection[Manifest]) -> None:
    """Reads every byte of data sets, once, and prints each sample and shard that is not what was indexed.

    Raises:
        DataError: Something is not: the first one's reason and place, and how many there are.
    """
    total = sum(len(manifest.shards) for manifest in manifests)
    done = 0
    faults: list[DataError] = []
    with progress_bar("Verifying shards") as progress:
        for manifest in manifests:
            for shard in range(len(manifest.shards)):
                faults += _faults(manifest, shard)
                done += 1
                progress(done, total)
    for fault in faults:
        line = printable(f"{fault.where}: {fault.message}")
        Console().print(line, markup=False, highlight=False, emoji=False, soft_wrap=True)
    if faults:
        reason = faults[0].message
        if len(faults) > 1:
            reason = f"{len(faults):,} samples or shards are damaged, all listed above; the first: {reason}"
        raise DataError(reason, where=faults[0].where, mend=faults[0].mend)


def _faults(manifest: Manifest, shard: int) -> Iterator[DataError]:
    """The bad samples of a shard; or the shard itself, where none tells what is wrong with it."""
    path, info = manifest.shard_path(shard), manifest.shards[shard]
    try:
        index = ShardIndex(path)
        with path.open("rb") as file:
            blocks = Blocks(path, file)
            if blocks.size != info.bytes:
                yield _fault(f"the shard has {blocks.size} bytes, the manifest says {info.bytes}", str(path))
                return
            require_same(index.info, info, str(path))
            bad = [number for number in range(len(index)) if blocks.xxh3(*index.span(number)) != index.checksum(number)]
            for number in bad:
                yield _fault("a sample's bytes differ from its checksum", f"{path}, key {index.key(number)}")
            if not bad and (found := blocks.sha256()) != info.sha256:
                reason = f"the shard changed outside its samples: sha256 {found}, the manifest says {info.sha256}"
                yield _fault(reason, str(path))
    except DataError as error:
        yield error
    except OSError as error:
        yield _fault(f"the shard cannot be read: {error.strerror}", str(path))


def _fault(reason: str, where: str) -> DataError:
    return DataError(reason, where=where, mend="restore the shard, or index the data set anew if it was changed")
