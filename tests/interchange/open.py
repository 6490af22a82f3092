"""Opens the files that Candor writes with the tools that they are for, and writes one as another tool would."""

import json
import sys
from pathlib import Path

import datasets
import pyarrow
import pyarrow.parquet
from label_studio_sdk.label_interface import LabelInterface

folder = Path(sys.argv[1])


def table(name):
    return datasets.load_dataset("parquet", data_files=str(folder / name), split="train", cache_dir=str(folder / "cache"))


rlhf_v = table("rlhf-v")
assert rlhf_v[0]["image"].size, "an image, not bytes"
assert json.loads(rlhf_v[0]["text"]) == {name: rlhf_v[0][name] for name in ("question", "chosen", "rejected")}
assert rlhf_v[0]["chosen"] == "A 🐶 cat on two blue sofas."

dpo = table("trl-dpo")
row = dpo[0]
assert row["images"][0].size and row["prompt"] == [{"role": "user", "content": "What is it?"}], row
assert row["chosen"][0]["role"] == row["rejected"][0]["role"] == "assistant"

prm = datasets.load_dataset("json", data_files=str(folder / "trl-prm"), split="train", cache_dir=str(folder / "cache"))
assert "".join(prm[0]["completions"]) == "A 🐶 dog on two red sofas."
assert prm[0]["labels"] == [True, False, True, False, True]

records = table("parquet")
assert records[0]["image"].size and json.loads(records[0]["record"])["id"] == records[0]["id"]
assert records[4]["corrected"] == records[4]["response"]

tasks = json.loads((folder / "label-studio").read_text())
config = Path("docs/feedback.md").read_text().split("```xml\n")[1].split("```")[0]
interface = LabelInterface(config)
for task in tasks:
    # The three one by one: for a whole task the library calls its own check of annotations without one.
    assert interface.validate_task({"data": task["data"]}), task["data"]["text"]
    assert all(map(interface.validate_annotation, task["annotations"])), task["annotations"]
    assert all(map(interface.validate_prediction, task["predictions"])), task["predictions"]
    for annotation in task["annotations"]:
        for value in (region["value"] for region in annotation["result"]):
            if "labels" in value:
                assert task["data"]["text"][value["start"] : value["end"]] == value["text"]

image = {"bytes": (Path("tests/fixtures/photos/cat.jpg")).read_bytes(), "path": "cat.jpg"}
text = json.dumps({"question": "How many?", "chosen": "Two cats.", "rejected": "Two dogs."})
theirs = pyarrow.table({"ds_name": ["x", "x"], "image": [image, None], "text": [text, text], "idx": [0, 1]})
pyarrow.parquet.write_table(theirs, folder / "theirs.parquet")

counts = {"rlhf-v": rlhf_v, "trl-dpo": dpo, "trl-prm": prm, "parquet": records, "label-studio": tasks}
print(", ".join(f"{len(rows)} {name}" for name, rows in counts.items()))
