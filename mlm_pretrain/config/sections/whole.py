"""All sections of a config, and what holds between them."""

from __future__ import annotations

import itertools

from pydantic import Field, model_validator

from mlm_pretrain.config.base import Name, Section, Seed
from mlm_pretrain.config.sections.tasks import TaskConfig
from mlm_pretrain.config.sections.text import PrepareConfig, StreamConfig, TextConfig, TokenizerConfig
from mlm_pretrain.config.sections.training import ModelConfig, ObjectiveConfig, TrainingConfig
from mlm_pretrain.config.yaml_text import write_yaml
from mlm_pretrain.errors import UserError, nearest


class RunConfig(Section):
    name: Name = "run"
    seed: Seed = 0
    output_dir: str = "runs"


class EvaluationConfig(Section):
    fill_mask: list[str] = []
    """Sentences with one [MASK] each, whatever the tokenizer calls it; the guesses go into the records."""


class PublishConfig(Section):
    hub_model_id: str | None = None
    hub_private_repo: bool = True
    push_every: int | None = Field(None, gt=0)
    """Steps between the checkpoints that are sent while the run goes on, each to a revision of its own."""
    license: str | None = None
    language: str | list[str] | None = None
    tags: list[str] = []
    description: str | None = None
    citation: dict[str, str | int] = {}
    """Fields of the BibTeX entry on the cards: author, title, year, url, …; over what is known without them."""

    @model_validator(mode="after")
    def _named(self) -> PublishConfig:
        if self.push_every is not None and self.hub_model_id is None:
            raise ValueError("push_every needs hub_model_id, the repository that checkpoints are sent to")
        return self


class Sections(Section):
    """A config as it was given: keys of the recipe that nobody gave may be open."""

    run: RunConfig = RunConfig()
    text: TextConfig = TextConfig()
    tokenizer: TokenizerConfig = TokenizerConfig()
    stream: StreamConfig = StreamConfig()
    prepare: PrepareConfig = PrepareConfig()
    objective: ObjectiveConfig = ObjectiveConfig()
    model: ModelConfig = ModelConfig()
    training: TrainingConfig = TrainingConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    tasks: list[TaskConfig] = []
    publish: PublishConfig = PublishConfig()

    @model_validator(mode="after")
    def _task_names_differ(self) -> Sections:
        names = [task.name for task in self.tasks]
        twice = {name for name in names if names.count(name) > 1}
        if twice:
            raise ValueError(f"two tasks are named '{sorted(twice)[0]}'; each task needs a name of its own")
        return self

    @model_validator(mode="after")
    def _warmup_ends_at_whole_rows(self) -> Sections:
        lengths = list((self.training.sequence_length_warmup or {}).values())
        whole = self.stream.sequence_length
        divide = all(later % length == 0 for length, later in itertools.pairwise(lengths))
        if lengths and (lengths[-1] != whole or not divide):
            raise ValueError(
                f"training.sequence_length_warmup: {', '.join(map(str, lengths))}; each length must divide the next, "
                f"and the last must be stream.sequence_length, {whole}"
            )
        return self

    def to_yaml(self, ascii_only: bool = False) -> str:
        """The resolved config, every default written out."""
        return write_yaml(self.model_dump(mode="json"), ascii_only)

    def task(self, name: str) -> TaskConfig:
        for task in self.tasks:
            if task.name == name:
                return task
        raise UserError(f"no task is named '{name}'{nearest(name, [task.name for task in self.tasks])}")
