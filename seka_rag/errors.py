"""Everything that seka_rag raises on purpose: what was found, what was needed, what to do.

SekaError
├── HighlightError       ValueError           a highlight that is empty, missing or covers no token
├── PromptError          ValueError           a prompt that is malformed, or too long for the model
├── GrammarError         ValueError           a constraint that cannot be compiled or followed
├── TripletError         ValueError           a learning example without its answer
├── CalibrationError     ValueError           examples that cannot tell which gain is best
├── ArchitectureError    ValueError           a model whose key projections were not found
├── BankError            ValueError           a bank that is missing, unreadable, or keeps no head
│   └── BankMismatchError                     a bank learned on another model
├── ModelNotFoundError   FileNotFoundError    no model at that folder or name
├── DocumentsError       FileNotFoundError    documents that are missing or not text
├── DataError            ValueError           evaluation data that are absent or malformed
├── UnsteerableError     NotImplementedError  a way of generating that cannot be steered
├── EngineClosedError    RuntimeError         a request to an engine that is closed
├── QueueFullError       RuntimeError         a request for which an engine has no room
├── RequestTimeoutError  TimeoutError         a request whose time is up
├── ServerError          RuntimeError         a server that cannot be reached, or fails
└── MissingExtraError    ImportError          an optional dependency that is not installed

Catch `SekaError` for all of them, or the builtin of the second column where that reads better.
"""


class SekaError(Exception):
    """The parent of every error that seka_rag raises on purpose."""


class HighlightError(SekaError, ValueError):
    """A highlight that is empty, missing from the prompt, not a number, or covers no token."""


class PromptError(SekaError, ValueError):
    """A prompt that is malformed or longer than the model's context."""


class GrammarError(SekaError, ValueError):
    """A schema or a constraint that cannot be compiled, satisfied or followed."""


class TripletError(SekaError, ValueError):
    """A learning example whose answer is not where it must be."""


class CalibrationError(SekaError, ValueError):
    """Examples from which a gain cannot be found, or bounds that no gain keeps."""


class ArchitectureError(SekaError, ValueError):
    """A model in which no key projections could be found, or that makes its keys in another way."""


class BankError(SekaError, ValueError):
    """A bank that is missing, cannot be read, or keeps no head."""


class BankMismatchError(BankError):
    """A bank that was learned on another model."""


class ModelNotFoundError(SekaError, FileNotFoundError):
    """There is no model at that folder or name."""


class DocumentsError(SekaError, FileNotFoundError):
    """A documents folder that is missing, empty, or holds what is not text."""


class DataError(SekaError, ValueError):
    """Evaluation data that are absent or malformed."""


class UnsteerableError(SekaError, NotImplementedError):
    """A way of generating, or of calling the model, that cannot be steered."""


class EngineClosedError(SekaError, RuntimeError):
    """A request to an engine that is closed, or was closed before the answer was done."""


class QueueFullError(SekaError, RuntimeError):
    """A request for which the engine's queue has no room."""


class RequestTimeoutError(SekaError, TimeoutError):
    """A request whose time is up before its answer is done."""


class ServerError(SekaError, RuntimeError):
    """A server that cannot be reached, does not know what it is asked for, or fails."""


class MissingExtraError(SekaError, ImportError):
    """An optional dependency that is not installed."""
