"""Write what an engine without the plugin says after the prompts of the tests: MODEL FILE."""

import conftest  # noqa: F401  the environment comes first

if __name__ == "__main__":
    import json
    import sys
    from pathlib import Path

    from serving import PROMPTS, ask, engine

    model, file = map(Path, sys.argv[1:])
    with engine(model, bank=None) as llm:
        answers = ask(llm, list(PROMPTS.values()), highlighted=False)
    said = {
        name: [each.tokens, each.logprobs, each.prompt_logprobs]
        for name, each in zip(PROMPTS, answers, strict=True)
    }
    file.write_text(json.dumps(said))
