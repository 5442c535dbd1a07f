from __future__ import annotations

import threading

import numpy as np

from mmtrain.data import SampleSeed, Stream


def draws(seed: SampleSeed, stream: Stream = Stream.IMAGE, count: int = 9) -> list[float]:
    return seed.generator(stream).random(count).tolist()


def test_draws_depend_on_nothing_drawn_before() -> None:
    expected = {sample: draws(SampleSeed(1, 2, sample)) for sample in range(5)}
    for sample in (3, 0, 4, 4, 1):
        generator = SampleSeed(1, 2, sample).generator(Stream.IMAGE)
        assert generator.random(9).tolist() == expected[sample]
        generator.integers(7, dtype=np.int32)  # leaves half a word behind, which the next sample must not see


def test_seed_epoch_sample_source_and_stream_each_change_the_draws() -> None:
    seeds = [SampleSeed(s, e, n, d) for s in (0, 1) for e in (0, 1) for n in (0, 1, 2**40) for d in (0, 1)]
    found = {tuple(draws(seed, stream)) for seed in seeds for stream in Stream}
    assert len(found) == len(seeds) * len(Stream)


def test_more_draws_of_one_stream_do_not_shift_another() -> None:
    seed = SampleSeed(0, 0, 7)
    image, text = seed.generator(Stream.IMAGE), seed.generator(Stream.TEXT)
    image.random(1000)
    assert text.random(9).tolist() == draws(seed, Stream.TEXT)


def test_draws_are_philox_words_of_key_and_counter() -> None:
    """The definition, so that another program can make the same draws."""
    for source, seed in ((0, SampleSeed(5, 6, 7)), (8, SampleSeed(5, 6, 7, source=8))):
        counter = np.array([0, 7, Stream.TEXT, source], np.uint64)
        philox = np.random.Philox(key=np.array([5, 6], np.uint64), counter=counter)
        expected = (philox.random_raw(9) >> np.uint64(11)) * 2.0**-53
        assert draws(seed, Stream.TEXT) == expected.tolist()


def test_threads_do_not_disturb_each_other() -> None:
    generator = SampleSeed(0, 0, 1).generator(Stream.IMAGE)
    thread = threading.Thread(target=draws, args=(SampleSeed(0, 0, 2),))
    thread.start()
    thread.join()
    assert generator.random(9).tolist() == draws(SampleSeed(0, 0, 1))
