"""Prints template.yaml cut down to what MiniStack can play, as JSON, ready for `sam build` and `sam deploy`.

    smoke_template.py DATABASE_URL ENDPOINT

Routes, integrations, permissions, functions, policies, the migration and the schedule stay as they are.
What goes: the network, the database and its proxy (the functions get DATABASE_URL instead), CodeDeploy, the
rotation schedule, and alarms over several metrics. Whatever pointed at something that went goes with it.
The functions are told where their AWS is, which MiniStack leaves to its user.
"""

import json
import pathlib
import platform
import sys

from check_template import references
from samtranslator.yaml_helper import yaml_parse

UNPLAYABLE = (
    "AWS::CloudWatch::Dashboard",
    "AWS::EC2::",
    "AWS::RDS::",
    "AWS::SecretsManager::RotationSchedule",
)
# As an entry of a list or a value of a map: not there.
GONE = object()


def unplayable(resource):
    over_several = resource["Type"] == "AWS::CloudWatch::Alarm" and "Metrics" in resource["Properties"]
    return over_several or resource["Type"].startswith(UNPLAYABLE)


def without(value, gone):
    """`value` less every entry of a map or list whose own expression names one of `gone`."""
    if isinstance(value, list):
        kept = (without(inner, gone) for inner in value)
        return [inner for inner in kept if inner is not GONE]
    if not isinstance(value, dict):
        return value
    if set(value) & {"Ref", "Fn::GetAtt", "Fn::Sub", "Fn::If"}:
        return GONE if references(value) & gone else value
    kept = {key: without(inner, gone) for key, inner in value.items()}
    # A policy template that lost its only parameter grants nothing.
    if any(inner == {} and value[key] for key, inner in kept.items()):
        return GONE
    return {key: inner for key, inner in kept.items() if inner is not GONE}


def by_arn(value):
    """`value` with a secret's ARN asked for by its other name: MiniStack's Ref is the secret's name."""
    if value == {"Ref": "SigningKeys"}:
        return {"Fn::GetAtt": ["SigningKeys", "Id"]}
    if isinstance(value, list):
        return [by_arn(inner) for inner in value]
    return {key: by_arn(inner) for key, inner in value.items()} if isinstance(value, dict) else value


def playable(template, database_url, endpoint):
    """The template less what MiniStack does not know, its functions using this database and this AWS."""
    root = pathlib.Path.cwd()
    architecture = {"aarch64": "arm64", "x86_64": "x86_64"}[platform.machine()]
    resources = template["Resources"]
    gone = {name for name, resource in resources.items() if unplayable(resource)}

    function = template["Globals"]["Function"]
    function["Architectures"] = [architecture]
    del function["VpcConfig"], function["DeploymentPreference"]
    for resource in resources.values():
        waits = resource.pop("DependsOn", [])
        waits = [name for name in ([waits] if isinstance(waits, str) else waits) if name not in gone]
        if waits:
            resource["DependsOn"] = waits
        if resource["Type"] != "AWS::Serverless::Function":
            continue
        properties = resource["Properties"]
        properties["CodeUri"] = str(root / properties["CodeUri"])
        properties.pop("VpcConfig", None)
        properties.pop("DeploymentPreference", None)
        variables = properties["Environment"]["Variables"]
        settings = [name for name in variables if name.startswith("DATABASE_")]
        for name in settings:
            del variables[name]
        if settings:
            variables["DATABASE_URL"] = database_url
        variables["AWS_ENDPOINT_URL"] = endpoint
    for section in ("Resources", "Outputs"):
        template[section] = {name: kept for name, kept in (
            (name, without(entry, gone)) for name, entry in template[section].items() if name not in gone)
            if kept is not GONE and (section == "Resources" or "Value" in kept)}
    assert not references(template["Resources"]) & gone
    return by_arn(template)


if __name__ == "__main__":
    with open("template.yaml", encoding="utf-8") as file:
        json.dump(playable(yaml_parse(file), *sys.argv[1:]), sys.stdout, indent=1)
