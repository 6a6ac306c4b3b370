"""Steering written out plainly: each pass computes the whole sequence, and edits it in float64.

It shares no code with seka_rag: the modules are named by hand, P is a dense matrix, and the gain of
every position is given. Nothing is cached.
"""

from contextlib import contextmanager

import torch


def key_module(attention):
    return attention.k_norm if hasattr(attention, "k_norm") else attention.k_proj


@contextmanager
def editing(model, operators, gains):
    """Put k + w·Pk in place of the keys of `model` for gains (B, T), T the whole sequence."""
    patched = []
    for number, operator in operators.items():
        attention = model.model.layers[number].self_attn
        module = key_module(attention)
        basis = operator.basis.double()
        projection = basis @ torch.diag_embed(operator.weights.double()) @ basis.mT  # (H, D, D)
        heads_first = type(attention).__name__ == "Gemma3Attention"

        def edited(x, plain=module.forward, projection=projection, heads_first=heads_first):
            output = plain(x)
            heads = projection.shape[0]
            if output.ndim == 3:
                keys = output.unflatten(-1, (heads, -1))
            else:
                keys = output.transpose(1, 2) if heads_first else output
            exact = keys.double()
            weights = torch.tensor(gains, dtype=torch.float64)[:, :, None, None]
            exact = exact + weights * torch.einsum("hde,bthe->bthd", projection, exact)
            exact = exact.transpose(1, 2) if heads_first else exact
            return exact.to(output.dtype).reshape(output.shape)

        module.forward = edited
        patched.append(module)
    try:
        yield
    finally:
        for module in patched:
            del module.forward


@torch.no_grad()
def logits(model, operators, ids, gains):
    """Return the logits (T, V) of one sequence; positions beyond `gains` have none."""
    padded = [list(gains) + [0.0] * (len(ids) - len(gains))]
    with editing(model, operators, padded):
        return model(torch.tensor([ids]), use_cache=False).logits[0]


def greedy(model, operators, ids, gains, *, steps):
    """Return what greedy search writes, one whole forward pass a token."""
    written = list(ids)
    for _ in range(steps):
        written.append(int(logits(model, operators, written, gains)[-1].argmax()))
    return written[len(ids) :]


def beams(model, operators, ids, gains, *, steps, width):
    """Return the `width` best texts of beam search without an end-of-turn token, best first."""
    alive = [(0.0, list(ids))]
    for _ in range(steps):
        longer = []
        for score, sequence in alive:
            after = logits(model, operators, sequence, gains)[-1].float().log_softmax(-1)
            best = after.topk(width)
            for value, token in zip(best.values.tolist(), best.indices.tolist(), strict=True):
                longer.append((score + value, [*sequence, token]))
        alive = sorted(longer, key=lambda beam: -beam[0])[:width]
    return [sequence[len(ids) :] for _, sequence in alive]
