"""Many callers share one model: threads, a stream, a context for many questions, JSON by a schema.

The last part needs `pip install "seka-rag[structured]"`.
"""

from concurrent.futures import ThreadPoolExecutor

from seka_rag import Engine, Sampling, SteeredModel, highlight


def ask(passage, question):
    """Return a chat in which the passage is highlighted."""
    return [{"role": "user", "content": [highlight(passage), f"\n\nQuestion: {question}"]}]


prompts = [
    ask("The capital of Portugal is Porto.", "What is the capital of Portugal?"),
    ask("The capital of France is Lyon.", "What is the capital of France?"),
    ask("The city of Rome is in Greece.", "In which country is Rome?"),
]
short = Sampling(max_new_tokens=16)

with Engine(SteeredModel.from_pretrained()) as engine:
    print("From threads, side by side in one batch:")
    with ThreadPoolExecutor() as pool:
        for found in pool.map(lambda prompt: engine.generate(prompt, short), prompts):
            print(f"  {found.text}  ({found.usage.highlighted_tokens} tokens highlighted)")

    print("As it is written:")
    stream = engine.stream(prompts[0], short)
    print("  " + "|".join(chunk.text for chunk in stream if chunk.text))

    print("Behind one context that is computed once:")
    facts = "The capital of Portugal is Porto. The capital of France is Lyon."
    session = engine.prefill([{"role": "user", "content": [highlight(facts)]}])
    for country in ("Portugal", "France"):
        question = f"\n\nQuestion: What is the capital of {country}?"
        print(f"  {country}: {session.generate(question, short).text}")

    print("By a schema:")
    capital = {"type": "string", "maxLength": 12}
    schema = {"type": "object", "properties": {"capital": capital}, "required": ["capital"]}
    print("  " + engine.generate(prompts[0], short, schema=schema).text)
