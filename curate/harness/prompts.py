"""How one document is written, as a question or as a few-shot example with its answer: lm-eval's joining of texts and delimiters, to the character.

An example is `text + target_delimiter + answer + fewshot_delimiter`; a question is its text alone, for the delimiter before an answer belongs to
the answer. A generation prefix follows the text, behind target_delimiter unless one of the two has white space there.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

from curate.errors import DataError
from curate.harness.documents import HarnessDocument
from curate.harness.reading import LocalTask
from curate.harness.templates import Field, literal
from curate.yaml_reader import clip, shown

Target = int | str | list[Any]


@dataclass(frozen=True)
class Format:
    """The keys that say how documents are written: those of the task, or of its few-shot examples."""

    text: Field | int | None
    target: Field | int | list[str]
    choices: Field | list[str] | None
    prefix: Field | None
    target_delimiter: str
    fewshot_delimiter: str
    numbers: bool  # whether a rendered number is a choice's number, as it is where the task has choices
    place: str  # of doc_to_target, which errors about answers begin with

    @classmethod
    def of(cls, task: LocalTask, columns: Sequence[str], *, example: bool) -> Self:
        """The format of questions, or of examples: fewshot_config first, then the task's own keys."""
        own = task.file.fewshot_config if example else task.file
        names = tuple(columns)

        def given(key: str) -> Any:
            mine = getattr(own, key)
            value = mine if mine is not None else getattr(task.file, key)
            path = ("fewshot_config", key) if example and mine is not None else (key,)
            return Field(value, task.place(*path), names) if isinstance(value, str) else value

        options = given("doc_to_choice")
        return cls(
            text=given("doc_to_text"),
            target=given("doc_to_target"),
            choices=list(options.values()) if isinstance(options, dict) else options,
            prefix=given("gen_prefix") or None,
            target_delimiter=own.target_delimiter if own.target_delimiter is not None else task.file.target_delimiter,
            fewshot_delimiter=own.fewshot_delimiter if own.fewshot_delimiter is not None else task.file.fewshot_delimiter,
            numbers=task.file.doc_to_choice is not None,
            place=task.place("fewshot_config", "doc_to_target") if example and own.doc_to_target is not None else task.place("doc_to_target"),
        )

    def text_of(self, document: HarnessDocument) -> str | int:
        """What is asked; a number is that of the choice which is, where the choices are the prompts."""
        if not isinstance(self.text, Field):
            return self.text if self.text is not None else ""
        value = self._read(self.text, document)
        if not isinstance(value, str | int):
            raise DataError(f"{self.text.place}: document {document.id}: is {shown(value)}, not text; write {{{{ column }}}} to make text of it")
        return value

    def target_of(self, document: HarnessDocument) -> Any:
        """The answer: a text, the number of a choice, or a list of these."""
        if not isinstance(self.target, Field):
            return self.target
        value = self._read(self.target, document)
        if not self.target.is_column and isinstance(value, str) and len(value) > 1 and value[0] == "[" and value[-1] == "]":
            found = literal(value)
            return value if found is None else found[0]
        return value

    def choices_of(self, document: HarnessDocument) -> list[str]:
        """The choices, in order; DataError unless they are texts, none of them empty."""
        if not isinstance(self.choices, Field):
            return list(self.choices or ())
        field = self.choices
        value = field.column(document.fields, document.id) if field.is_column else field.literal(document.fields, document.id)
        if not isinstance(value, list | tuple) or not value:
            raise DataError(f"{field.place}: document {document.id}: is {shown(value)}, not a list of choices")
        for number, choice in enumerate(value):
            if not isinstance(choice, str) or not choice:
                raise DataError(f"{field.place}: document {document.id}: choice {number} is {shown(choice)}; choices are texts that are not empty")
        return list(value)

    def example(self, document: HarnessDocument) -> str:
        """The document with its answer, and the delimiter that the next text needs."""
        asked, options, answer = self.text_of(document), self.choices_of(document), self.target_of(document)
        if isinstance(asked, int):
            asked, options = self._choice(options, asked, document), []
        if answer is None or answer == "":
            return self.question(document, asked)
        prefix = self._prefix(document)
        if options and isinstance(answer, int):
            answer = self._choice(options, answer, document)
        answer = answer[0] if isinstance(answer, list) and answer else answer
        if not isinstance(answer, str):
            raise DataError(f"{self.place}: document {document.id}: the answer of a few-shot example is {shown(answer)}, not text; write {{{{ column }}}}")
        delimiter = self.target_delimiter if not prefix or _apart(asked, prefix) else ""
        spaced = f"{prefix} {answer}" if prefix and answer and _touching(prefix, answer) else prefix + answer
        return asked + delimiter + spaced + self.fewshot_delimiter

    def question(self, document: HarnessDocument, asked: str, *, delimited: bool = True) -> str:
        """The text and its generation prefix, up to where the answer begins."""
        prefix = self._prefix(document)
        return asked + (self.target_delimiter if delimited and prefix and _apart(asked, prefix) else "") + prefix

    def _read(self, field: Field, document: HarnessDocument) -> Any:
        value = field.value(document.fields, document.id)
        if field.is_column or not (self.numbers and value.isdigit()):
            return value
        found = literal(value)
        if found is None:
            raise DataError(f"{field.place}: document {document.id}: {clip(ascii(value))} is no number of a choice; numbers have no leading zeros")
        return found[0]

    def _prefix(self, document: HarnessDocument) -> str:
        value = self.prefix.value(document.fields, document.id) if self.prefix else ""
        if self.prefix and not isinstance(value, str):
            raise DataError(f"{self.prefix.place}: document {document.id}: is {shown(value)}, not text")
        return str(value)

    def _choice(self, options: Sequence[str], number: int, document: HarnessDocument) -> str:
        if not -len(options) <= number < len(options):
            raise DataError(f"{self.place}: document {document.id}: there is no choice {number} among {len(options)}; choices count from 0")
        return options[number]


def _apart(text: str, prefix: str) -> bool:
    return text != "" and _touching(text, prefix)


def _touching(left: str, right: str) -> bool:
    """Whether two texts would touch without white space between them."""
    return not (left[-1:].isspace() or right[:1].isspace())
