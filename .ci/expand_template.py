"""Prints template.yaml as CloudFormation gets to see it, after the SAM transform, as JSON.

    expand_template.py TEMPLATE [PARAMETER=VALUE …]

The linters look at both forms: a circle between the API and its functions shows only in this one.
"""

import json
import logging
import os
import sys

os.environ.setdefault("AWS_DEFAULT_REGION", "us-east-1")

from samtranslator.translator.transform import transform  # noqa: E402  (boto3 wants its region first)
from samtranslator.yaml_helper import yaml_parse  # noqa: E402


class NoManagedPolicies:
    """Stands for IAM's list of managed policies: the template names none by its short name."""

    def load(self):
        return {}


def expand(path, parameters):
    """Expands the template at `path`; each function's code is given a place in an imaginary bucket."""
    with open(path, encoding="utf-8") as file:
        template = yaml_parse(file)
    for name, resource in template["Resources"].items():
        if resource["Type"] == "AWS::Serverless::Function":
            resource["Properties"]["CodeUri"] = f"s3://bucket/{name}"
    logging.getLogger("samtranslator").setLevel(logging.ERROR)
    return transform(template, parameters, NoManagedPolicies())


if __name__ == "__main__":
    given = dict(argument.split("=", 1) for argument in sys.argv[2:])
    json.dump(expand(sys.argv[1], given), sys.stdout, indent=1)
