"""Holds documents against a JSON Schema: {"schema": …, "documents": [[name, document], …]} on stdin, one line per refusal."""

import json
import sys

import fastjsonschema

question = json.load(sys.stdin)
validate = fastjsonschema.compile(question["schema"])
for name, document in question["documents"]:
    try:
        validate(document)
    except fastjsonschema.JsonSchemaValueException as refusal:
        print(f"{name}: {str(refusal).splitlines()[0][:300]}")
