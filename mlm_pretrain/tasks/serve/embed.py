"""Sentence embeddings of any encoder: texts in, a matrix or a table of vectors out, in the order of the input."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
from transformers import AutoModel, PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from mlm_pretrain.console.bars import progress
from mlm_pretrain.console.telemetry import say, warn
from mlm_pretrain.errors import UserError
from mlm_pretrain.escaping import counted
from mlm_pretrain.io.files.reading import Reading
from mlm_pretrain.models.encoder import load_config, load_model, load_tokenizer, window_length
from mlm_pretrain.models.loading import Checkpoint, Place, typed
from mlm_pretrain.models.new import quiet
from mlm_pretrain.runtime.loss import to_device
from mlm_pretrain.tasks.adapter import pad
from mlm_pretrain.tasks.export import export
from mlm_pretrain.tasks.inference.linear import fast_linear
from mlm_pretrain.tasks.inference.logits import CPU_TOKENS, by_length, cut_texts
from mlm_pretrain.tasks.inference.sentence_files import read_recipe
from mlm_pretrain.tasks.inference.sentence_vectors import Pooling, Recipe, lower
from mlm_pretrain.tasks.serve.embedding_files import ENDINGS, Texts, open_output
from mlm_pretrain.text.files import long

CHUNK = 1024
"""Texts that are in memory together; they are sorted by length inside a chunk."""


def embed(
    model: str | Path,
    input: Path,
    output: Path,
    *,
    pooling: Pooling | None = None,
    normalize: bool | None = None,
    prompt_name: str | None = None,
    batch_size: int = 32,
    max_length: int | None = None,
    text_column: str = "text",
    bf16: bool = False,
    save_model: Path | None = None,
    trust_remote_code: bool = False,
    encoding: str = "utf-8",
    quoting: str | int | None = None,
    delimiter: str | None = None,
) -> dict[str, int]:
    """Embed every text of a file.

    Args:
        model: an encoder, whatever its head: a run's `model/`, a task's folder, or a Hub repository.
        input: jsonl, csv, tsv or Parquet (the text in `text_column`; an `id` goes along into Parquet), or else one
            text a line; also with `.gz`, `.zst`, `.xz`, `.bz2`. An empty line is an empty text, and has an
            embedding too.
        output: `.npy`, float32 [texts, hidden], or `.parquet`, columns `text`, `embedding` (float32 lists of one
            length) and `id` if the texts (the first 1,024) have any. The rows are in the order of the input. It
            appears whole or not at all.
        pooling: how the last hidden states of a text's tokens, special ones included, become one vector. By default
            what the sentence-transformers files of the model say (`modules.json`); without them the mean, as in
            Sentence-BERT (Reimers & Gurevych 2019). `cls` is the first token's, `lasttoken` the last one's.
        normalize: divide by the Euclidean norm, so that the dot product of two is their cosine. By default as those
            files say, without them not.
        prompt_name: which of the model's own prompts is put before each text; by default as those files say.
        max_length: tokens per text; longer ones are cut. By default as those files say, without them what the encoder
            can take, 512 at most.
        bf16: compute in bfloat16 autocast, faster on GPUs. By default float32, so that the vectors are those of
            sentence-transformers, and on every machine the same but for rounding.
        save_model: a folder to write that `sentence_transformers.SentenceTransformer` loads, and that gives these
            embeddings there.
        trust_remote_code: run code that the model brings.
        encoding, quoting, delimiter: how text is read, as in a task's config.

    Returns:
        `{"texts", "bad_lines", "truncated"}`: how many were embedded, how many lines could not be read (and have no
        row), and how many texts were cut.

    Raises:
        UserError: there is no such file or model, nothing in the file can be read, or the output can't be written.
    """
    if output.suffix not in ENDINGS:
        raise UserError(f"{output}: embeddings go to a {' or '.join(ENDINGS)} file")
    if pooling not in (None, *get_args(Pooling)):
        raise UserError(f"pooling: '{pooling}'; it is one of {', '.join(get_args(Pooling))}")
    encoder = Encoder(typed(model, trust_remote_code), pooling, normalize, max_length, bf16, prompt_name)
    encoder.describe()
    if save_model is not None:
        encoder.save(save_model)
    texts = Texts(input, text_column, Reading.checked(encoding, quoting, delimiter))
    with open_output(output, encoder.size) as write, progress(None, "embed", unit="text") as bar:
        source = iter(texts)
        while chunk := list(islice(source, CHUNK)):
            write(chunk, encoder([each.text for each in chunk], batch_size))
            bar.update(len(chunk))
        if not texts.read:
            raise UserError(texts.first_problem or f"{input}: no text in it")
    say(str(texts.tally))
    if texts.bad:
        lines = counted(texts.bad, "line")
        warn(f"{lines} could not be read: no row in {output}; the first: {texts.first_problem}")
    if encoder.truncated:
        warn(cut_texts(encoder.truncated, encoder.max_length))
    say(f"{counted(texts.read, 'text')} embedded: {output}")
    return {"texts": texts.read, "bad_lines": texts.bad, "truncated": encoder.truncated}


class Encoder:
    """Texts to vectors."""

    def __init__(
        self,
        path: Place,
        pooling: Pooling | None = None,
        normalize: bool | None = None,
        max_length: int | None = None,
        bf16: bool = False,
        prompt_name: str | None = None,
    ) -> None:
        """
        Args:
            path: what its sentence-transformers files say holds for arguments that are None, see `embed`.

        Raises:
            UserError: there is no encoder, its tokenizer doesn't belong to it, or its sentence-transformers files ask
                for what isn't known here.
        """
        checkpoint = Checkpoint.of(path)
        self._own = read_recipe(checkpoint)
        self.recipe = (self._own or Recipe()).over(pooling, normalize, prompt_name)
        place = self.recipe.transformer or checkpoint
        config = load_config(place)
        self.tokenizer: PreTrainedTokenizerBase = load_tokenizer(place, config)
        self.max_length = self._length(config, max_length)
        if self.recipe.lower_case:
            lower(self.tokenizer)
        with torch.random.fork_rng(devices=[]):
            # A pooler that the checkpoint lacks is drawn at random; nothing looks at it, but it is saved with the rest.
            torch.manual_seed(0)
            self.model: PreTrainedModel = load_model(AutoModel, place, config)
        self.model.eval().to(torch.device("cuda" if torch.cuda.is_available() else "cpu"))
        self.size: int = self.recipe.size(config.hidden_size)
        self._hidden_size: int = config.hidden_size
        self.truncated = 0
        self._path = checkpoint
        self._bf16 = bf16

    def __call__(self, texts: Sequence[str], batch_size: int) -> np.ndarray:
        """float32 [texts, size]; a text without any token has the zero vector."""
        rows = self._tokenised(texts)
        result = np.zeros((len(texts), self.size), dtype=np.float32)
        some = [number for number, row in enumerate(rows) if row["input_ids"]]
        device = self.model.device
        batches = by_length([rows[number] for number in some], batch_size, CPU_TOKENS if device.type == "cpu" else None)
        with fast_linear(self.model), torch.inference_mode():
            for places in batches:
                numbers = [some[place] for place in places]
                batch = to_device(pad([rows[number] for number in numbers], self.tokenizer), device)
                with torch.autocast(device.type, dtype=torch.bfloat16, enabled=self._bf16):
                    hidden = self.model(**batch).last_hidden_state
                result[numbers] = self.recipe.vectors(hidden.float(), batch["attention_mask"]).cpu().numpy()
        if not np.isfinite(result).all():
            raise UserError(f"{self._path}: gives vectors that are not finite: its weights are too large or damaged")
        return result

    def describe(self) -> None:
        """Say how vectors are made, if the checkpoint has a word of its own on it."""
        if self._own is None:
            return
        say(f"{self._path}: {self.recipe}, {self.max_length} tokens, as its sentence-transformers files say")
        for what, own, now in (
            ("pooling", " and ".join(self._own.pooling), " and ".join(self.recipe.pooling)),
            ("normalize", self._own.is_normalised, self.recipe.is_normalised),
            ("max_length", self._own.max_length or self.max_length, self.max_length),
            ("prompt_name", self._own.prompt_name, self.recipe.prompt_name),
        ):
            if own != now:
                warn(f"{what}: {now}, as asked; the files of {self._path} say {own}")

    def _length(self, config: PretrainedConfig, max_length: int | None) -> int:
        own = self.recipe
        if own.transformer is None or max_length is not None:
            return window_length(config, self.tokenizer, max_length)
        if own.max_length is not None:
            self.tokenizer.model_max_length = own.max_length
        longest = window_length(config, self.tokenizer, most=None)
        if own.max_length is None:
            return longest
        return window_length(config, self.tokenizer, min(own.max_length, longest))

    def save(self, folder: Path) -> None:
        """Write a folder for `sentence_transformers.SentenceTransformer`, whole or not at all.

        Raises:
            UserError: the folder holds something else, or can't be written.
        """
        if folder.exists() and not (folder / "modules.json").is_file():
            raise UserError(f"{folder}: exists and is no sentence-transformers model; name a new folder")

        def save(folder: Path) -> None:
            self.model.save_pretrained(folder)
            self.recipe.save(folder, self._hidden_size, self.max_length)

        self.tokenizer.model_max_length = self.max_length
        export(save, self.tokenizer, folder)
        say(f"sentence-transformers model: {folder}")

    def _tokenised(self, texts: Sequence[str]) -> list[dict[str, Any]]:
        texts = [long.beginning(self.recipe.prompt + text, self.max_length) for text in texts]
        with quiet():  # its warning about long texts: they are cut below
            encoded = self.tokenizer(texts)
        rows = [{name: encoded[name][number] for name in encoded} for number in range(len(texts))]
        for number, row in enumerate(rows):
            if len(row["input_ids"]) > self.max_length:
                rows[number] = dict(self.tokenizer(texts[number], truncation=True, max_length=self.max_length))
                self.truncated += 1
        if self.tokenizer.is_fast:
            # Truncation is a setting of the tokenizer itself, and would be saved with it.
            self.tokenizer.backend_tokenizer.no_truncation()
        return rows
