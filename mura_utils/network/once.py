"""Keep what is built from a model, such as a traced function, as long as the model lives."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import TypeVar
from weakref import WeakKeyDictionary

import keras

T = TypeVar("T")


def once_a_model(build: Callable[[keras.Model], T]) -> Callable[[keras.Model], T]:
    """Build once for each model, because tracing takes seconds."""
    built: WeakKeyDictionary[keras.Model, T] = WeakKeyDictionary()

    @wraps(build)
    def get(model: keras.Model) -> T:
        if model not in built:
            built[model] = build(model)
        return built[model]

    return get
