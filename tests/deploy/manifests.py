"""Reads manifests for the tests of deploy/.

    manifests.py json            prints the YAML documents of the input as a JSON list
    manifests.py check VERSION   checks a JSON list of Kubernetes objects against the schemas of a version, strictly
"""

import json
import sys

import kubernetes_validate
import yaml


class Loader(yaml.SafeLoader):
    """Refuses a key that stands twice, of which PyYAML takes the last one."""

    def construct_mapping(self, node, deep=False):
        keys = [self.construct_object(key, deep=deep) for key, _ in node.value]
        for key in keys:
            if keys.count(key) > 1:
                raise yaml.constructor.ConstructorError(None, None, f"the key {key} stands twice", node.start_mark)
        return super().construct_mapping(node, deep=deep)


def main():
    if sys.argv[1] == "json":
        json.dump(list(yaml.load_all(sys.stdin, Loader)), sys.stdout)
        return
    for thing in json.load(sys.stdin):
        try:
            kubernetes_validate.validate(thing, sys.argv[2], strict=True)
        except kubernetes_validate.ValidationError as error:
            name = f"{thing.get('kind')} {thing.get('metadata', {}).get('name')}"
            where = ".".join(str(part) for part in error.path)
            sys.exit(f"{name}: {where}: {error.message}")


main()
