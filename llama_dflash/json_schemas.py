"""Grammars of JSON schemas: llama-cpp-python's converter, where it never came to an end, filled the memory or wrote what
llama.cpp does not parse."""

from __future__ import annotations

import json
from typing import Any, List, Optional

import llama_cpp.llama_grammar as upstream

from .grammars import GrammarError

MAX_PARTS = 10_000  # of a schema, each reference counted where it is used
MAX_REPETITIONS = 100_000  # of characters or items
_MOST_AT_ONCE = 500  # times that something is repeated: llama.cpp allows 2000, over all symbols that are new to it


def json_schema_to_gbnf(schema: str, prop_order: Optional[List[str]] = None) -> str:
    """The grammar of a JSON schema (a JSON text). Takes the place of upstream's function.

    Raises:
        GrammarError: If the schema is too large.
        Exception: If it has what upstream has no grammar for.
    """
    converter = _Converter(
        prop_order={name: i for i, name in enumerate(prop_order or [])}, allow_fetch=False, dotall=False, raw_pattern=False
    )
    converter.visit(converter.resolve_refs(json.loads(schema), "stdin"), "")
    return converter.format_grammar()


class _Converter(upstream.SchemaConverter):
    _n_parts = 0

    def visit(self, schema: Any, name: str) -> str:
        self._n_parts += 1
        if self._n_parts > MAX_PARTS:
            raise GrammarError(f"the JSON schema has more than {MAX_PARTS} parts")
        return super().visit(schema, name)

    def _format_literal(self, literal: str) -> str:
        """Of a JSON text. Upstream left its backslashes to be taken for the grammar's own."""
        text = json.dumps(json.loads(literal), ensure_ascii=False)
        return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'

    def _visit_pattern(self, pattern: str, name: str) -> str:
        _check_brackets(pattern)
        return super()._visit_pattern(pattern, name)


def _check_brackets(pattern: str) -> None:
    """Upstream waits for ever behind a bracket that closes nothing."""
    opened: Optional[str] = None
    escaped = False
    for character in pattern:
        if escaped:
            escaped = False
        elif character == "\\" and opened != "}":
            escaped = True
        elif opened is not None:
            opened = None if character == opened else opened
        elif character in "[{":
            opened = "]" if character == "[" else "}"
        elif character in "]}":
            raise ValueError(f"the pattern {pattern[:80]!r} has a {character!r} that closes nothing")


def repetition(
    item: str,
    least: int,
    most: Optional[int],
    separator_rule: Optional[str] = None,
    item_rule_is_literal: bool = False,
) -> str:
    """The rule of `least` to `most` items in a row, as many as there may be if `most` is None. Takes the place of upstream's,
    which writes each of them out, in a parenthesis of its own."""
    for n in (least, most):
        if n is not None and (isinstance(n, bool) or not isinstance(n, int) or not 0 <= n <= MAX_REPETITIONS):
            raise GrammarError(f"the JSON schema has a repetition of {n!r}, expected 0 to {MAX_REPETITIONS}")
    if most is not None and most < least:
        raise GrammarError(f"the JSON schema wants {least} items or more, and {most} at most")
    if most == 0:
        return '""'
    if not separator_rule:
        return _times(item, least, most)
    rest = _times(f"({separator_rule} {item})", max(least - 1, 0), None if most is None else most - 1)
    return f"{item} {rest}" if least > 0 else f'({item} {rest} | "")'  # ? would count the symbols in it as repeated


def _times(item: str, least: int, most: Optional[int]) -> str:
    if least > _MOST_AT_ONCE:
        return f"{item}{{{_MOST_AT_ONCE}}} " + _times(item, least - _MOST_AT_ONCE, None if most is None else most - _MOST_AT_ONCE)
    if most is None:
        return f"{item}{{{least},}}"
    if most <= _MOST_AT_ONCE:
        return f"{item}{{{least},{most}}}" if most > 0 else '""'
    if least > 0:
        return f"{item}{{{least}}} " + _times(item, 0, most - least)
    return f"({item}{{{_MOST_AT_ONCE}}} {_times(item, 0, most - _MOST_AT_ONCE)} | {item}{{0,{_MOST_AT_ONCE - 1}}})"


def install() -> None:
    """Makes llama_cpp.LlamaGrammar.from_json_schema, and all that calls it, use these."""
    upstream.json_schema_to_gbnf = json_schema_to_gbnf
    upstream._build_repetition = repetition
