"""One prompt looked at closely: what its last token attends to under each method, what is written.

    T  tokens      H  KV heads      Q  query heads      D  head_dim

Attention is told for the plain model and for edited keys: of rivals that change the attention
itself, or the logits, there is only the answer, and so of methods that read other tokens.
"""

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor
from transformers import DynamicCache

from seka_rag.architecture import KeySite
from seka_rag.discrimination import cached_scores, rotated, visible
from seka_rag.evaluation.answering import answers
from seka_rag.evaluation.methods import Method, Prepared, Steered
from seka_rag.evaluation.reading import spans_of
from seka_rag.evaluation.results import Look, Sample
from seka_rag.evaluation.task import Ask
from seka_rag.hooks import observing
from seka_rag.inputs import ModelTokenizer, Row
from seka_rag.router import Observed
from seka_rag.steering import SteeredModel
from seka_rag.tokens import encode_chat, tokenize

_WRITTEN = 48  # tokens of an answer, at most


def look(
    model: SteeredModel, methods: Mapping[str, tuple[Method, Prepared]], example: str, ask: Ask
) -> Sample:
    """Return the ask's prompt, and what every method attends to and writes; its choices are left.

    What is highlighted is the same for all methods, whether or not they use it.
    """
    (shown,) = spans_of(model, [ask.prompt])
    highlighted = tuple(gain != 0 for gain in shown.gains)
    asked = replace(ask, choices=(), max_new_tokens=min(ask.max_new_tokens, _WRITTEN))
    looks = {}
    for name, (method, prepared) in methods.items():
        (answer,) = answers(model, method, prepared, [asked], batch_size=1)
        attention = _attention(method, prepared, asked, shown)
        looks[name] = Look(
            answer.text,
            None if attention is None else tuple(round(share, 6) for share in attention.tolist()),
            None if attention is None else attention[torch.tensor(highlighted)].sum().item(),
        )
    return Sample(example, token_texts(model.tokenizer, shown), highlighted, looks)


def _attention(method: Method, prepared: Prepared, ask: Ask, shown: Row) -> Tensor | None:
    # A subclass may read in a way of its own, which is not looked at here.
    if type(prepared) is not Steered:
        return None
    (row,) = prepared.rows([method.prompt(ask)])
    return last_attention(prepared.model, row) if row.ids == shown.ids else None


@torch.no_grad()
def last_attention(model: SteeredModel, row: Row) -> Tensor | None:
    """Return the share of the last token's attention on each token: (T,) float32 on the CPU.

    It is the mean over all layers and query heads, with the keys edited where the row has gains;
    None where a layer's queries cannot be seen.
    """
    seen: dict[int, Observed] = {}

    # A routing in two passes shows every layer twice: the later pass is the edited one.
    def keep(site: KeySite, observed: Observed) -> None:
        seen[site.layer] = observed

    cache = DynamicCache()
    with observing(model.sites, keep):
        model.prefill([row], cache)
    shares = []
    for site in model.sites:
        # Keys as the model attends to them: the cache has them edited, and turned.
        keys = getattr(cache.layers[site.layer], "keys", None)
        found = _shares(site, seen[site.layer], keys)
        if found is None:
            return None
        shares.append(found)
    return torch.stack(shares).mean(0)


def _shares(site: KeySite, observed: Observed, keys: Tensor | None) -> Tensor | None:
    """Return the last token's attention in one layer, the mean over its heads: (T,), CPU.

    `keys` are (1, H, T, D). Where they or the queries are not shown, return None.
    """
    if keys is None or observed.queries is None or observed.rotation is None:
        return None
    last = torch.tensor([keys.shape[2] - 1], device=keys.device)
    queries = rotated(observed.queries[:, -1], observed.rotation, last)  # (1, Q, D)
    scores = cached_scores(queries, keys, scaling=site.scaling)  # (1, Q, T)
    inside = visible(keys.shape[2], torch.zeros_like(last), last, window=site.window)
    shares = scores.masked_fill(~inside.unsqueeze(1), -torch.inf).softmax(-1)
    return shares.mean(1)[0].cpu()


def token_texts(tokenizer: ModelTokenizer, row: Row) -> tuple[str, ...]:
    """Return the text of every token of a prompt; joined, they are the prompt as it is read.

    A character that several tokens share is the first one's; what no token stands for goes to the
    token behind it. Tokens without a character left are empty.
    """
    text = row.rendered.text
    encoded = (
        encode_chat(tokenizer, text, row.rendered.content_regions)
        if row.rendered.is_chat
        else tokenize(tokenizer, text, add_special_tokens=True)
    )
    texts, done = [], 0
    for _, end in encoded.offsets:
        texts.append(text[done:end])
        done = max(done, end)
    texts[-1] += text[done:]
    return tuple(texts)
