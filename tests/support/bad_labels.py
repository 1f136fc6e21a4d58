"""Files of labels that a stranger may import into a job, whose classes are 0, 1 and 2; SAMPLE stands for one of its ids."""

import json
from typing import Any

__all__ = ["LABELS"]


def _task(**changes: Any) -> bytes:
    """A task of Label Studio with one annotation, changed."""
    task = {"id": 1, "data": {"ssld_id": "zzz"}, "annotations": [_annotation()]}
    return json.dumps([task | changes]).encode()


def _annotation(choices: Any = ("0",), **changes: Any) -> dict[str, Any]:
    return {"result": [{"value": {"choices": choices}}]} | changes


def _answer(**changes: Any) -> bytes:
    """An answer of Prodigy, changed."""
    return json.dumps({"answer": "accept", "meta": {"id": "zzz"}, "accept": ["0"]} | changes).encode()


# Name of a file: its content.
LABELS = {
    "empty.json": b"",
    "empty.jsonl": b"",
    "blank.jsonl": b"\n \n\n",
    "cut.json": b'[{"data": {"ssld_id": "a"',
    "cut.jsonl": b'{"id": "a", "label": "0"}\n{"id": "b", "lab',
    "two.jsonl": b'{"id": "a", "label": "0"}{"id": "b", "label": "0"}\n',
    "comma.jsonl": b'{"id": "a", "label": "0"},\n',
    "array.jsonl": b'[{"id": "a", "label": "0"}]\n',
    "number.jsonl": b"5\n",
    "text.jsonl": b'"a"\n',
    "null.jsonl": b"null\n",
    "latin1.jsonl": b'{"id": "caf\xe9", "label": "0"}\n',
    "utf16.json": "[]".encode("utf-16"),
    "nan.jsonl": b'{"id": "a", "label": NaN}\n',
    "digits.jsonl": b'{"id": ' + b"9" * 5000 + b', "label": "0"}\n',
    "deep.json": b"[" * 100_000,
    "object.json": b'{"tasks": []}',
    "coco.json": b'{"images": [], "annotations": [], "categories": []}',
    "null.json": b"null",
    "numbers.json": b"[1, 2]",
    "nested.json": b"[[]]",
    "no-id.jsonl": b'{"label": "0"}\n',
    "no-label.jsonl": b'{"id": "a"}\n',
    "other-keys.jsonl": b'{"image": "a.png", "class": "0"}\n',
    "id-list.jsonl": b'{"id": ["a"], "label": "0"}\n',
    "id-null.jsonl": b'{"id": null, "label": "0"}\n',
    "label-list.jsonl": b'{"id": "a", "label": ["0"]}\n',
    "label-half.jsonl": b'{"id": "a", "label": 0.5}\n',
    "label-true.jsonl": b'{"id": "a", "label": true}\n',
    "annotator.jsonl": b'{"id": "a", "label": "0", "annotator": {}}\n',
    "surrogate.jsonl": b'{"id": "\\ud800", "label": "0"}\n',
    "nul.jsonl": b'{"id": "a\\u0000b", "label": "0"}\n',
    "long.jsonl": json.dumps({"id": "n" * 20_000, "label": "0"}).encode(),
    "unknown.jsonl": b'{"id": "zzz", "label": "0"}\n',
    "answer.jsonl": _answer(answer="maybe"),
    "answer-number.jsonl": _answer(answer=1),
    "no-meta.jsonl": _answer(meta=None),
    "meta-text.jsonl": _answer(meta="zzz"),
    "meta-empty.jsonl": _answer(meta={}),
    "accept-text.jsonl": _answer(accept="0"),
    "accept-two.jsonl": _answer(accept=["0", "1"]),
    "accept-number.jsonl": _answer(accept=[[0]]),
    "no-data.json": _task(data=None),
    "data-list.json": _task(data=[]),
    "data-text.json": _task(data="zzz"),
    "no-sample.json": _task(data={"image": "a.png"}),
    "sample-list.json": _task(data={"ssld_id": ["a"]}),
    "task-number.json": _task(id=[1]),
    "annotations-object.json": _task(annotations={}),
    "annotations-number.json": _task(annotations=[5]),
    "result-number.json": _task(annotations=[_annotation(result=5)]),
    "result-item.json": _task(annotations=[_annotation(result=[5])]),
    "value-text.json": _task(annotations=[_annotation(result=[{"value": "0"}])]),
    "choices-text.json": _task(annotations=[_annotation("0")]),
    "choices-null.json": _task(annotations=[_annotation([None])]),
    "choices-two.json": _task(annotations=[_annotation(["0", "1"])]),
    "cancelled.json": _task(annotations=[_annotation(was_cancelled="no")]),
    "by-list.json": _task(annotations=[_annotation(completed_by=[])]),
    "by-mail.json": _task(annotations=[_annotation(completed_by={"email": 5})]),
    "unknown.json": _task(),
    "no-columns.tsv": b"id label\na 0\n",
    "twice.csv": b"id,label,id\na,0,a\n",
    "class.jsonl": b'{"id": "SAMPLE", "label": "zero"}\n',
    "class-control.jsonl": b'{"id": "SAMPLE", "label": "ze\\u0007ro"}\n',
    "class-space.jsonl": b'{"id": "SAMPLE", "label": " zero"}\n',
    "class-blank.jsonl": b'{"id": "SAMPLE", "label": " "}\n',
    "contradiction.jsonl": b'{"id": "SAMPLE", "label": "0"}\n{"id": "SAMPLE", "label": "1"}\n',
    "contradiction.csv": b"id,label\nSAMPLE,0\nSAMPLE,1\n",
    "one-of-two.jsonl": b'{"id": "SAMPLE", "label": "0"}\n{"id": "zzz", "label": "0"}\n',
    "annotator-nul.jsonl": b'{"id": "SAMPLE", "label": "0", "annotator": "a\\u0000b"}\n',
    "file-path.csv": b"path,label\nphotos/SAMPLE,0\n",
}
