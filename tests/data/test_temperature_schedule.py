"""--sampling-temperature-schedule: the share of each pair follows the temperature of the epoch."""

from collections import OrderedDict

import numpy as np
import pytest
from fairseq.data import ListDataset, SampledMultiDataset, SampledMultiEpochDataset

from fairseq_taskmoe.data.temperature_schedule import TemperatureSchedule, follow
from fairseq_taskmoe.errors import Refusal

SIZES = {"main:en-de": 900, "main:en-gu": 100}


def sampled(epoch=1, virtual_epoch_size=None):
    pairs = OrderedDict(
        (key, ListDataset([0] * size, np.ones((size, 2), dtype=int))) for key, size in SIZES.items()
    )
    ratios = [(size / 1000) ** (1 / 5) for size in SIZES.values()]
    if virtual_epoch_size:
        data = SampledMultiEpochDataset(
            pairs, ratios, epoch=epoch, virtual_size=1000, virtual_epoch_size=virtual_epoch_size
        )
    else:
        data = SampledMultiDataset(pairs, ratios, epoch=epoch, virtual_size=1000)
    follow(TemperatureSchedule.parse("1:5", "temperature", 5.0), data)
    return data


def expected_share(temperature):
    large, small = (size ** (1 / temperature) for size in SIZES.values())
    return small / (large + small)


def test_the_share_of_a_small_pair_grows_to_that_of_the_last_temperature():
    data = sampled()
    for epoch, temperature in ((1, 1), (2, 2), (3, 3), (5, 5), (6, 5)):
        data.set_epoch(epoch)
        assert len(data) == 1000
        share = data.virtual_size_per_dataset[1] / 1000
        assert share == pytest.approx(expected_share(temperature), abs=0.002)


@pytest.mark.parametrize("virtual_epoch_size", [None, 500])
def test_data_loaded_at_a_later_epoch_is_that_of_an_uninterrupted_run(virtual_epoch_size):
    data, resumed = sampled(1, virtual_epoch_size), sampled(3, virtual_epoch_size)
    for epoch in (2, 3):
        data.set_epoch(epoch)
    np.testing.assert_array_equal(data.virtual_size_per_dataset, resumed.virtual_size_per_dataset)
    assert [data._get_dataset_and_index(i) for i in range(50)] == [
        resumed._get_dataset_and_index(i) for i in range(50)
    ]


@pytest.mark.parametrize("text, method", [
    ("1", "temperature"), ("0:4", "temperature"), ("1:1", "temperature"), ("nan:3", "temperature"),
    ("1:x", "temperature"), ("1:5", "concat"),
])
def test_a_schedule_without_meaning_is_refused(text, method):
    with pytest.raises(Refusal, match="--sampling-temperature-schedule"):
        TemperatureSchedule.parse(text, method, 5.0)
