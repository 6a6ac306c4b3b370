"""The prefix cache: keys that were steered in one way are found only by requests steered so.

vLLM names a block of cached keys by its tokens, the blocks before it and extra keys. The block that
holds the first highlighted token gets one: all highlights of the request. Blocks before it stay
shared with everybody, and blocks after it inherit the difference. One engine has one bank, which
needs no key of its own.
"""

import functools
import hashlib
from collections.abc import Callable
from importlib import import_module
from typing import TYPE_CHECKING, Any

from vllm_seka.highlights import Highlights, read

if TYPE_CHECKING:
    from vllm.v1.request import Request

_NAME = "generate_block_hash_extra_keys"
# The function is imported by name: each of these modules has its own reference.
_USERS = (
    "vllm.v1.core.kv_cache_utils",
    "vllm.v1.core.block_pool",
    "vllm.v1.simple_kv_offload.manager",
)
_Keys = tuple[tuple[Any, ...] | None, int]


def install() -> None:
    """Make vLLM tell blocks of steered keys apart. Installing again does nothing."""
    plain: Callable[..., _Keys] = getattr(import_module(_USERS[0]), _NAME)
    if hasattr(plain, "_seka"):
        return

    @functools.wraps(plain)
    def extra_keys(request: "Request", start: int, end: int, start_mm_idx: int) -> _Keys:
        keys, next_mm_idx = plain(request, start, end, start_mm_idx)
        highlights = _highlights_of(request)
        if highlights is not None and start <= highlights.first < end:
            keys = (*(keys or ()), ("seka", digest(highlights)))
        return keys, next_mm_idx

    extra_keys._seka = True  # type: ignore[attr-defined]
    for user in _USERS:
        setattr(import_module(user), _NAME, extra_keys)


def digest(highlights: Highlights) -> str:
    """Return what tells these highlights from others: in what they do, not in how they are told."""
    first, end = highlights.first, highlights.end
    parts = (highlights.gains[first:end], highlights.owners[first:end])
    sha = hashlib.sha256(b"".join(part.tobytes() for part in parts))
    sha.update(repr((first, highlights.kinds)).encode())
    return sha.hexdigest()[:32]


def _highlights_of(request: "Request") -> Highlights | None:
    """Return the request's highlights, read once."""
    if not hasattr(request, "_seka"):
        params = request.sampling_params
        args = None if params is None else params.extra_args
        request._seka = read(args, request.num_prompt_tokens)
    found: Highlights | None = request._seka
    return found
