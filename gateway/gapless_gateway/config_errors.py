"""Turns what pydantic finds wrong into one sentence: the key, its value, the fault, the remedy."""

from __future__ import annotations

import difflib
from typing import Any, NamedTuple, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

VALUE_CHARACTERS_MAX = 80

_FAULTS = {
    "string_type": "it is not a text in quotes",
    "int_type": "it is not a whole number",
    "float_type": "it is not a number",
    "bool_type": "it is neither true nor false",
    "string_too_short": "it is empty",
    "too_short": "it is empty",
    "model_type": "it is not a table",
    "model_attributes_type": "it is not a table",
    "tuple_type": "it is not a list of tables",
    "path_type": "it is not a path in quotes",
    "is_instance_of": "it is not a path in quotes",
    "missing": "it is missing",
}


class Mistake(NamedTuple):
    """One mistake in a configuration file; `str()` is the sentence without the file's name."""

    key: str  # dotted, as in "broker.tls.ca_file"
    value: object
    fault: str
    remedy: str

    def __str__(self) -> str:
        """Return the sentence."""
        table, _, name = self.key.rpartition(".")
        where = f"{_table_shown(table)} {name}" if table else name
        return f"{where} = {_shown(self.value)}: {self.fault}; {self.remedy}"


def sentence_of(error: ValidationError, model: type[BaseModel]) -> str:
    """Return one sentence about the mistake in `error` that most likely causes the others."""
    # A misspelt key shows up twice, as an unknown key and as a missing one: name the former.
    details = sorted(error.errors(), key=lambda one: one["type"] != "extra_forbidden")
    return _sentence(details[0], model)


def _sentence(detail: ErrorDetails, model: type[BaseModel]) -> str:
    location = [part for part in detail["loc"] if isinstance(part, str)]
    tables = _tables_on_the_way(location, model)
    name = location[len(tables) - 1] if len(location) >= len(tables) else location[-1]
    where = ".".join(location[: len(tables)])
    if detail["type"] == "extra_forbidden":
        return _unknown_key(name, where, tables[-1])
    remedy = f"give {_description(name, tables[-1])}"
    if detail["type"] == "missing":
        table = where.rpartition(".")[0]
        subject = (
            f"{name} is missing in {_table_shown(table)}"
            if table
            else f"{_table_shown(name)} is missing"
        )
        return f"{subject}; {remedy}"
    return str(Mistake(where, detail["input"], _fault(detail), remedy))


def _unknown_key(name: str, where: str, model: type[BaseModel]) -> str:
    table = where.rpartition(".")[0]
    known = [field.alias or key for key, field in model.model_fields.items()]
    nearest = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    remedy = f'did you mean "{nearest[0]}"?' if nearest else f"known are {', '.join(known)}"
    subject = f"{_table_shown(table)} has" if table else "there is"
    return f'{subject} the unknown key "{name}"; {remedy}'


def _tables_on_the_way(location: list[str], model: type[BaseModel]) -> list[type[BaseModel]]:
    """Return the models that hold each key of `location`, the outermost first."""
    tables = [model]
    for name in location[:-1]:
        inner = _model_of(name, tables[-1])
        if inner is None:
            break
        tables.append(inner)
    return tables


def _field(name: str, model: type[BaseModel]) -> Any:
    for key, field in model.model_fields.items():
        if name in {key, field.alias}:
            return field
    return None


def _model_of(name: str, model: type[BaseModel]) -> type[BaseModel] | None:
    field = _field(name, model)
    candidates = [field.annotation, *get_args(field.annotation)] if field is not None else []
    for candidate in candidates:
        if isinstance(candidate, type) and issubclass(candidate, BaseModel):
            return candidate
    return None


def _description(name: str, model: type[BaseModel]) -> str:
    field = _field(name, model)
    return field.description if field is not None and field.description else "another value"


def _fault(detail: ErrorDetails) -> str:
    kind, context = detail["type"], detail.get("ctx", {})
    if kind == "value_error":
        return str(context["error"])
    if kind == "greater_than_equal":
        return f"it is less than {context['ge']}"
    if kind == "less_than_equal":
        return f"it is more than {context['le']}"
    if kind == "literal_error":
        return f"it is none of {context['expected'].replace(' or ', ', ')}"
    return _FAULTS.get(kind, f"it cannot be used ({detail['msg']})")


def _shown(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    text = f'"{value}"' if isinstance(value, str) else repr(value)
    if len(text) <= VALUE_CHARACTERS_MAX:
        return text
    half = (VALUE_CHARACTERS_MAX - 3) // 2  # both ends: of a path, the end says which file it is
    return f"{text[:half]}...{text[-half:]}"


def _table_shown(table: str) -> str:
    return "[[port]]" if table == "port" else f"[{table}]"
