"""Sampling of language pairs with a temperature that changes from epoch to epoch.

Dua et al. 2022, "Tricks for Training Sparse Translation Models", raise it slowly, so that small
pairs are repeated less at the start.
"""

from typing import Any, NamedTuple, Optional

from fairseq.data import SampledMultiDataset, SampledMultiEpochDataset

from ..errors import refuse

FLAG = "--sampling-temperature-schedule"


class TemperatureSchedule(NamedTuple):
    """A temperature that goes linearly from start in epoch 1 to end in epoch epochs."""

    start: float
    end: float
    epochs: int

    @classmethod
    def parse(cls, text: Optional[str], method: str, end: float) -> "Optional[TemperatureSchedule]":
        """Return the schedule that a flag gives as START:EPOCHS, None without one."""
        if not text:
            return None
        start, _, epochs = text.partition(":")
        try:
            schedule = cls(float(start), float(end), int(epochs))
        except ValueError:
            refuse(f"{FLAG} {text}: write START:EPOCHS, as 1:10")
        if not (0 < schedule.start < float("inf") and schedule.epochs >= 2):
            refuse(f"{FLAG} {text}: give a temperature above 0, and 2 epochs or more")
        if method != "temperature":
            refuse(f"{FLAG} requires --sampling-method temperature")
        return schedule

    def at(self, epoch: int) -> float:
        """Return the temperature of an epoch, the first of which is 1."""
        done = min(1.0, (epoch - 1) / (self.epochs - 1))
        return self.start + done * (self.end - self.start)


class _Scheduled(SampledMultiDataset):
    """Sampled data with the ratios of the temperature of the epoch in which they are drawn.

    The number of sentences of a pass is that of the last temperature.
    """

    schedule: TemperatureSchedule
    end_ratios: Any  # unnormalised, at the end of the schedule

    def _establish_virtual_datasets(self) -> None:
        # ratios are sizes to the power of 1 / T
        temperature = self.schedule.at(self._cur_epoch)
        self.sample_ratios = self.end_ratios ** (self.schedule.end / temperature)
        super()._establish_virtual_datasets()


class _ScheduledPasses(_Scheduled, SampledMultiEpochDataset):
    """The same with --virtual-epoch-size: drawn at the start of each pass through the data."""


def follow(schedule: TemperatureSchedule, sampled: SampledMultiDataset) -> None:
    """Make fairseq's data, sampled with the last temperature, follow a schedule."""
    passes = isinstance(sampled, SampledMultiEpochDataset)
    sampled.__class__ = _ScheduledPasses if passes else _Scheduled
    sampled.schedule, sampled.end_ratios = schedule, sampled.sample_ratios
    epoch, sampled._cur_epoch = sampled._cur_epoch, None
    if passes:
        sampled._random_global_indices = sampled.load_next_shard = None
    sampled.set_epoch(epoch)  # again, since fairseq's random numbers depend on the class
