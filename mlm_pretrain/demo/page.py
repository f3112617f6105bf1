"""The page: a tab for each model, one for neighbours, one for the tokenizer."""

from __future__ import annotations

import json
import threading
import traceback
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import gradio as gr

from mlm_pretrain.demo import answers, html
from mlm_pretrain.demo.answers import MaskedLanguageModel
from mlm_pretrain.demo.attributions import attribute
from mlm_pretrain.demo.models import ENCODER, MASKED_LM, Served
from mlm_pretrain.errors import UserError, first_line
from mlm_pretrain.tasks.serve.embed import Encoder
from mlm_pretrain.tasks.serve.finished import FinishedModel

KINDS = {
    MASKED_LM: ("masked language model", "Fill mask"),
    ENCODER: ("encoder", ""),
    "classification": ("classification", "Classification"),
    "multi_label_classification": ("multi-label classification", "Labels"),
    "regression": ("regression", "Regression"),
    "ner": ("named-entity recognition", "Entities"),
    "tagging": ("tags of words", "Word tags"),
    "question_answering": ("question answering", "Answers"),
}
"""What a kind of model is, and the name of its tab."""
LIKELIEST = "the likeliest label"
CANDIDATES = "\n".join(
    [
        "The function returns a new list.",
        "Raises an error if the file does not exist.",
        "It rained all day, and the river rose.",
        "The train to the coast leaves at seven.",
    ]
)
Inputs = Sequence[Any]


class Page:
    """The models in memory and the page before them; one question is answered at a time."""

    def __init__(self, models: Sequence[Served]) -> None:
        """
        Raises:
            UserError: a model can't be loaded.
        """
        self.models = list(models)
        self._lock = threading.Lock()
        self._encoders: dict[str, Encoder] = {}
        self._loaded: dict[str, MaskedLanguageModel | FinishedModel] = {}
        self._tokenizers: dict[str, Any] = {}
        for model in self.models:
            if model.kind == ENCODER:
                self._tokenizers[model.name] = self._encoder(model.name).tokenizer
            elif model.kind == MASKED_LM:
                self._loaded[model.name] = lm = MaskedLanguageModel(model.path)
                self._tokenizers[model.name] = lm.tokenizer
            else:
                self._loaded[model.name] = task = FinishedModel(model.path)
                self._tokenizers[model.name] = task.adapter.tokenizer

    def blocks(self) -> gr.Blocks:
        """The page, not served yet."""
        names = [model.name for model in self.models]
        about = f"{_kinds(self.models)}. Texts stay on the machine that serves this page, and are not kept."
        with gr.Blocks(title=names[0], analytics_enabled=False, delete_cache=(3600, 3600)) as blocks:
            gr.HTML(str(html.heading(names[:1], about)), js_on_load=None, apply_default_css=False, padding=True)
            with gr.Tabs():
                for model in self.models:
                    if model.kind != ENCODER:
                        self._tab(model)
                self._neighbours_tab(names)
                self._tokens_tab()
        # One at a time also where many ask.
        blocks.queue(default_concurrency_limit=1, max_size=64, api_open=False)
        return blocks

    # -- tabs ----------------------------------------------------------------------------------------------------

    def _tab(self, model: Served) -> None:
        build = {MASKED_LM: self._masks_tab, "question_answering": self._question_tab}
        words = {"ner": self._words_tab, "tagging": self._words_tab}
        what = KINDS[model.kind][1]
        alike = sum(other.kind == model.kind for other in self.models)
        with gr.Tab(f"{what}: {model.name}" if alike > 1 else what):
            {**build, **words}.get(model.kind, self._texts_tab)(model, self._loaded[model.name])

    def _masks_tab(self, model: Served, loaded: Any) -> None:
        text = gr.Textbox(
            label=f"Text with {answers.MASK} where the model is to guess",
            value=model.samples[0] if model.samples else f"The {answers.MASK} of the list.",
            lines=3,
        )
        self._ask("Guess", lambda text: html.guesses(answers.fill_mask(loaded, text)), [text])
        if len(model.samples) > 1:
            gr.Examples([[sample] for sample in model.samples], [text], label="Examples", api_visibility="private")

    def _texts_tab(self, model: Served, loaded: Any) -> None:
        text = gr.Textbox(label="Text", lines=3, placeholder=f"What is {model.name} of this?")
        hint = "Second text" if model.pair else "Second text, for models of pairs"
        with gr.Accordion(hint, open=model.pair is True, visible=model.pair is not False):
            pair = gr.Textbox(label="Second text", lines=2, placeholder="Leave empty for single texts")
        self._ask(
            "Predict", lambda text, pair: html.scores(answers.classify(loaded, text, pair)), [text, pair], model.name
        )
        inputs: list[Any] = [text, pair]
        if len(loaded.adapter.labels) > 1:
            inputs.append(gr.Dropdown([LIKELIEST, *loaded.adapter.labels], value=LIKELIEST, label="Explain"))

        def why(text: str, pair: str, label: str = LIKELIEST) -> html.Markup:
            return html.attributions(attribute(loaded, text, pair, None if label == LIKELIEST else label))

        self._ask("Why this label?" if len(inputs) > 2 else "Why this number?", why, inputs, "why", second=True)

    def _words_tab(self, model: Served, loaded: Any) -> None:
        text = gr.Textbox(label="Text", lines=5, placeholder="Its words are labelled")
        self._ask("Label the words", lambda text: html.spans(answers.label_words(loaded, text)), [text])

    def _question_tab(self, model: Served, loaded: Any) -> None:
        question = gr.Textbox(label="Question", lines=1, max_lines=3)
        context = gr.Textbox(label="Context", lines=6, placeholder="The text that holds the answer")
        ask = lambda question, context: html.span_of_context(answers.answer_question(loaded, question, context))  # noqa: E731
        self._ask("Answer", ask, [question, context])

    def _neighbours_tab(self, names: list[str]) -> None:
        with gr.Tab("Neighbours"):
            sentence = gr.Textbox(label="Sentence", lines=2)
            candidates = gr.Textbox(label="Candidates, one a line", lines=6, max_lines=12, value=CANDIDATES)
            which = gr.Dropdown(names, value=names[0], label="Encoder of", visible=len(names) > 1)
            near = lambda sentence, lines, name: html.nearest(  # noqa: E731
                answers.neighbours(self._encoder(name), sentence, lines)
            )
            self._ask("Compare", near, [sentence, candidates, which])

    def _tokens_tab(self) -> None:
        names = _distinct(self._tokenizers)
        with gr.Tab("Tokens"):
            text = gr.Textbox(label="Text", lines=4)
            which = gr.Dropdown(names, value=names[0], label="Tokenizer of", visible=len(names) > 1)
            cut = lambda text, name: html.tokens(answers.tokenise(self._tokenizers[name], text))  # noqa: E731
            self._ask("Tokenise", cut, [text, which])

    # -- parts ---------------------------------------------------------------------------------------------------

    def _ask(
        self, verb: str, answer: Callable[..., html.Markup], inputs: Inputs, name: str = "", second: bool = False
    ) -> None:
        """A button that lets a model answer below it."""
        button = gr.Button(verb, variant="secondary" if second else "primary")
        output = gr.HTML(js_on_load=None, apply_default_css=False, padding=True)
        boxes = [each for each in inputs if isinstance(each, gr.Textbox)]
        asked = [button.click] if second else [button.click, *(box.submit for box in boxes)]
        gr.on(asked, self._shown(answer), inputs, output, show_progress="minimal", api_visibility="private")

    def _shown(self, answer: Callable[..., html.Markup]) -> Callable[..., str]:
        """An answer as the page takes it, what went wrong as one line."""

        def show(*inputs: Any) -> str:
            try:
                with self._lock:
                    return str(answer(*inputs))
            except UserError as error:
                return str(html.problem(str(error)))
            except Exception as error:  # a defect of ours: the page stays, the console has the traceback
                traceback.print_exc()
                return str(html.problem(f"This went wrong: {first_line(error)}"))

        return show

    def _encoder(self, name: str) -> Encoder:
        if name not in self._encoders:
            path = next(model.path for model in self.models if model.name == name)
            self._encoders[name] = Encoder(path, normalize=True)
        return self._encoders[name]


def _kinds(models: Sequence[Served]) -> str:
    return " · ".join(f"{model.name}: {KINDS[model.kind][0]}" for model in models)


def _distinct(tokenizers: Mapping[str, Any]) -> list[str]:
    """The first name of each of several tokenizers that may be the same."""
    kinds: dict[str, str] = {}
    for name, tokenizer in tokenizers.items():
        kind = name
        if tokenizer.is_fast:
            # How rows are cut and padded is a setting of the last call.
            parts = json.loads(tokenizer.backend_tokenizer.to_str()) | {"truncation": None, "padding": None}
            kind = json.dumps(parts)
        kinds.setdefault(kind, name)
    return list(kinds.values())
