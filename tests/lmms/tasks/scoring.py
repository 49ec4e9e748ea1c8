"""How two tasks ask and score, as files of lmms-eval's own tasks do."""

from __future__ import annotations

import json


def ask_to_choose(doc):
    options = ", ".join(json.loads(doc["options"]))
    return [
        {
            "role": "user",
            "content": [
                {"type": "image", "url": doc["image"].convert("RGB")},
                {"type": "text", "text": f"{doc['question']}: {options}?"},
            ],
        }
    ]


def read_choice(doc, results):
    (answer,) = results
    found = [
        letter for letter, option in zip("ABC", json.loads(doc["options"]), strict=True) if option in answer
    ]
    return {"choice_score": float(found == [doc["answer"]])}


def read_yes_or_no(doc, results):
    (answer,) = results
    said = "yes" if doc["place"] in answer else "no"
    row = {"score": float(said == doc["answer"]), "said": said}
    return {"accuracy": row, "yes_share": row}


def average_scores(rows):
    return sum(row["score"] for row in rows) / len(rows)


def count_yes(rows):
    return sum(row["said"] == "yes" for row in rows) / len(rows)
