"""Highlight spans of a prompt, and a local Hugging Face model attends to them (spectral key
steering).

Names are imported from their modules when first used: `import seka_rag` alone loads neither torch
nor transformers.
"""

from importlib import import_module
from typing import TYPE_CHECKING

# Not lazy: the function shares its name with its module, and a later import of that module would
# hide it.
from seka_rag.highlight import highlight as highlight

if TYPE_CHECKING:
    from seka_rag.architecture import KeySite as KeySite
    from seka_rag.architecture import Layout as Layout
    from seka_rag.asking import Options as Options
    from seka_rag.bank import Bank as Bank
    from seka_rag.bank import fingerprint as fingerprint
    from seka_rag.budget import Fitted as Fitted
    from seka_rag.budget import fit as fit
    from seka_rag.builtin import builtin_examples as builtin_examples
    from seka_rag.calibration import Calibration as Calibration
    from seka_rag.calibration import tune as tune
    from seka_rag.chat import Chat as Chat
    from seka_rag.chat import Message as Message
    from seka_rag.contrast import Triplet as Triplet
    from seka_rag.contrast import builtin_triplets as builtin_triplets
    from seka_rag.contrast import grounding_triplet as grounding_triplet
    from seka_rag.contrast import instruction_triplet as instruction_triplet
    from seka_rag.contrast import read_triplets as read_triplets
    from seka_rag.drafting import draft_triplets as draft_triplets
    from seka_rag.engine import Engine as Engine
    from seka_rag.engine import Session as Session
    from seka_rag.errors import ArchitectureError as ArchitectureError
    from seka_rag.errors import BankError as BankError
    from seka_rag.errors import BankMismatchError as BankMismatchError
    from seka_rag.errors import CalibrationError as CalibrationError
    from seka_rag.errors import DataError as DataError
    from seka_rag.errors import DocumentsError as DocumentsError
    from seka_rag.errors import EngineClosedError as EngineClosedError
    from seka_rag.errors import GrammarError as GrammarError
    from seka_rag.errors import HighlightError as HighlightError
    from seka_rag.errors import MissingExtraError as MissingExtraError
    from seka_rag.errors import ModelNotFoundError as ModelNotFoundError
    from seka_rag.errors import PromptError as PromptError
    from seka_rag.errors import QueueFullError as QueueFullError
    from seka_rag.errors import RequestTimeoutError as RequestTimeoutError
    from seka_rag.errors import SekaError as SekaError
    from seka_rag.errors import ServerError as ServerError
    from seka_rag.errors import TripletError as TripletError
    from seka_rag.errors import UnsteerableError as UnsteerableError
    from seka_rag.experts import Experts as Experts
    from seka_rag.experts import Routing as Routing
    from seka_rag.explanation import SpanRouting as SpanRouting
    from seka_rag.grammar import Constraint as Constraint
    from seka_rag.highlight import Highlight as Highlight
    from seka_rag.highlight import Kind as Kind
    from seka_rag.highlight import Segment as Segment
    from seka_rag.highlight import Segments as Segments
    from seka_rag.highlight import Span as Span
    from seka_rag.highlight import flatten as flatten
    from seka_rag.highlight import highlight_in as highlight_in
    from seka_rag.labelled import Example as Example
    from seka_rag.labelled import halves as halves
    from seka_rag.labelled import read_examples as read_examples
    from seka_rag.learning import learn as learn
    from seka_rag.markers import has_marks as has_marks
    from seka_rag.markers import mark as mark
    from seka_rag.markers import neutralise as neutralise
    from seka_rag.markers import read_marks as read_marks
    from seka_rag.policies import DEFAULT_POLICY as DEFAULT_POLICY
    from seka_rag.policies import check_policy as check_policy
    from seka_rag.policies import highlighted as highlighted
    from seka_rag.prompts import Passage as Passage
    from seka_rag.prompts import rag_messages as rag_messages
    from seka_rag.remote import RemoteEngine as RemoteEngine
    from seka_rag.requests import Chunk as Chunk
    from seka_rag.requests import Completion as Completion
    from seka_rag.requests import Usage as Usage
    from seka_rag.retrieval import Retriever as Retriever
    from seka_rag.sampling import Sampling as Sampling
    from seka_rag.sampling import TokenLogprob as TokenLogprob
    from seka_rag.serving import LazyEngine as LazyEngine
    from seka_rag.serving import request_of as request_of
    from seka_rag.steering import EditReport as EditReport
    from seka_rag.steering import Generation as Generation
    from seka_rag.steering import SteeredModel as SteeredModel
    from seka_rag.toolcalls import ToolCall as ToolCall
    from seka_rag.toolcalls import parse_tool_calls as parse_tool_calls
    from seka_rag.weighing import weigh as weigh

__version__ = "0.1.0"

_PUBLIC = {
    "asking": "Options",
    "architecture": "KeySite Layout",
    "bank": "Bank fingerprint",
    "budget": "Fitted fit",
    "builtin": "builtin_examples",
    "calibration": "Calibration tune",
    "chat": "Chat Message",
    "contrast": "Triplet builtin_triplets grounding_triplet instruction_triplet read_triplets",
    "drafting": "draft_triplets",
    "engine": "Engine Session",
    "errors": "ArchitectureError BankError BankMismatchError CalibrationError DataError "
    "DocumentsError EngineClosedError GrammarError HighlightError MissingExtraError "
    "ModelNotFoundError PromptError QueueFullError RequestTimeoutError SekaError ServerError "
    "TripletError UnsteerableError",
    "experts": "Experts Routing",
    "explanation": "SpanRouting",
    "grammar": "Constraint",
    "labelled": "Example halves read_examples",
    "highlight": "Highlight Kind Segment Segments Span flatten highlight highlight_in",
    "learning": "learn",
    "markers": "has_marks mark neutralise read_marks",
    "policies": "DEFAULT_POLICY check_policy highlighted",
    "prompts": "Passage rag_messages",
    "remote": "RemoteEngine",
    "requests": "Chunk Completion Usage",
    "retrieval": "Retriever",
    "sampling": "Sampling TokenLogprob",
    "serving": "LazyEngine request_of",
    "steering": "EditReport Generation SteeredModel",
    "toolcalls": "ToolCall parse_tool_calls",
    "weighing": "weigh",
}
_MODULE_OF = {name: module for module, names in _PUBLIC.items() for name in names.split()}

__all__ = sorted(["__version__", *_MODULE_OF])


def __getattr__(name: str) -> object:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value: object = getattr(import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
    globals()[name] = value  # the next access finds it without this function
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
