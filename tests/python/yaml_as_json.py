"""Prints the documents of a YAML text as one JSON list."""

import json
import sys

import yaml

print(json.dumps(list(yaml.safe_load_all(sys.stdin))))
