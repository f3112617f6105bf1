"""The config of a whole run, complete."""

from __future__ import annotations

from pydantic import model_validator

from mlm_pretrain.config import recipes
from mlm_pretrain.config.sections.whole import Sections


class Config(Sections):
    """A config whose open keys follow the recipe for its budget and its model."""

    @model_validator(mode="after")
    def _follows_the_recipe(self) -> Config:
        self.__dict__.update(recipes.with_values(self, recipes.recipe_of(self).values).__dict__)
        return self
