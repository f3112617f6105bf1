"""One schema for all stages.

A config is a YAML file with a section a stage; keys carry the names that `transformers.TrainingArguments`,
`datasets.load_dataset` and the transformers configs already use. Any key can be overridden on the command line by
its dotted name (`training.learning_rate=5e-4`). Sections are frozen, and an unknown key is an error with the
nearest known name (`config_file.py` reads files and words the errors). Nothing here imports torch, so that a
misspelt key is told at once.

- `base`: what every section is made of. `sections/`: the sections. `batch_size`: one that may change at certain steps.
- `recipes`: what nobody has given, chosen by budget and size (`presets`: of which model). `root`: `Config`, the whole.
- `yaml_text`: how YAML is read. `shown`: `config show`.
- `secrets`: what no config may hold. `public`: what may be published.
"""

from __future__ import annotations

from mlm_pretrain.config.base import dotted, fingerprint, parse_size
from mlm_pretrain.config.root import Config
from mlm_pretrain.config.sections.tasks import EncoderOrigin, Sweep, TaskConfig
from mlm_pretrain.config.sections.text import (
    FilterConfig,
    PrepareConfig,
    SourceConfig,
    StreamConfig,
    TextConfig,
    TokenizerConfig,
)
from mlm_pretrain.config.sections.training import (
    Budget,
    ModelConfig,
    ObjectiveConfig,
    OptimizerSection,
    Ramp,
    TrainingConfig,
)
from mlm_pretrain.config.sections.whole import EvaluationConfig, PublishConfig, RunConfig

__all__ = [
    "Budget",
    "Config",
    "EncoderOrigin",
    "EvaluationConfig",
    "FilterConfig",
    "ModelConfig",
    "ObjectiveConfig",
    "OptimizerSection",
    "PrepareConfig",
    "PublishConfig",
    "Ramp",
    "RunConfig",
    "SourceConfig",
    "StreamConfig",
    "Sweep",
    "TaskConfig",
    "TextConfig",
    "TokenizerConfig",
    "TrainingConfig",
    "dotted",
    "fingerprint",
    "parse_size",
]
