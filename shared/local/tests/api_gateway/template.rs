//! Reading functions and routes from the template, and matching of routes as in HTTP APIs.

use std::collections::BTreeSet;
use std::time::Duration;

use bakeoff_local::api_gateway::route::{Route, find};
use bakeoff_local::api_gateway::template::Template;
use serde_json::Value;

const TEMPLATE: &str = "
Globals:
  Function: {Timeout: 10, MemorySize: !Ref Memory}
Parameters:
  Memory: {Type: Number, Default: 256}
Resources:
  KeysFunction:
    Type: AWS::Serverless::Function
    Metadata: {BuildMethod: rust-cargolambda, BuildProperties: {Binary: keys}}
    Properties:
      CodeUri: .
      FunctionName: !Sub '${AWS::StackName}-keys'
      Timeout: 20
      Events:
        List:
          Type: HttpApi
          Properties: {ApiId: !Ref Api, Method: get, Path: /api/admin/keys, Auth: {Authorizer: AWS_IAM}}
        Revoke:
          Type: HttpApi
          Properties: {Method: DELETE, Path: '/api/admin/keys/{key_id}', Auth: {Authorizer: AWS_IAM}}
        Nightly: {Type: Schedule, Properties: {Schedule: rate(1 day)}}
  ClaimFunction:
    Type: AWS::Serverless::Function
    Properties: {CodeUri: functions/claim/}
  ClaimIntegration:
    Type: AWS::ApiGatewayV2::Integration
    Properties: {IntegrationUri: !Ref ClaimFunction.Alias}
  ClaimRoute:
    Type: AWS::ApiGatewayV2::Route
    Properties:
      RouteKey: POST /api/queue/claim
      AuthorizationType: NONE
      Target: !Sub 'integrations/${ClaimIntegration}'
  ReaperFunction:
    Type: AWS::Serverless::Function
    Properties: {CodeUri: .}
";

#[test]
fn functions_and_both_kinds_of_routes_are_read() {
    let template = Template::parse(TEMPLATE).unwrap();
    let functions: Vec<_> =
        template.functions.iter().map(|f| (f.name.as_str(), f.timeout.as_secs(), f.memory_mb)).collect();
    assert_eq!(functions, [("keys", 20, 256), ("claim", 10, 256), ("reaper", 10, 256)]);
    let routes: Vec<_> = template.routes.iter().map(|r| (r.key(), r.function.as_str(), r.iam)).collect();
    assert_eq!(
        routes,
        [
            ("GET /api/admin/keys".to_owned(), "keys", true),
            ("DELETE /api/admin/keys/{key_id}".to_owned(), "keys", true),
            ("POST /api/queue/claim".to_owned(), "claim", false),
        ]
    );
}

#[test]
fn a_route_without_a_function_is_an_error() {
    let invalid = TEMPLATE.replace("integrations/${ClaimIntegration}", "integrations/${Lost}");
    assert!(Template::parse(&invalid).unwrap_err().to_string().contains("ClaimRoute"));
    assert!(Template::parse("a: [").is_err());
}

#[test]
fn the_projects_template_is_read() {
    let root = bakeoff_local::workspace::root().unwrap();
    let template = Template::read(&root.join("template.yaml")).unwrap();
    let keys: Vec<String> = template.routes.iter().map(Route::key).collect();
    for route in ["POST /api/runners/register", "POST /api/queue/{run_id}/submit", "GET /api/jwks.json"] {
        assert!(keys.iter().any(|key| key == route), "{route} is not among {keys:?}");
    }
    assert!(template.routes.iter().all(|route| route.iam == route.key().contains("/api/admin/")));
    assert!(template.functions.iter().all(|function| function.timeout <= Duration::from_secs(900)));
}

/// Folders, template and sample events each list the functions; all three lists must agree.
#[test]
fn folders_template_and_sample_events_agree() {
    let root = bakeoff_local::workspace::root().unwrap();
    let names = |folder: &str| -> BTreeSet<String> {
        let entries = std::fs::read_dir(root.join(folder)).unwrap();
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    };
    let template = Template::read(&root.join("template.yaml")).unwrap();
    let functions: BTreeSet<String> = template.functions.into_iter().map(|function| function.name).collect();
    assert_eq!(names("functions"), functions);

    let mut with_event = BTreeSet::new();
    let mut routes = BTreeSet::new();
    for name in names("events") {
        let event: Value =
            serde_json::from_str(&std::fs::read_to_string(root.join("events").join(&name)).unwrap()).unwrap();
        let function = name.trim_end_matches(".json").split('-').next().unwrap().to_owned();
        if let Some(route) = event["routeKey"].as_str() {
            let iam = event.pointer("/requestContext/authorizer/iam").is_some();
            routes.insert((route.to_owned(), function.clone(), iam));
        }
        with_event.insert(function);
    }
    assert_eq!(with_event, functions);
    let served = template.routes.into_iter().map(|route| (route.key(), route.function, route.iam));
    assert_eq!(routes, served.collect());
}

fn routes() -> Vec<Route> {
    [
        "ANY /{proxy+}",
        "POST /api/queue/{run_id}",
        "POST /api/queue/claim",
        "ANY /api/queue/claim",
        "GET /api/queue/{run_id}",
        "POST /api/queue/{run_id}/submit",
        "GET /api/{part}/claim",
    ]
    .map(|key| key.split_once(' ').unwrap())
    .map(|(method, path)| Route::new(method, path, "f", false).unwrap())
    .into()
}

fn find_route(method: &str, path: &str) -> Option<(String, Vec<String>)> {
    let routes = routes();
    let route_match = find(&routes, method, path)?;
    Some((route_match.route.key(), route_match.parameters.into_iter().map(|(_, value)| value).collect()))
}

#[test]
fn the_most_specific_route_wins_in_any_order() {
    let assert_route = |method, path, key: &str, values: &[&str]| {
        let values = values.iter().map(|&value| value.to_owned()).collect();
        assert_eq!(find_route(method, path), Some((key.to_owned(), values)), "{method} {path}");
    };
    assert_route("POST", "/api/queue/claim", "POST /api/queue/claim", &[]);
    assert_route("PUT", "/api/queue/claim", "ANY /api/queue/claim", &[]);
    assert_route("GET", "/api/queue/claim", "ANY /api/queue/claim", &[]);
    assert_route("GET", "/api/queue/r%2F1", "GET /api/queue/{run_id}", &["r/1"]);
    assert_route("POST", "/api/queue/claim/submit", "POST /api/queue/{run_id}/submit", &["claim"]);
    assert_route("GET", "/api/other/claim", "GET /api/{part}/claim", &["other"]);
    assert_route("GET", "/a/b/c", "ANY /{proxy+}", &["a/b/c"]);
}

#[test]
fn an_empty_variable_or_extra_segments_match_no_route() {
    let routes = &routes()[1..];
    for path in ["/api/queue/", "/api/queue", "/api/queue/r/submit/", "/api/queue//submit", "/"] {
        assert_eq!(find(routes, "POST", path), None, "{path}");
    }
}
