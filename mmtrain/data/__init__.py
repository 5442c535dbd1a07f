"""Data: indexed WebDataset shards, an order that is a pure function of position, and loaders that resume exactly."""

from mmtrain.data.draw import SampleSeed, Stream
from mmtrain.data.fetch import ShardReader
from mmtrain.data.image import EvalTransform, TrainTransform
from mmtrain.data.index import RawSample, ShardIndex, ShardInfo
from mmtrain.data.loader import EvalLoader, Loader
from mmtrain.data.manifest import Manifest, build_manifest, load_manifest, open_shards
from mmtrain.data.plan import Plan

__all__ = [
    "EvalLoader",
    "EvalTransform",
    "Loader",
    "Manifest",
    "Plan",
    "RawSample",
    "SampleSeed",
    "ShardIndex",
    "ShardInfo",
    "ShardReader",
    "Stream",
    "TrainTransform",
    "build_manifest",
    "load_manifest",
    "open_shards",
]
