"""Prints template.yaml cut down to what MiniStack can play, as JSON, ready for `sam build` and `sam deploy`.

    smoke_template.py DATABASE_URL POOLED_URL ENDPOINT

Functions, policies, the migration and the schedule stay as they are. The routes become resources of their own,
because MiniStack ignores the OpenAPI document that SAM writes them into. What goes: the network, the database
and its proxy (migrate gets DATABASE_URL instead, the others POOLED_URL), CodeDeploy, the rotation schedule, and alarms over
several metrics. Whatever pointed at something that went goes with it. The functions are told where their AWS
is, which MiniStack leaves to its user.
"""

import json
import pathlib
import platform
import re
import sys

from samtranslator.yaml_helper import yaml_parse
from stack import references

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


def plain_routes(resources):
    """The API and the events of its functions as the resources they stand for."""
    properties = resources["Api"]["Properties"]
    stage = {name: properties[name] for name in ("AccessLogSettings", "DefaultRouteSettings", "RouteSettings")}
    plain = {
        "Api": {"Type": "AWS::ApiGatewayV2::Api",
                "Properties": {"Name": properties["Name"], "ProtocolType": "HTTP"}},
        "ApiStage": {"Type": "AWS::ApiGatewayV2::Stage",
                     "Properties": {"ApiId": {"Ref": "Api"}, "StageName": "$default", "AutoDeploy": True, **stage}},
    }
    for name, resource in resources.items():
        for event, route in list(resource.get("Properties", {}).get("Events", {}).items()):
            if route["Type"] != "HttpApi":
                continue
            del resource["Properties"]["Events"][event]
            method, path = route["Properties"]["Method"], route["Properties"]["Path"]
            arn = "arn:${AWS::Partition}:execute-api:${AWS::Region}:${AWS::AccountId}:${Api}/*/"
            plain[f"{name}{event}Permission"] = {"Type": "AWS::Lambda::Permission", "Properties": {
                "Action": "lambda:InvokeFunction", "FunctionName": {"Ref": f"{name}.Alias"},
                "Principal": "apigateway.amazonaws.com",
                "SourceArn": {"Fn::Sub": arn + method + re.sub(r"\{\w+\}", "*", path)}}}
            plain[f"{name}Integration"] = {"Type": "AWS::ApiGatewayV2::Integration", "Properties": {
                "ApiId": {"Ref": "Api"}, "IntegrationType": "AWS_PROXY", "PayloadFormatVersion": "2.0",
                "IntegrationUri": {"Ref": f"{name}.Alias"}}}
            plain[f"{name}{event}Route"] = {"Type": "AWS::ApiGatewayV2::Route", "Properties": {
                "ApiId": {"Ref": "Api"}, "RouteKey": f"{method} {path}",
                "AuthorizationType": route["Properties"].get("Auth", {}).get("Authorizer", "NONE"),
                "Target": {"Fn::Sub": "integrations/${" + name + "Integration}"}}}
    return {**resources, **plain}


def by_arn(value):
    """`value` with a secret's ARN asked for by its other name: MiniStack's Ref is the secret's name."""
    if value in ({"Ref": "FunctionsDatabaseSecret"}, {"Ref": "SigningKeys"}, {"Ref": "VerifyingKeys"}):
        return {"Fn::GetAtt": [value["Ref"], "Id"]}
    if isinstance(value, list):
        return [by_arn(inner) for inner in value]
    return {key: by_arn(inner) for key, inner in value.items()} if isinstance(value, dict) else value


def playable(template, database_url, pooled_url, endpoint):
    """The template less what MiniStack does not know, its functions using this database and this AWS."""
    root = pathlib.Path.cwd()
    architecture = {"aarch64": "arm64", "x86_64": "x86_64"}[platform.machine()]
    resources = template["Resources"]
    gone = {name for name, resource in resources.items() if unplayable(resource)}

    function = template["Globals"]["Function"]
    function["Architectures"] = [architecture]
    del function["VpcConfig"], function["DeploymentPreference"]
    variables = function["Environment"]["Variables"]
    for name in [name for name in variables if name.startswith("DATABASE_")]:
        del variables[name]
    variables |= {
        "AWS_ENDPOINT_URL": endpoint,
        "DATABASE_URL": pooled_url,
    }
    for resource in resources.values():
        waits = resource.pop("DependsOn", [])
        waits = [name for name in ([waits] if isinstance(waits, str) else waits) if name not in gone]
        if waits:
            resource["DependsOn"] = waits
        if resource["Type"] != "AWS::Serverless::Function":
            continue
        properties = resource["Properties"]
        properties["CodeUri"] = str(root / properties["CodeUri"])
        for name in ("VpcConfig", "DeploymentPreference"):
            properties.pop(name, None)
        own = properties.get("Environment", {}).get("Variables", {})
        # Only migrate has a host and a user of its own: the database's, past the proxy, and the schema's owner.
        own.pop("DATABASE_SECRET_ARN", None)
        if own.pop("DATABASE_HOST", None):
            own["DATABASE_URL"] = database_url
    resources = template["Resources"] = plain_routes(resources)
    for section in ("Resources", "Outputs"):
        template[section] = {name: kept for name, kept in (
            (name, without(entry, gone)) for name, entry in template[section].items() if name not in gone)
            if kept is not GONE and (section == "Resources" or "Value" in kept)}
    assert not references(template["Resources"]) & gone
    return by_arn(template)


if __name__ == "__main__":
    with open("template.yaml", encoding="utf-8") as file:
        json.dump(playable(yaml_parse(file), *sys.argv[1:]), sys.stdout, indent=1)
