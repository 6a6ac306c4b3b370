"""What a model may write next: JSON by a schema, or literal text around such JSON.

    V  width of the model's logits

A constraint is compiled once for a tokenizer; every request walks it with a matcher of its own.
JSON comes on one line, with at most one blank after a comma or a colon, so that no model loses
itself in blanks, and with its names in the order of the schema. A string, a number or a list is as
long as the schema lets it be: whoever decodes still needs a limit on tokens.

Nothing here knows of logits, batches or chat templates. Needs llguidance, which the extra
`structured` installs.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from threading import Lock
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from seka_rag.errors import GrammarError
from seka_rag.schemas import Schema, as_rule, reason
from seka_rag.vocabulary import Tokenizer, Vocabulary, vocabulary_of

if TYPE_CHECKING:
    from llguidance import LLMatcher

_STARTS_OF_JSON = frozenset('{["-0123456789tfn')


class Constraint:
    """What may be written, compiled for one tokenizer. Threads may share it.

    Made by `json_schema`, `json`, `framed` and `any_of`.
    """

    def __init__(self, vocabulary: Vocabulary, alternatives: Sequence[_Alternative]) -> None:
        self._vocabulary = vocabulary
        self._alternatives = tuple(alternatives)
        self._lock = Lock()
        self._start: LLMatcher | None = self._compile()

    @classmethod
    def json_schema(cls, tokenizer: Tokenizer, schema: Schema | str) -> Constraint:
        """Return a constraint to JSON that the schema, or the schema of this text, accepts.

        Raises GrammarError where the schema asks for what cannot be followed, or accepts nothing,
        and MissingExtraError without llguidance.
        """
        return cls.framed(tokenizer, "", schema, "")

    @classmethod
    def json(cls, tokenizer: Tokenizer) -> Constraint:
        """Return a constraint to any JSON object."""
        return cls.json_schema(tokenizer, {"type": "object"})

    @classmethod
    def framed(
        cls, tokenizer: Tokenizer, prefix: str, schema: Schema | str, suffix: str
    ) -> Constraint:
        """Return a constraint to the prefix, then JSON by the schema, then the suffix.

        A control token that prefix or suffix name is that token. After a schema that accepts bare
        numbers the suffix must not begin with what could go on as one. Raises as `json_schema`.
        """
        vocabulary = vocabulary_of(tokenizer)
        parts = vocabulary.literal(prefix), f"%json {as_rule(schema)}", vocabulary.literal(suffix)
        return cls(vocabulary, [_Alternative(prefix, " ".join(parts))])

    @classmethod
    def any_of(cls, constraints: Sequence[Constraint]) -> Constraint:
        """Return a constraint to whatever one of these, all for one tokenizer, allows.

        Raises GrammarError where one prefix goes on as the JSON after another prefix may begin:
        those two could not be told apart token by token.
        """
        if len({constraint._vocabulary for constraint in constraints}) != 1:
            raise GrammarError(
                f"there are {len(constraints)} constraints, not all for one tokenizer: give at "
                "least one, and make all with the same tokenizer"
            )
        alternatives = [each for constraint in constraints for each in constraint._alternatives]
        _check_told_apart({each.prefix for each in alternatives})
        return cls(constraints[0]._vocabulary, alternatives)

    def matcher(
        self, *, vocab_size: int | None = None, eos_token_ids: Collection[int] | None = None
    ) -> Matcher:
        """Return a fresh state for one request.

        `vocab_size` is V, `eos_token_ids` are the tokens that end a turn; the tokenizer's own
        unless given. Raises GrammarError where no token, or none of the V, ends a turn.
        """
        vocabulary = self._vocabulary
        size = vocabulary.size if vocab_size is None else vocab_size
        eos_ids = vocabulary.eos_ids if eos_token_ids is None else frozenset(eos_token_ids)
        if not eos_ids or not all(0 <= token_id < size for token_id in eos_ids):
            raise GrammarError(
                f"the tokens that end a turn are {sorted(eos_ids)}, of {size} that the model has: "
                "pass the model's vocab_size=... and eos_token_ids=..."
            )
        with self._lock:
            self._start = self._start or self._compile()
            return Matcher(self, self._start.deep_copy(), size, eos_ids)

    def _compile(self) -> LLMatcher:
        from llguidance import LLMatcher, LLParserLimits

        start = LLMatcher(
            self._vocabulary.tokens,
            "start: " + "\n  | ".join(each.rule for each in self._alternatives),
            log_level=0,
            limits=LLParserLimits(verbose_errors=False),
        )
        start.compute_bitmask()  # a grammar that nothing can begin fails here
        if start.is_error():
            raise GrammarError(f"the constraint cannot be followed: {reason(start.get_error())}")
        return start

    def _compile_again(self) -> None:
        """Let no later request share what has failed: copies share what they have worked out."""
        with self._lock:
            self._start = None


class Matcher:
    """How far one request has come; for one thread at a time. Made by `Constraint.matcher`."""

    def __init__(
        self, constraint: Constraint, walk: LLMatcher, vocab_size: int, eos_ids: frozenset[int]
    ) -> None:
        self._constraint = constraint
        self._walk = walk
        self._vocab_size = vocab_size
        self._eos_ids = eos_ids
        self._known = min(vocab_size, constraint._vocabulary.size)  # tokens with a spelling
        self._ended = False

    @property
    def finished(self) -> bool:
        """Whether nothing but the end of the turn may follow."""
        return self._ended or (self._walk.is_stopped() and not self._walk.is_error())

    def allowed(self) -> Tensor:
        """Return which tokens may come next: (V,) bool on the CPU.

        Tokens that end a turn may come exactly where what was written is complete. Text that is
        certain allows one token alone, as the tokenizer would write it. Raises GrammarError where
        nothing may come, or the grammar is too costly to follow.
        """
        allowed = np.zeros(self._vocab_size, dtype=np.bool_)
        if not self.finished:
            words = np.frombuffer(self._walk.compute_bitmask(), dtype=np.uint8)
            self._check()
            allowed[: self._known] = np.unpackbits(words, count=self._known, bitorder="little")
        allowed[list(self._eos_ids)] = self._complete
        if not allowed.any():
            raise GrammarError(
                "no token may follow what was written: the constraint needs one that the model "
                "lacks, or its literal text holds one that ends a turn"
            )
        return torch.from_numpy(allowed)

    def accept(self, token_id: int) -> None:
        """Take in the token that was written.

        Raises GrammarError, and changes nothing, where the token may not come.
        """
        if token_id in self._eos_ids:
            taken = self._ended = self._complete
        else:
            spelled = 0 <= token_id < self._known and not self._ended
            taken = spelled and self._walk.try_consume_tokens([token_id]) == 1
            self._check()
        if not taken:
            raise GrammarError(
                f"token {token_id} may not come here: draw from those that allowed() returns"
            )

    @property
    def _complete(self) -> bool:
        return self._ended or self._walk.is_accepting()

    def _check(self) -> None:
        if self._walk.is_error():
            self._constraint._compile_again()
            raise GrammarError(
                f"the constraint cannot be followed further: {reason(self._walk.get_error())}"
            )


@dataclass(frozen=True)
class _Alternative:
    """One way to write everything."""

    prefix: str
    rule: str  # for prefix, JSON and suffix, in llguidance's dialect of Lark


def _check_told_apart(prefixes: Collection[str]) -> None:
    """Raise GrammarError where one prefix goes on as the JSON after another may begin."""
    for short in prefixes:
        for long in prefixes:
            if long.startswith(short) and long[len(short) :][:1] in _STARTS_OF_JSON:
                raise GrammarError(
                    f"{long!r} begins like JSON after {short!r}, and cannot be told from it: write "
                    "both as one schema, with anyOf"
                )
