"""Dynamic batching: sentences of all waiting requests are translated together."""

import asyncio
import logging
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from typing import Deque, List, NamedTuple, Sequence

from ..engines.engine import SearchOptions
from ..engines.translator import Translation, Translator
from .limits import Limits
from .metrics import Metrics

logger = logging.getLogger(__name__)


class QueueFull(Exception):
    """The queue has no room for the sentences of a request."""


class QueuedSentence(NamedTuple):
    """A sentence that waits, and the future of its translations."""

    pieces: List[str]
    lang_pair: str
    options: SearchOptions
    translations: "asyncio.Future[List[Translation]]"  # cancelled if no longer needed

    def fits_with(self, other: "QueuedSentence") -> bool:
        """Return whether both sentences can be in one batch."""
        return (self.lang_pair, self.options) == (other.lang_pair, other.options)


class Batcher:
    """A model, its queue, and the thread in which it translates."""

    def __init__(self, translator: Translator, limits: Limits, metrics: Metrics):
        self.translator = translator
        self.limits = limits
        self.metrics = metrics
        self.waiting: Deque[QueuedSentence] = deque()
        self.num_encoding = 0  # sentences that are being encoded, and will be queued
        self.queued = asyncio.Event()
        self.thread = ThreadPoolExecutor(1)

    async def translate(
        self, lang_pair: str, texts: Sequence[str], options: SearchOptions
    ) -> List[List[Translation]]:
        """Return the translations of each text.

        Raises TooLong or QueueFull before any text is queued. When cancelled, removes the texts
        that are still in the queue.
        """
        if len(self.waiting) + self.num_encoding + len(texts) > self.limits.max_waiting:
            raise QueueFull
        self.num_encoding += len(texts)
        try:
            sources = await asyncio.to_thread(self.translator.encode_all, texts)
        finally:
            self.num_encoding -= len(texts)
        loop = asyncio.get_running_loop()
        sentences = [
            QueuedSentence(source, lang_pair, options, loop.create_future()) for source in sources
        ]
        self.waiting.extend(sentences)
        self.queued.set()
        try:
            return await asyncio.gather(*(sentence.translations for sentence in sentences))
        except BaseException:
            for sentence in sentences:
                sentence.translations.cancel()
            self.waiting = deque(each for each in self.waiting if not each.translations.done())
            raise

    async def run(self) -> None:
        """Translate queued sentences until cancelled."""
        try:
            while True:
                await self.queued.wait()
                batch = self.next_batch()
                if batch:
                    await self.translate_batch(batch)
                else:
                    self.queued.clear()
        finally:
            self.thread.shutdown(wait=False)

    def next_batch(self) -> List[QueuedSentence]:
        """Take from the queue the sentence that has waited longest, and those that fit with it."""
        batch: List[QueuedSentence] = []
        others: Deque[QueuedSentence] = deque()
        longest = 0
        while self.waiting and len(batch) < self.limits.max_batch_sentences:
            sentence = self.waiting.popleft()
            if batch and not sentence.fits_with(batch[0]):
                others.append(sentence)
                continue
            longest = max(longest, len(sentence.pieces))
            if batch and longest * (len(batch) + 1) > self.limits.max_batch_tokens:
                self.waiting.appendleft(sentence)
                break
            batch.append(sentence)
        self.waiting.extendleft(reversed(others))
        return batch

    async def translate_batch(self, batch: Sequence[QueuedSentence]) -> None:
        """Translate a batch; if that fails, each of its sentences alone.

        The exception of a sentence that fails alone goes to its request.
        """
        first = batch[0]
        try:
            found = await asyncio.get_running_loop().run_in_executor(
                self.thread, self.translator.translate_pieces, first.lang_pair,
                [sentence.pieces for sentence in batch], first.options,
                self.limits.max_batch_tokens,
            )
            pairs = list(zip(batch, found, strict=True))
        except Exception as problem:
            if len(batch) > 1:
                logger.warning("a batch of %d failed, retrying each alone: %s", len(batch), problem)
                for sentence in batch:
                    if not sentence.translations.done():
                        await self.translate_batch([sentence])
            elif not first.translations.done():
                first.translations.set_exception(problem)
            return
        for sentence, translations in pairs:
            if not sentence.translations.done():
                sentence.translations.set_result(translations)
        self.metrics.batch_sentences.observe(len(batch))
        self.metrics.sentences.labels(first.lang_pair).inc(len(batch))
        self.metrics.source_pieces.labels(first.lang_pair).inc(
            sum(len(sentence.pieces) for sentence in batch)
        )
