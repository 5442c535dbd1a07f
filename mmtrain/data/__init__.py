"""Data: indexed WebDataset shards, an order that is a pure function of position, and loaders that resume exactly."""

from mmtrain.data.decode.randaugment import RandAugment
from mmtrain.data.decode.transform import EvalTransform, TrainTransform
from mmtrain.data.fetch.reader import ShardReader
from mmtrain.data.loader.loader import EvalLoader, Loader
from mmtrain.data.loader.packed import PackedRows, TokenSource, read_tokens
from mmtrain.data.loader.samples import Samples, SampleSource
from mmtrain.data.plan.draw import SampleSeed, Stream
from mmtrain.data.plan.epoch import EpochPlan
from mmtrain.data.plan.mixture import Mixture
from mmtrain.data.plan.packing import Packing
from mmtrain.data.plan.share import Share
from mmtrain.data.plan.stream import Endless, StreamPlan
from mmtrain.data.shards.build import build_manifest, open_shards
from mmtrain.data.shards.index import RawSample, ShardIndex, ShardInfo
from mmtrain.data.shards.manifest import Manifest, load_manifest

__all__ = [
    "Endless",
    "EpochPlan",
    "EvalLoader",
    "EvalTransform",
    "Loader",
    "Manifest",
    "Mixture",
    "PackedRows",
    "Packing",
    "RandAugment",
    "RawSample",
    "SampleSeed",
    "SampleSource",
    "Samples",
    "ShardIndex",
    "ShardInfo",
    "ShardReader",
    "Share",
    "Stream",
    "StreamPlan",
    "TokenSource",
    "TrainTransform",
    "build_manifest",
    "load_manifest",
    "open_shards",
    "read_tokens",
]
