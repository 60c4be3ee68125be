"""translation_task_moe: multilingual translation where each sentence has a task id."""

from functools import partial
from typing import Any, Callable, Dict, List, Optional, Sequence, Set

import torch
from fairseq.data import Dictionary, FairseqDataset, iterators
from fairseq.dataclass.utils import merge_with_parent
from fairseq.sequence_generator import SequenceGenerator
from fairseq.sequence_scorer import SequenceScorer
from fairseq.tasks import register_task
from torch import Tensor

from ..checkpoint.contents import SHARD
from ..data.epoch_batches import Assignment, assign_in_turn, world_size_independent_batches
from ..data.task_local_batches import AffinityAssignment, OneTaskBatches, task_affinity
from ..data.task_table import load_task_groups
from ..distributed.agreement import on_first_rank
from ..distributed.expert_groups import ExpertGroups
from ..errors import refuse
from ..metrics.lang_pairs import split_pair
from ..models.build_layers import check_config, has_moe_layer
from ..models.config import TransformerTaskMoeConfig
from ..training.counterparts import Names
from ..training.start import TrainingRun, prepare_weights, start_run
from .config import TranslationTaskMoeConfig
from .inference import check_search, empty_hypothesis
from .lengths import admit_sources, admit_validation, check_fits_batch, check_references
from .multilingual_task import MultilingualTask
from .validation_scores import ValidationScores, log_losses


@register_task("translation_task_moe", dataclass=TranslationTaskMoeConfig)
class TranslationTaskMoeTask(MultilingualTask):
    """Trains on any number of ranks, and translates in one direction at a time."""

    def __init__(
        self, cfg: TranslationTaskMoeConfig, dictionary: Dictionary, served: Sequence[str] = ()
    ):
        """Create a task to train the pairs of cfg, or to translate the pairs `served`."""
        super().__init__(cfg, dictionary, served)
        self.parameter_names: List[str] = []  # in the optimizer's order, once there is a model
        self.run: Optional[TrainingRun] = None  # in training
        self.expert_groups: Optional[ExpertGroups] = None
        self.affinity: Optional[Callable[[], Tensor]] = None  # with --moe-task-local-batches
        self.validation_scores: Optional[ValidationScores] = None  # with --eval-bleu
        self.uses_ema = True  # fairseq then passes its EMA model, if any, to train_step

    def state_dict(self) -> Dict[str, Any]:
        """As in the base class, plus what tools need to convert checkpoints."""
        state = {**super().state_dict(), "parameter_names": self.parameter_names}
        if self.run is not None:
            state.update(self.run.state())
        if self.run is not None and self.run.sharded:
            state[SHARD] = self.run.shard()
        return state

    # -- training

    def build_model(self, cfg: Any, from_checkpoint: bool = False) -> torch.nn.Module:
        """Build the model. In training this starts the run first: see _start_run.

        The file of --moe-task-groups is read once and then stored in the task table.
        """
        if not hasattr(self, "task_table"):
            refuse("give the pairs to train on with --lang-pairs; -s and -t are for inference")
        groups_file = getattr(cfg, "moe_task_groups", None)
        if groups_file and not self.task_table.groups:
            groups = on_first_rank(partial(load_task_groups, groups_file))
            self.task_table = self.task_table.with_groups(groups)
        if from_checkpoint:  # older checkpoints lack newer options
            cfg = merge_with_parent(TransformerTaskMoeConfig(), cfg, remove_missing=True)
        if not hasattr(cfg, "moe_expert_count"):
            refuse("--task translation_task_moe needs --arch transformer_task_moe")
        on_first_rank(partial(check_config, cfg))
        self.cut_sources_to(min(self.cfg.max_source_positions, cfg.max_source_positions))
        in_training = not from_checkpoint and not self.served
        if in_training:
            self._start_run(cfg)
        model = super().build_model(cfg, from_checkpoint)
        if self.run is not None and in_training:
            self._prepare_training(self.run, cfg, model)
        self.parameter_names = [
            name for name, parameter in model.named_parameters() if parameter.requires_grad
        ]
        return model

    def _start_run(self, cfg: Any) -> None:
        """Check the run on all ranks, form their groups, and choose the checkpoint to resume from.

        fairseq builds the model after the ranks are connected and the configuration is complete,
        and before its trainer reads a checkpoint: the one call that a task gets in between.
        """
        names = Names(cfg, self.task_table, self.tags, self.words)
        self.run = start_run(names, cfg.moe_expert_count if has_moe_layer(cfg) else 0)
        self.expert_groups = self.run.groups

    def _prepare_training(self, run: TrainingRun, cfg: Any, model: Any) -> None:
        """Set up the weights that a new model starts from, and what options ask for."""
        prepare_weights(run, model, self.cfg.freeze_tasks)
        if cfg.moe_task_local_batches:
            self.affinity = partial(
                task_affinity, model, len(self.task_table.lang_pairs), run.layout
            )
        if self.cfg.eval_bleu:
            self.validation_scores = ValidationScores(self, model)

    def get_batch_iterator(
        self,
        dataset: FairseqDataset,
        max_positions: Any = None,
        ignore_invalid_inputs: bool = False,
        required_batch_size_multiple: int = 1,
        **kwargs: Any,
    ) -> iterators.EpochBatchIterator:
        """As in fairseq, but without losing sentences, and resumable at any number of ranks.

        fairseq can drop sentences if --required-batch-size-multiple is not 1, so it is 1 here.
        Sentences that are too long for the model or for a batch are refused. With
        --skip-invalid-size-inputs-valid-test, translation gives an empty line for them, and
        validation leaves them out. Training leaves them out and logs their number.
        """
        max_tokens = kwargs.get("max_tokens")
        in_training = self.run is not None and dataset is self.datasets.get(self.cfg.train_subset)
        name = next((name for name, each in self.datasets.items() if each is dataset), "input")
        if self.served:
            if max_positions is not None:
                limit = max_positions[0] if isinstance(max_positions, tuple) else max_positions
                dataset = admit_sources(dataset, limit, ignore_invalid_inputs)
                max_positions = None
            check_fits_batch(dataset, max_tokens, f"the set {name}")
        elif not in_training:
            max_positions = admit_validation(
                dataset, name, self.task_table.lang_pairs, max_positions, max_tokens,
                ignore_invalid_inputs,
            )
        assign: Assignment = assign_in_turn
        if in_training and self.affinity is not None:
            dataset = OneTaskBatches(dataset)
            assign = AffinityAssignment(dataset, partial(on_first_rank, self.affinity))
        batches = super().get_batch_iterator(
            dataset,
            max_positions=max_positions,
            ignore_invalid_inputs=ignore_invalid_inputs,
            required_batch_size_multiple=1,
            **kwargs,
        )
        if self.run is not None and in_training:
            if not len(batches.frozen_batches):
                refuse(f"no sentence of the set {name} is left to train on: all are longer than "
                       f"{max_positions} tokens")
            return world_size_independent_batches(batches, self.run.update_freq, assign)
        return batches

    def train_step(
        self, sample: Dict[str, Any], model: torch.nn.Module, criterion: Any, optimizer: Any,
        update_num: int, ignore_grad: bool = False, ema_model: Optional[torch.nn.Module] = None,
    ) -> Any:
        """As in fairseq, on all ranks together."""
        backward = partial(
            super().train_step, sample, model, criterion, optimizer, update_num, ignore_grad
        )
        if self.run is None:
            return backward()
        return self.run.steps.micro_batch(
            backward, model, optimizer, ema_model, is_dummy=ignore_grad
        )

    def valid_step(
        self, sample: Dict[str, Any], model: torch.nn.Module, criterion: Any,
        ema_model: Optional[torch.nn.Module] = None,
    ) -> Any:
        """As in fairseq; with --eval-bleu also translate. The EMA model is not validated."""
        forward = partial(super().valid_step, sample, model, criterion)
        if self.run is None:
            return forward()
        loss, sample_size, logging_output = self.run.steps.together(forward)
        if self.validation_scores is not None:
            translate = partial(self.validation_scores.statistics, sample)
            logging_output.update(self.run.steps.together(translate))
        return loss, sample_size, logging_output

    def post_save(self, path: str, num_updates: int) -> None:
        """Called by fairseq after a save: on rank 0, or with shards on every rank."""
        if self.run is not None and self.run.sharded:
            self.run.finish_save(num_updates)

    # -- generation

    def build_generator(
        self, models: Any, args: Any, seq_gen_cls: Any = None, extra_gen_cls_kwargs: Any = None,
        **kwargs: Any,
    ) -> Any:
        """As in fairseq; language tags are removed from translations.

        Refuses unsupported options of the search, and references that are too long to score.
        """
        check_search(args, self.tags)
        if getattr(args, "score_reference", False):
            for name, dataset in self.datasets.items():
                check_references(dataset, models, f"the set {name}")
        extra = dict(extra_gen_cls_kwargs or {})
        stripped: Set[int] = set()
        if self.tags.decoder_langtok and not self.cfg.keep_inference_langtok:
            stripped = set(self._decoder_tags())
            extra["symbols_to_strip_from_output"] = stripped
        generator = super().build_generator(models, args, seq_gen_cls, extra, **kwargs)
        if isinstance(generator, SequenceScorer):  # fairseq-generate also reads it from a scorer
            generator.symbols_to_strip_from_output = {generator.eos, *stripped}
        return generator

    def inference_step(
        self, generator: Any, models: Any, sample: Dict[str, Any],
        prefix_tokens: Optional[Tensor] = None, constraints: Any = None,
    ) -> List[List[Dict[str, Tensor]]]:
        """As in fairseq; target tags are forced, and empty sources have empty translations."""
        net_input = sample["net_input"]
        if "task_ids" not in net_input:  # fairseq-interactive makes its own batches
            served = self.task_table.task_id(self.served[0])
            net_input["task_ids"] = torch.full_like(net_input["src_lengths"], served)
        if prefix_tokens is None:
            prefix_tokens = self.prefix_tokens(sample)
        hypotheses = super().inference_step(generator, models, sample, prefix_tokens, constraints)
        if isinstance(generator, SequenceGenerator):
            shortest = 1 + (self.tags.encoder_langtok is not None)
            for i, length in enumerate(net_input["src_lengths"].tolist()):
                if length <= shortest:
                    hypotheses[i] = [empty_hypothesis(self.dictionary.eos())]
        return hypotheses

    def prefix_tokens(self, sample: Dict[str, Any]) -> Optional[Tensor]:
        """Return the target tags (B, 1) of a batch, or None without target tags."""
        if not self.tags.decoder_langtok:
            return None
        task_ids = sample["net_input"]["task_ids"]
        return torch.tensor(self._decoder_tags(), device=task_ids.device)[task_ids].unsqueeze(1)

    def _decoder_tags(self) -> List[int]:
        """Return the target tag of each task, by task id."""
        targets = [split_pair(pair)[1] for pair in self.task_table.lang_pairs]
        return [self.data_manager.get_decoder_langtok(target, "tgt") for target in targets]

    # -- logging

    def reduce_metrics(self, logging_outputs: List[Dict[str, Any]], criterion: Any) -> None:
        """As in fairseq; in validation also log each direction's loss in bits, and the scores."""
        super().reduce_metrics(logging_outputs, criterion)
        if self.validation_scores is not None:
            self.validation_scores.log(logging_outputs)
        log_losses(self.task_table.lang_pairs, logging_outputs)
