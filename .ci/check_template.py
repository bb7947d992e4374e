"""Holds the template to the contract, the functions, their sample events and their settings.

    check_template.py          run from the repository's root, with aws-sam-translator installed

Prints every finding and exits with 1 if there is one.
"""

import json
import pathlib
import re
import sys

from expand_template import expand
from stack import of_type
from samtranslator.yaml_helper import yaml_parse

# The HTTP contract: route → function. Admin routes are the ones under /api/admin/.
CONTRACT = {
    "POST /api/runners/register": "register",
    "POST /api/queue/claim": "claim",
    "POST /api/queue/{run_id}/heartbeat": "heartbeat",
    "POST /api/queue/{run_id}/submit": "submit",
    "POST /api/queue/{run_id}/release": "release",
    "GET /api/queue/{run_id}": "status",
    "GET /api/jwks.json": "jwks",
    "GET /api/admin/keys": "keys",
    "POST /api/admin/keys": "keys",
    "DELETE /api/admin/keys/{key_id}": "keys",
    "POST /api/admin/runs": "runs",
    "GET /api/admin/runs": "runs",
    "POST /api/admin/runs/{run_id}/cancel": "runs",
    "POST /api/admin/runs/{run_id}/requeue": "runs",
    "POST /api/admin/runs/{run_id}/priority": "runs",
    "GET /api/admin/runs/{run_id}": "runs",
    "GET /api/admin/runs/{run_id}/files/{name}": "runs",
    "GET /api/admin/queue": "queue",
    "GET /api/admin/audit": "audit",
    "GET /": "page",
    "GET /api/queue": "page",
    "GET /api/openapi.json": "page",
}
BEHIND_NO_ROUTE = {"reaper", "migrate", "rotate"}
# Read by the functions in Rust but set by whoever runs them outside the cloud.
LOCAL_SETTINGS = {"DATABASE_PORT", "DATABASE_URL", "SIGNING_KEYS_FILE", "TRUSTED_ROOT_FILE"}
# Of the queue's own metrics: each stack has its own.
NAMESPACE = "Bakeoff/${AWS::StackName}"
SETTING = re.compile(r'"((?:DATABASE|HEARTBEAT|LEASE|PUBLIC|REQUIRE|SIGNING|TOKEN|TRUSTED|VERIFYING)_[A-Z_]+)"')

findings = []


def check(holds, finding):
    if not holds:
        findings.append(finding)


def same(found, expected, what):
    found, expected = set(found), set(expected)
    missing, surplus = sorted(expected - found), sorted(found - expected)
    check(not missing and not surplus, f"{what}: missing {missing}, too many {surplus}")


def check_routes(written, expanded):
    """Routes, their functions, their authorization and the permission to call them are the contract's."""
    functions = of_type(written["Resources"], "AWS::Serverless::Function")
    resources = expanded["Resources"]
    aliases = of_type(resources, "AWS::Lambda::Alias")
    permitted = {
        (permission["Properties"]["FunctionName"]["Ref"],
         permission["Properties"]["SourceArn"]["Fn::Sub"][0].split("${__ApiId__}/${__Stage__}/")[1])
        for permission in of_type(resources, "AWS::Lambda::Permission").values()
        if permission["Properties"]["Principal"] == "apigateway.amazonaws.com"}
    (api,) = of_type(resources, "AWS::ApiGatewayV2::Api").values()
    body = api["Properties"]["Body"]
    scheme = body["components"]["securitySchemes"]["AWS_IAM"]["x-amazon-apigateway-authtype"]
    check(scheme == "awsSigv4", "the authorizer AWS_IAM does not check signatures")
    check("security" not in body, "the API has a default authorizer")
    found, called = {}, set()
    for path, methods in body["paths"].items():
        for method, route in methods.items():
            key = f"{method.upper()} {path}"
            integration = route["x-amazon-apigateway-integration"]
            alias = re.search(r"\$\{(\w+)\}/invocations$", integration["uri"]["Fn::Sub"])[1]
            function = functions[aliases[alias]["Properties"]["FunctionName"]["Ref"]]
            found[key] = function["Metadata"]["BuildProperties"]["Binary"]
            check(integration["payloadFormatVersion"] == "2.0", f"{key}: payload format")
            wanted = [{"AWS_IAM": []}] if "/api/admin/" in key else None
            check(route.get("security") == wanted, f"{key}: authorization is not {wanted}")
            called.add((alias, method.upper() + re.sub(r"\{\w+\}", "*", path)))
    same(found.items(), CONTRACT.items(), "routes and their functions")
    same(permitted, called, "permissions of the API to call functions")

    (stage,) = of_type(resources, "AWS::ApiGatewayV2::Stage").values()
    throttled = set(stage["Properties"]["RouteSettings"])
    check(throttled <= set(CONTRACT), f"throttled, but no routes: {throttled - set(CONTRACT)}")
    for action in ("claim", "{run_id}/heartbeat", "{run_id}/submit", "{run_id}/release"):
        check(f"POST /api/queue/{action}" in throttled, f"{action} has no bucket of its own")


def check_functions(written):
    """One function per folder, per binary, per name."""
    names = set()
    for logical, function in of_type(written["Resources"], "AWS::Serverless::Function").items():
        binary = function["Metadata"]["BuildProperties"]["Binary"]
        names.add(binary)
        check(logical == f"{binary.capitalize()}Function", f"{logical} builds {binary}")
        check(function["Properties"]["CodeUri"] == f"functions/{binary}", f"{logical} builds another folder")
        check(function["Properties"]["FunctionName"]["Fn::Sub"] == "${AWS::StackName}-" + binary,
              f"{logical} is not named after its binary")
    same(names, set(CONTRACT.values()) | BEHIND_NO_ROUTE, "functions of the template")
    folders = (path.parent.name for path in pathlib.Path("functions").glob("*/Cargo.toml"))
    same(folders, names, "folders in functions/")


def check_events():
    """Every route has a sample event, and every event fits the function it is for."""
    routes = set()
    for path in sorted(pathlib.Path("events").glob("*.json")):
        event = json.loads(path.read_text(encoding="utf-8"))
        function = path.stem.split("-")[0]
        check(function in set(CONTRACT.values()) | BEHIND_NO_ROUTE, f"{path}: no such function")
        key = event.get("routeKey")
        if key is None:
            continue
        routes.add(key)
        check(CONTRACT.get(key) == function, f"{path}: {key} is not a route of {function}")
        signed = "iam" in event["requestContext"].get("authorizer", {})
        check(signed == ("/api/admin/" in key), f"{path}: an IAM context too many or too few")
    same(routes, CONTRACT, "routes with a sample event")


def check_description():
    """The OpenAPI description has the contract's routes."""
    routes = set()
    for part in pathlib.Path("functions/page/openapi").glob("*.json"):
        for path, operations in json.loads(part.read_text(encoding="utf-8")).get("paths", {}).items():
            routes.update(f"{method.upper()} {path}" for method in operations)
    same(routes, CONTRACT, "routes of the OpenAPI description")


def check_policies(expanded):
    """No action and no resource is a wildcard in the policies that are ours."""
    for name, role in of_type(expanded["Resources"], "AWS::IAM::Role").items():
        text = json.dumps(role["Properties"].get("Policies", []))
        check('"*"' not in text, f"{name}: a policy names every resource")
        check(not re.search(r'"[a-z0-9]+:\*"', text), f"{name}: a policy allows every action")


def rust_sources():
    """What runs in the functions, without tests and local tools."""
    for folder in ("functions", "shared/attestation", "shared/core", "shared/lambda"):
        yield from pathlib.Path(folder).rglob("src/**/*.rs")


def check_settings(written):
    """The variables the code reads are the variables the template sets."""
    read = set().union(*(SETTING.findall(path.read_text(encoding="utf-8")) for path in rust_sources()))
    read -= LOCAL_SETTINGS
    put = set(written["Globals"]["Function"]["Environment"]["Variables"]).union(*(
        function["Properties"].get("Environment", {}).get("Variables", {})
        for function in of_type(written["Resources"], "AWS::Serverless::Function").values()))
    same(put, read, "environment variables")


def check_metrics(expanded):
    """What the alarms and the dashboard look at is published by the code."""
    watched = set()
    for alarm in of_type(expanded["Resources"], "AWS::CloudWatch::Alarm").values():
        properties = alarm["Properties"]
        metrics = [m["MetricStat"]["Metric"] for m in properties.get("Metrics", []) if "MetricStat" in m]
        for metric in metrics or [properties]:
            if metric["Namespace"] == {"Fn::Sub": NAMESPACE}:
                watched.add(metric["MetricName"])
                watched.update(dimension["Value"] for dimension in metric.get("Dimensions", []))
    for dashboard in of_type(expanded["Resources"], "AWS::CloudWatch::Dashboard").values():
        body = dashboard["Properties"]["DashboardBody"]["Fn::Sub"]
        ours = re.escape(NAMESPACE)
        watched.update(re.findall(rf'"{ours}", "(\w+)"|"{ours}\\",\w+}} MetricName=\\"(\w+)', body))
    watched = {name for entry in watched for name in ([entry] if isinstance(entry, str) else entry) if name}
    check(len(watched) > 8, f"few metrics are watched: {sorted(watched, key=str)}")
    code = "".join(path.read_text(encoding="utf-8") for path in rust_sources())
    unpublished = sorted(name for name in watched if f'"{name}"' not in code)
    check(not unpublished, f"watched but never published: {unpublished}")


def main():
    with open("template.yaml", encoding="utf-8") as file:
        written = yaml_parse(file)
    expanded = expand("template.yaml", {})
    check_routes(written, expanded)
    check_functions(written)
    check_events()
    check_description()
    check_policies(expanded)
    check_settings(written)
    check_metrics(expanded)
    for finding in findings:
        print(f"template: {finding}", file=sys.stderr)
    sys.exit(1 if findings else 0)


if __name__ == "__main__":
    main()
