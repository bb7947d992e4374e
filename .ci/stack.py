"""The stack that template.yaml describes, for given parameters: after the SAM transform, with conditions decided.

What only AWS knows (an ARN, a generated name) stays as the expression that asks for it.
"""

import re

from expand_template import expand

# What the pseudo parameters stand for here. A list of zones stands for the region's.
PSEUDO = {
    "AWS::AccountId": "123456789012",
    "AWS::Partition": "aws",
    "AWS::Region": "us-east-1",
    "AWS::StackName": "bakeoff",
    "AWS::URLSuffix": "amazonaws.com",
}
NO_VALUE = object()


def references(value):
    """Every logical id and parameter that `value` names, in Ref, Fn::GetAtt and Fn::Sub."""
    if isinstance(value, list):
        return set().union(*map(references, value))
    if not isinstance(value, dict):
        return set()
    found = set()
    for key, inner in value.items():
        if key == "Ref":
            found.add(inner)
        elif key == "Fn::GetAtt":
            found.add(inner[0] if isinstance(inner, list) else inner.split(".")[0])
        elif key == "Fn::Sub":
            text, local = inner if isinstance(inner, list) else (inner, {})
            found.update(name.split(".")[0] for name in re.findall(r"\$\{([^}!]+)\}", text) if name not in local)
            found |= references(list(local.values()))
        else:
            found |= references(inner)
    return found


def of_type(resources, kind):
    return {name: r for name, r in resources.items() if r["Type"] == kind}


class Stack:
    """The resources and outputs that exist for these parameters."""

    def __init__(self, **parameters):
        self.template = expand("template.yaml", parameters)
        declared = self.template["Parameters"]
        unknown = set(parameters) - set(declared)
        assert not unknown, f"no such parameters: {unknown}"
        self.parameters = {name: str(parameters.get(name, declared[name]["Default"])) for name in declared}
        self.conditions = {}
        self.resources = {
            name: {**resource, "Properties": self.value(resource.get("Properties", {}))}
            for name, resource in self.template["Resources"].items()
            if "Condition" not in resource or self.holds(resource["Condition"])
        }
        self.outputs = {
            name: self.value(output["Value"])
            for name, output in self.template["Outputs"].items()
            if "Condition" not in output or self.holds(output["Condition"])
        }

    def holds(self, condition):
        if condition not in self.conditions:
            self.conditions[condition] = self.value(self.template["Conditions"][condition])
        return self.conditions[condition]

    def of_type(self, kind):
        return of_type(self.resources, kind)

    def value(self, value):
        """`value` with every expression replaced whose result does not depend on a resource."""
        if isinstance(value, list):
            found = (self.value(inner) for inner in value)
            return [inner for inner in found if inner is not NO_VALUE]
        if not isinstance(value, dict):
            return value
        if len(value) == 1:
            (key, inner), = value.items()
            if key == "Ref":
                if inner == "AWS::NoValue":
                    return NO_VALUE
                return self.parameters.get(inner, PSEUDO.get(inner, value))
            if key == "Condition":
                return self.holds(inner)
            if key == "Fn::Equals":
                left, right = self.value(inner)
                return left == right
            if key == "Fn::Not":
                return not self.value(inner)[0]
            if key == "Fn::And":
                return all(self.value(inner))
            if key == "Fn::If":
                return self.value(inner[1] if self.holds(inner[0]) else inner[2])
            if key == "Fn::Sub":
                return self.substituted(value)
        found = {key: self.value(inner) for key, inner in value.items()}
        return {key: inner for key, inner in found.items() if inner is not NO_VALUE}

    def substituted(self, value):
        inner = value["Fn::Sub"]
        text, local = inner if isinstance(inner, list) else (inner, {})
        known = {**PSEUDO, **self.parameters, **{name: self.value(found) for name, found in local.items()}}
        open_ends = {name: found for name, found in known.items() if not isinstance(found, str)}
        text = re.sub(r"\$\{([\w:]+)\}", lambda match: known[match[1]]
                      if isinstance(known.get(match[1]), str) else match[0], text)
        if "${" not in text:
            return text
        open_ends = {name: found for name, found in open_ends.items() if "${" + name + "}" in text}
        return {"Fn::Sub": [text, open_ends] if open_ends else text}

    def closure(self, name):
        """The resources that exist before `name` does: what it names, waits for, and theirs."""
        seen, left = set(), [name]
        while left:
            resource = self.resources.get(left.pop())
            if resource is None:
                continue
            waits = resource.get("DependsOn", [])
            named = references(resource["Properties"]) | set([waits] if isinstance(waits, str) else waits)
            fresh = (named & set(self.resources)) - seen
            seen |= fresh
            left += fresh
        return seen
