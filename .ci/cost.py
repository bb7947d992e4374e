"""Computes what an idle stack costs a month, from template.yaml, as the table of the operator's page.

    cost.py                    prints the table
    cost.py --check PAGE       exits with 1 unless PAGE contains it, or a sum is above its limit

List prices of us-east-1 in USD, without free tiers, as of November 2026 to the authors' knowledge. A resource of
a type that is not listed here is an error: its price must be looked up first.
"""

import pathlib
import re
import sys

from stack import Stack

HOURS = 730
INSTANCE_HOUR = {"db.t4g.micro": (0.016, 2), "db.t4g.small": (0.032, 2), "db.t4g.medium": (0.065, 2)}  # price, vCPU
DISK_GB = 0.115
PROXY_VCPU_HOUR = 0.015
ENDPOINT_HOUR = 0.01
SECRET = 0.40
DASHBOARD = 3.00
ALARM_METRIC = 0.10
CUSTOM_METRIC = 0.30
# One run of the reaper: request, 0.1 s at 0.25 GB, schedule, trace, 3 kB of log.
REAPER_RUN = 0.20e-6 + 0.1 * 0.25 * 0.0000133334 + 1.00e-6 + 5.00e-6 + 3e-6 * 0.50
# Costs nothing while nothing uses it.
FREE = {
    "AWS::ApiGatewayV2::Api", "AWS::ApiGatewayV2::ApiMapping", "AWS::ApiGatewayV2::DomainName",
    "AWS::ApiGatewayV2::Stage", "AWS::CodeDeploy::Application", "AWS::CodeDeploy::DeploymentGroup",
    "AWS::EC2::EgressOnlyInternetGateway", "AWS::EC2::Route", "AWS::EC2::RouteTable", "AWS::EC2::SecurityGroup",
    "AWS::EC2::SecurityGroupEgress", "AWS::EC2::SecurityGroupIngress", "AWS::EC2::Subnet",
    "AWS::EC2::SubnetRouteTableAssociation", "AWS::EC2::VPC", "AWS::EC2::VPCCidrBlock",
    "AWS::IAM::Role", "AWS::Lambda::Alias", "AWS::Lambda::EventInvokeConfig", "AWS::Lambda::Function",
    "AWS::Lambda::Permission", "AWS::Lambda::Version", "AWS::Logs::LogGroup", "AWS::RDS::DBParameterGroup",
    "AWS::RDS::DBProxyTargetGroup", "AWS::RDS::DBSubnetGroup", "AWS::SNS::Subscription", "AWS::SNS::Topic",
    "AWS::SQS::Queue", "AWS::SecretsManager::RotationSchedule", "Custom::Migration",
}
# The column's name, its parameters, and what a month may cost at most.
COLUMNS = {
    "default": ({}, 30),
    "smallest": ({"SecretsManagerPath": "ipv6"}, 22),
    "scaled": ({"DatabaseClass": "db.t4g.medium", "DatabaseProxy": "true", "DatabaseMultiAz": "true"}, None),
}


def alarm_metrics(alarm):
    return sum("MetricStat" in metric for metric in alarm["Properties"].get("Metrics", [])) or 1


def idle_metrics():
    """The metrics that the reaper publishes every minute, with or without jobs."""
    code = pathlib.Path("functions/reaper/src/main.rs").read_text(encoding="utf-8")
    return len(set(re.findall(r'Metric::gauge\(\s*"(\w+)"', code)))


def month(stack):
    """What each part of the stack costs a month: (label, arithmetic, USD)."""
    unpriced = {resource["Type"] for resource in stack.resources.values()} - FREE - {
        "AWS::CloudWatch::Alarm", "AWS::CloudWatch::Dashboard", "AWS::EC2::VPCEndpoint", "AWS::RDS::DBInstance",
        "AWS::RDS::DBProxy", "AWS::Scheduler::Schedule", "AWS::SecretsManager::Secret"}
    if unpriced:
        sys.exit(f"cost: what do these cost? {sorted(unpriced)}")
    if "DetailedMetricsEnabled" in str(stack.resources):
        sys.exit("cost: route metrics are 6 custom metrics for every route in use")
    (database,) = (resource["Properties"] for resource in stack.of_type("AWS::RDS::DBInstance").values())
    price, cpus = INSTANCE_HOUR[database["DBInstanceClass"]]
    copies = 2 if database["MultiAZ"] == "true" else 1
    zones = sum(len(endpoint["Properties"]["SubnetIds"])
                for endpoint in stack.of_type("AWS::EC2::VPCEndpoint").values()
                if endpoint["Properties"]["VpcEndpointType"] == "Interface")
    proxies = len(stack.of_type("AWS::RDS::DBProxy"))
    # Beside the stack's own: RDS keeps the master password in one.
    secrets = len(stack.of_type("AWS::SecretsManager::Secret")) + 1
    metrics = sum(map(alarm_metrics, stack.of_type("AWS::CloudWatch::Alarm").values()))
    schedules = [resource["Properties"]["ScheduleExpression"]
                 for resource in stack.of_type("AWS::Scheduler::Schedule").values()]
    assert schedules == ["rate(1 minute)"], schedules
    runs = HOURS * 60
    rows = [
        ("database instance", f"{copies} × {HOURS} h × {price}", copies * HOURS * price),
        ("its disk, gp3", f"{copies} × {database['AllocatedStorage']} GB × {DISK_GB}",
         copies * int(database["AllocatedStorage"]) * DISK_GB),
        ("RDS Proxy", f"{HOURS} h × {max(cpus, 2)} vCPU × {PROXY_VCPU_HOUR}",
         proxies * HOURS * max(cpus, 2) * PROXY_VCPU_HOUR),
        ("Secrets Manager endpoint", f"{zones} zone × {HOURS} h × {ENDPOINT_HOUR}", zones * HOURS * ENDPOINT_HOUR),
        ("secrets", f"{secrets} × {SECRET:.2f}", secrets * SECRET),
        ("dashboard", f"1 × {DASHBOARD:.2f}", len(stack.of_type("AWS::CloudWatch::Dashboard")) * DASHBOARD),
        ("alarms", f"{metrics} metrics × {ALARM_METRIC:.2f}", metrics * ALARM_METRIC),
        ("the reaper's metrics", f"{idle_metrics()} × {CUSTOM_METRIC:.2f}", idle_metrics() * CUSTOM_METRIC),
        ("the reaper's runs", f"{runs} × {REAPER_RUN * 1e6:.2f} / million", runs * REAPER_RUN),
    ]
    return [(label, how if cost else "", cost) for label, how, cost in rows]


def table():
    columns = {name: month(Stack(**parameters)) for name, (parameters, _) in COLUMNS.items()}
    lines = [f"| per month | {' | '.join(columns)} | arithmetic, default |", f"|---|{'---:|' * len(columns)}---|"]
    for index, (label, how, _) in enumerate(columns["default"]):
        costs = [rows[index][2] for rows in columns.values()]
        shown = " | ".join(f"{cost:.2f}" if cost else "–" for cost in costs)
        lines.append(f"| {label} | {shown} | {how} |")
    sums = {name: sum(cost for _, _, cost in rows) for name, rows in columns.items()}
    lines.append(f"| **sum** | {' | '.join(f'**{total:.2f}**' for total in sums.values())} | |")
    for name, (_, limit) in COLUMNS.items():
        if limit is not None and sums[name] > limit:
            sys.exit(f"cost: an idle stack ({name}) costs {sums[name]:.2f} USD a month, more than {limit}")
    return "\n".join(lines)


if __name__ == "__main__":
    computed = table()
    if sys.argv[1:2] != ["--check"]:
        print(computed)
    elif computed not in pathlib.Path(sys.argv[2]).read_text(encoding="utf-8"):
        sys.exit(f"cost: {sys.argv[2]} does not contain the table that follows from the template:\n{computed}")
