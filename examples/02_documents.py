"""Retrieve passages from a folder; highlight the best, or all in proportion to their scores."""

from pathlib import Path

from seka_rag import Retriever, SteeredModel, rag_messages
from seka_rag.policies import shares

question = "Where are the headquarters of Standard Chartered?"
documents = Path(__file__).parent / "documents"

model = SteeredModel.from_pretrained()
passages = Retriever.from_folder(documents).search(question, 5)
for policy in ("none", "first:1", "score"):
    gains = None
    if policy != "none":
        gains = [model.bank.gain * share for share in shares(policy, passages, question)]
    answer = model.generate(rag_messages(question, passages, gains=gains), max_new_tokens=32)
    print(f"{policy:8}", answer.text)
