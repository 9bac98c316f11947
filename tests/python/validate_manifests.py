"""Holds Kubernetes resources against Kubernetes' own schemas, strictly: no field that they do not have.

argv: versions of Kubernetes. stdin: YAML of several documents. stdout: a line per refusal; the number of those held at last.
"""

import sys

import kubernetes_validate
import yaml

documents = [document for document in yaml.safe_load_all(sys.stdin) if document]
resources = [item for document in documents for item in (document["items"] if document["kind"] == "List" else [document])]
for version in sys.argv[1:]:
    for resource in resources:
        try:
            kubernetes_validate.validate(resource, version, strict=True)
        except kubernetes_validate.ValidationError as refusal:
            where = ".".join(str(step) for step in refusal.path)
            print(f"{version} {resource['kind']}/{resource['metadata']['name']}: {where}: {refusal.message[:300]}")
print(f"held {len(resources)}")
