"""Checks what can go wrong with the stack in an account: order, versions, limits, alarms, permissions.

    check_stack.py             run from the repository's root, with aws-sam-cli installed

The contract of the API is check_template.py's. Prints every finding and exits with 1 if there is one.
"""

import json
import pathlib
import re
import sys

from samcli.cli.types import CfnParameterOverridesType
from samcli.commands.deploy.deploy_context import DeployContext
from samcli.lib.config.samconfig import SamConfig
from stack import Stack, references

VPC = {"VpcId": "vpc-0", "SubnetIdA": "subnet-a", "SubnetIdB": "subnet-b"}
VARIANTS = {
    "default": {},
    "proxy": {"DatabaseProxy": "true", "DatabaseMultiAz": "true"},
    "smallest": {"SecretsManagerPath": "ipv6"},
    "existing VPC": {**VPC, "DatabaseProxy": "true"},
    "own domain": {"DomainName": "queue.example.org", "CertificateArn": "arn:aws:acm:::x",
                   "TrustedRootSecret": "root", "AlarmEmail": "a@example.org"},
    "restored": {"DatabaseSnapshot": "bakeoff-1", "DeployAlarms": "false", "TrafficShifting": "AllAtOnce"},
}
# Longest values of what a version's description names, in characters, where the template does not say.
LONGEST = {"Database.DbiResourceId": 29, "PrivateSubnetA": 24, "PrivateSubnetB": 24, "SubnetIdA": 24, "SubnetIdB": 24}
# Lambda's and CloudWatch's limits.
DESCRIPTION_MAX = 256
METRICS_PER_ALARM = 10
# A new account may run ten functions at once, and reserve none of them.
NEW_ACCOUNT = 10
# Functions that may read each secret. Only a signer may read the private keys.
READERS = {
    "SigningKeys": {"register", "submit", "rotate"},
    "VerifyingKeys": {"claim", "heartbeat", "release", "status", "jwks", "rotate"},
    "FunctionsDatabaseSecret": {"register", "claim", "heartbeat", "submit", "release", "status", "keys", "runs", "queue",
                                "audit", "page", "reaper", "migrate"},
    # Its owner's password, which RDS manages.
    "Database": {"migrate"},
}
MANAGED_POLICIES = {"AWSLambdaBasicExecutionRole", "AWSLambdaVPCAccessExecutionRole", "AWSXrayWriteOnlyAccess",
                    "AWSCodeDeployRoleForLambda"}
# Of https://docs.aws.amazon.com/apigateway/latest/developerguide/http-api-logging-variables.html
LOG_VARIABLES = {"requestTime", "requestId", "routeKey", "status", "identity.sourceIp", "identity.userArn",
                 "responseLatency", "integrationLatency", "responseLength", "error.message",
                 "integrationErrorMessage"}

findings = []


def check(holds, finding):
    if not holds:
        findings.append(finding)


def check_order(name, stack):
    """Nothing names a resource that these parameters leave out, and functions wait for what they need."""
    declared = set(stack.template["Resources"])
    for logical, resource in stack.resources.items():
        waits = resource.get("DependsOn", [])
        named = references(resource["Properties"]) | set([waits] if isinstance(waits, str) else waits)
        missing = (named & declared) - set(stack.resources)
        check(not missing, f"{name}: {logical} names {sorted(missing)}, which do not exist")
    network = {
        logical for logical, resource in stack.resources.items()
        if resource["Type"] in ("AWS::RDS::DBProxyTargetGroup", "AWS::EC2::VPCEndpoint", "AWS::EC2::Route",
                                "AWS::EC2::SecurityGroupIngress", "AWS::EC2::SecurityGroupEgress",
                                "AWS::EC2::SubnetRouteTableAssociation")}
    missing = network - stack.closure("Migration")
    check(not missing, f"{name}: the migration does not wait for {sorted(missing)}")
    for logical in stack.of_type("AWS::Lambda::Function"):
        # Lambda refuses to let a function use IPv6 in a subnet that has none yet.
        check("VpcIpv6" not in stack.resources or "VpcIpv6" in stack.closure(logical), f"{name}: {logical} has no IPv6")
        if logical not in ("MigrateFunction", "RotateFunction"):
            check("Migration" in stack.closure(logical), f"{name}: {logical} does not wait for the migration")
    check("Migration" in stack.closure("SigningKeyRotation"), f"{name}: the first rotation has no network yet")
    for logical in stack.of_type("AWS::Scheduler::Schedule"):
        check("Migration" in stack.closure(logical), f"{name}: {logical} starts before the migration")


def longest(stack, name):
    """The most characters that `${name}` can stand for."""
    parameter = stack.template["Parameters"].get(name)
    if parameter is None:
        return LONGEST[name]
    if name in LONGEST:
        return LONGEST[name]
    if "AllowedValues" in parameter:
        return max(len(str(value)) for value in parameter["AllowedValues"])
    if "MaxValue" in parameter:
        return len(str(parameter["MaxValue"]))
    if "MaxLength" in parameter:
        return int(parameter["MaxLength"])
    return int(re.search(r"\{0,(\d+)\}\$$", parameter["AllowedPattern"])[1])


def parameters_in(template, value):
    """The parameters that decide `value`, those of its conditions included."""
    found = references(value) & set(template["Parameters"])
    for condition in re.findall(r'"Fn::If": \["(\w+)"', json.dumps(value)):
        found |= parameters_in(template, condition_of(template, condition))
    return found


def condition_of(template, name):
    condition = template["Conditions"][name]
    inner = re.findall(r'"Condition": "(\w+)"', json.dumps(condition))
    return [condition, *(condition_of(template, other) for other in inner)]


def check_versions(stack):
    """A changed parameter makes a new version, and a description never changes without the configuration.

    The second would stop a deploy: Lambda refuses to publish an unchanged configuration twice.
    """
    template = stack.template
    for name, version in template["Resources"].items():
        if version["Type"] != "AWS::Lambda::Version":
            continue
        function = dict(template["Resources"][version["Properties"]["FunctionName"]["Ref"]]["Properties"])
        for place in ("Code", "FunctionName", "Role", "Tags"):
            function.pop(place, None)
        described = version["Properties"]["Description"]
        configured = parameters_in(template, function)
        named = parameters_in(template, described)
        replaced = {"Database", "PrivateSubnetA", "PrivateSubnetB"}
        # The stack invokes migrate's $LATEST; a version of it only makes the migration run again.
        check(configured <= named or name.startswith("MigrateFunction"),
              f"{name}: description does not name {sorted(configured - named)}")
        check(named <= configured, f"{name}: description names {sorted(named - configured)}, which configure nothing")
        if "Fn::Sub" not in described:
            check("Database" in references(described), f"{name}: description does not name the database")
            continue
        for resource in replaced & references(function):
            check(resource in references(described), f"{name}: description does not name {resource}")
        text, local = described["Fn::Sub"]
        length = len(re.sub(r"\$\{[^}]+\}", "", text))
        for placeholder in re.findall(r"\$\{([^}]+)\}", text):
            if placeholder in local:
                texts = [inner for inner in local[placeholder]["Fn::If"][1:]]
                length += max(longest(stack, inner["Ref"]) if isinstance(inner, dict) else len(inner)
                              for inner in texts)
            else:
                length += longest(stack, placeholder)
        check(length <= DESCRIPTION_MAX, f"{name}: the description may have {length} characters")


def check_alarms(stack):
    """Alarms are complete, explained on the operator's page, and none fires while there is no data."""
    page = pathlib.Path("shared/lambda/OPERATING.md").read_text(encoding="utf-8")
    for name, alarm in stack.of_type("AWS::CloudWatch::Alarm").items():
        properties = alarm["Properties"]
        wanted = {"AlarmDescription", "ComparisonOperator", "EvaluationPeriods", "OKActions", "Threshold",
                  "TreatMissingData"}
        check(wanted <= set(properties), f"{name} lacks {sorted(wanted - set(properties))}")
        check({"AlarmActions", "InsufficientDataActions"} & set(properties), f"{name} tells nobody")
        check(properties.get("TreatMissingData") != "breaching", f"{name} would fire before its first data")
        metrics = [metric for metric in properties.get("Metrics", []) if "MetricStat" in metric]
        check(len(metrics) <= METRICS_PER_ALARM, f"{name} watches {len(metrics)} metrics")
        short = name.removesuffix("Alarm")
        check(f"**{short}**" in page, f"{name} is not explained in OPERATING.md")
    groups = stack.of_type("AWS::CodeDeploy::DeploymentGroup")
    names = {json.dumps(alarm["Properties"].get("AlarmName")) for alarm in
             stack.of_type("AWS::CloudWatch::Alarm").values()}
    for name, group in groups.items():
        for alarm in group["Properties"]["AlarmConfiguration"].get("Alarms", []):
            check(json.dumps(alarm["Name"]) in names, f"{name} is rolled back by an alarm that does not exist")


def check_permissions(stack):
    """Who may read a secret, which managed policies there are, and whom AWS services are let in for."""
    for name, role in stack.of_type("AWS::IAM::Role").items():
        managed = {re.search(r"(\w+)\"?\]?\}?$", json.dumps(arn))[1] for arn in
                   role["Properties"].get("ManagedPolicyArns", [])}
        check(managed <= MANAGED_POLICIES, f"{name}: managed policies {sorted(managed - MANAGED_POLICIES)}")
        function = re.fullmatch(r"(\w+)FunctionRole", name)
        if function:
            named = references(role["Properties"].get("Policies", []))
            for secret, readers in READERS.items():
                may = function[1].lower() in readers
                check((secret in named) == may, f"{name}: {'may not' if may else 'may'} read {secret}")
        trust = json.dumps(role["Properties"]["AssumeRolePolicyDocument"])
        check("Condition" not in trust, f"{name}: the trust policy has a condition that AWS does not document")


def check_texts(stack):
    """The dashboard and the access log's format are JSON once their expressions are replaced."""
    for name, dashboard in stack.of_type("AWS::CloudWatch::Dashboard").items():
        body = dashboard["Properties"]["DashboardBody"]
        text = body["Fn::Sub"] if isinstance(body, dict) else body
        text = text[0] if isinstance(text, list) else text
        widgets = json.loads(re.sub(r"\$\{[^}]+\}", "x", text))["widgets"]
        check(len(widgets) > 5, f"{name} has few widgets")
    for name, stage in stack.of_type("AWS::ApiGatewayV2::Stage").items():
        form = stage["Properties"]["AccessLogSettings"]["Format"]
        json.loads(form)
        check("\n" not in form, f"{name}: an access log line has several lines")
        used = set(re.findall(r"\$context\.([\w.]+)", form))
        check(used <= LOG_VARIABLES, f"{name}: logs {sorted(used - LOG_VARIABLES)}")


def check_new_account(stack):
    """In a new account nothing reserves an execution, and connections suffice for every execution."""
    for name, function in stack.of_type("AWS::Lambda::Function").items():
        check("ReservedConcurrentExecutions" not in function["Properties"], f"{name} reserves executions")
    for name, alias in stack.of_type("AWS::Lambda::Alias").items():
        check("ProvisionedConcurrencyConfig" not in alias["Properties"], f"{name} provisions executions")
    # One connection each; the server keeps some for its superusers and for RDS.
    parameters = stack.resources["DatabaseParameters"]["Properties"]["Parameters"]
    check(int(parameters["max_connections"]) >= NEW_ACCOUNT + 10, "too few connections for a new account")
    if "Proxy" not in stack.resources:
        check(int(parameters["idle_session_timeout"]) > 0, "frozen functions keep their connections")
    check(stack.resources["Database"]["Properties"]["DeletionProtection"] == "false",
          "a failed first deploy cannot be rolled back")
    for name in ("SigningKeys", "VerifyingKeys"):
        policy = stack.resources[name].get("DeletionPolicy")
        check(policy == "RetainExceptOnCreate", f"{name}: a failed first deploy leaves it, or a deletion takes it")


def check_samconfig():
    """A deploy asks nothing, and what it does not name keeps its value, by SAM's own code."""
    config = SamConfig(".", "samconfig.toml")
    deploy = config.get_all(["deploy"], "parameters")
    check(deploy.get("confirm_changeset") is False, "samconfig.toml: a deploy waits for an answer")
    check(deploy["parameter_overrides"] == "file://parameters.yaml", "samconfig.toml: parameters in a tracked file")
    ignored = pathlib.Path(".gitignore").read_text(encoding="utf-8").split()
    check("/parameters.yaml" in ignored, "parameters.yaml is not ignored by Git")
    template = Stack().template
    example = CfnParameterOverridesType().convert(("file://shared/lambda/parameters.example.yaml",), None, None)
    sent = {entry["ParameterKey"]: entry for entry in DeployContext.merge_parameters(template, example)}
    for name in ("DatabaseSnapshot", "DatabaseDeletionProtection", "TrafficShifting"):
        check(sent[name].get("UsePreviousValue"), f"a deploy without {name} would reset it")
    text = pathlib.Path("shared/lambda/parameters.example.yaml").read_text(encoding="utf-8")
    offered = set(re.findall(r"(?m)^(?:# )?(\w+): ", text))
    check(offered <= set(template["Parameters"]), "shared/lambda/parameters.example.yaml names an unknown parameter")


def main():
    stacks = {name: Stack(**parameters) for name, parameters in VARIANTS.items()}
    for name, stack in stacks.items():
        check_order(name, stack)
        check_permissions(stack)
        check_texts(stack)
    check_versions(stacks["default"])
    check_alarms(stacks["default"])
    check_new_account(stacks["default"])
    check_samconfig()
    for finding in dict.fromkeys(findings):
        print(f"stack: {finding}", file=sys.stderr)
    sys.exit(1 if findings else 0)


if __name__ == "__main__":
    main()
