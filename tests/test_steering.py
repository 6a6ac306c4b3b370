import pytest
from conftest import make_bank
from seka_rag import highlight
from seka_rag.steering import SteeredModel


def test_smoke(model, tokenizer):
    steered = SteeredModel(model, tokenizer, make_bank(model))
    p = ["Where was ", highlight("Ada Lovelace"), " born?"]
    print(steered.generate(p, max_new_tokens=5))
    print(steered.generate(p, max_new_tokens=5, gain=0))
    print(steered.generate([{"role": "user", "content": p}], max_new_tokens=5, num_beams=3, num_return_sequences=2))
    print(steered.score(p, [" Paris", " France is"]))
    print(steered.next_token_logprobs([p, "x"]).shape)
