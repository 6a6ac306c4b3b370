"""Three questions over examples/documents, answered plainly and with the best passage highlighted.

Every notice there updates a fact that the embedded model remembers. The notices are invented.
"""

import json
from pathlib import Path

import torch
from transformers.utils import logging

from seka_rag import Retriever, SteeredModel, rag_messages
from seka_rag.policies import shares

HERE = Path(__file__).parent
SUBJECTS = ("Austria", "Standard Chartered", "Mac Pro")

torch.set_num_threads(1)  # so small a model gains nothing from more, and waits where a core is busy
logging.disable_progress_bar()
model = SteeredModel.from_pretrained()
retriever = Retriever.from_folder(HERE / "documents")
questions = {
    row["subject"]: row
    for row in map(json.loads, (HERE / "questions.jsonl").read_text("utf-8").splitlines())
}

changed = 0
for subject in SUBJECTS:
    row = questions[subject]
    passages = retriever.search(row["question"], 5)
    gains = [model.bank.gain * share for share in shares("first:1", passages, row["question"])]
    memory = model.generate(rag_messages(row["question"], [], gains=None), max_new_tokens=32)
    plain = model.generate(rag_messages(row["question"], passages, gains=None), max_new_tokens=32)
    highlighted = model.generate(
        rag_messages(row["question"], passages, gains=gains), max_new_tokens=32
    )
    changed += row["updated"] in highlighted.text and row["updated"] not in plain.text
    report = highlighted.report
    print(row["question"])
    print(f"  highlighted  {passages[0].source} (score {passages[0].score:.2f}), ", end="")
    print(f"{report.highlighted_tokens} tokens, {report.kv_heads} KV heads")
    print(f"  no passages  {memory.text}")
    print(f"  plain        {plain.text}")
    print(f"  highlighted  {highlighted.text}")
    print()
print(f"{changed} of {len(SUBJECTS)} answers follow their notice only when it is highlighted.")
