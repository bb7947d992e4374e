//! Reads functions and routes from `template.yaml`, so that the local stack needs no second list of them.
//!
//! Reads SAM functions with their `HttpApi` events, and `AWS::ApiGatewayV2::Route` and `Integration`
//! resources. Ignores values that only CloudFormation can resolve (`!GetAtt`, `!If`, …). A `!Ref` to a
//! parameter resolves to the parameter's default.

use std::path::Path;
use std::time::Duration;

use saphyr::{LoadableYamlNode, Yaml};

use crate::api_gateway::route::Route;
use crate::error::{Error, ErrorContext, Result};

/// A function of the template.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Function {
    /// Name of its binary and package: `Metadata.BuildProperties.Binary`, else the last part of `CodeUri`,
    /// else the resource's name without `Function`.
    pub name: String,
    /// Time limit of an invocation.
    pub timeout: Duration,
    /// `MemorySize` in MB; passed to the function but not enforced.
    pub memory_mb: u32,
}

/// The functions and routes of a template.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Template {
    /// Functions in the template's order.
    pub functions: Vec<Function>,
    /// Routes in the template's order; `Route::function` is a name in `functions`.
    pub routes: Vec<Route>,
}

impl Template {
    /// Reads `template.yaml`.
    ///
    /// # Errors
    /// If the file cannot be read or parsed, or a route has no function.
    pub fn read(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).context(format!("read {}", path.display()))?;
        Self::parse(&text).map_err(|error| Error::Failed(format!("{}: {error}", path.display())))
    }

    /// Parses the text of a template.
    ///
    /// # Errors
    /// If the text cannot be parsed, or a route has no function.
    pub fn parse(text: &str) -> Result<Self> {
        let documents = Yaml::load_from_str(text).map_err(|error| Error::Failed(error.to_string()))?;
        let root = documents.first().ok_or_else(|| Error::Failed("the template is empty".into()))?;
        let source = Source { root };
        let mut routes = Vec::new();
        for (id, function) in source.resources("AWS::Serverless::Function") {
            routes.extend(event_routes(&source.name(id, function), function)?);
        }
        for (id, route) in source.resources("AWS::ApiGatewayV2::Route") {
            routes.push(source.route_resource(id, route)?);
        }
        let functions = source.resources("AWS::Serverless::Function");
        let functions = functions.map(|(id, function)| source.function(id, function)).collect();
        Ok(Self { functions, routes })
    }
}

/// The template's YAML, with lookups across resources.
struct Source<'a> {
    root: &'a Yaml<'a>,
}

impl<'a> Source<'a> {
    fn resources(&self, of_type: &'static str) -> impl Iterator<Item = (&'a str, &'a Yaml<'a>)> + use<'a> {
        entries(get(self.root, &["Resources"]))
            .filter(move |(_, resource)| text(resource, &["Type"]).is_some_and(|found| found == of_type))
    }

    fn function(&self, id: &str, function: &Yaml) -> Function {
        let number = |property| {
            let own = get(function, &["Properties", property]);
            let global = || get(self.root, &["Globals", "Function", property]);
            own.or_else(global).and_then(|value| self.number(value))
        };
        Function {
            name: self.name(id, function),
            timeout: Duration::from_secs(number("Timeout").unwrap_or(30).into()),
            memory_mb: number("MemorySize").unwrap_or(128),
        }
    }

    fn name(&self, id: &str, function: &Yaml) -> String {
        let folder = || {
            let (_, last) =
                text(function, &["Properties", "CodeUri"])?.trim_end_matches('/').rsplit_once('/')?;
            Some(last)
        };
        text(function, &["Metadata", "BuildProperties", "Binary"])
            .or_else(folder)
            .map_or_else(|| id.trim_end_matches("Function").to_lowercase(), str::to_owned)
    }

    /// Returns a literal number, or the default of the parameter that `value` references.
    fn number(&self, value: &Yaml) -> Option<u32> {
        let parameter = || {
            let name = ref_name(value)?;
            let default = get(self.root, &["Parameters", name, "Default"])?;
            default.as_integer().or_else(|| default.as_str()?.parse().ok())
        };
        value.as_integer().or_else(parameter).and_then(|number| number.try_into().ok())
    }

    /// Resolves a route resource: its target names the integration, whose URI names the function.
    fn route_resource(&self, id: &str, route: &Yaml) -> Result<Route> {
        let no_function = || Error::Failed(format!("the route {id} does not resolve to a function"));
        let key = text(route, &["Properties", "RouteKey"]).ok_or_else(no_function)?;
        let (method, path) = key.split_once(' ').ok_or_else(no_function)?;
        let target = get(route, &["Properties", "Target"]);
        let (_, integration) =
            self.find_resource_in(target, "AWS::ApiGatewayV2::Integration").ok_or_else(no_function)?;
        let uri = get(integration, &["Properties", "IntegrationUri"]);
        let (id, function) =
            self.find_resource_in(uri, "AWS::Serverless::Function").ok_or_else(no_function)?;
        let iam = text(route, &["Properties", "AuthorizationType"]) == Some("AWS_IAM");
        Route::new(method, path, &self.name(id, function), iam)
    }

    /// Finds the resource of a type whose name occurs in `value`: `!Ref X.Alias`, `!Sub '…/${X}'`, `!GetAtt`.
    fn find_resource_in(
        &self,
        value: Option<&Yaml>,
        of_type: &'static str,
    ) -> Option<(&'a str, &'a Yaml<'a>)> {
        let mut texts = Vec::new();
        collect_texts(value?, &mut texts);
        self.resources(of_type).find(|(id, _)| {
            texts.iter().any(|text| text.split(|c: char| !c.is_ascii_alphanumeric()).any(|word| word == *id))
        })
    }
}

/// Returns the routes declared as events of a function.
fn event_routes(name: &str, function: &Yaml) -> Result<Vec<Route>> {
    let events = entries(get(function, &["Properties", "Events"]));
    events
        .filter(|(_, event)| text(event, &["Type"]) == Some("HttpApi"))
        .map(|(id, event)| {
            let part = |part| {
                text(event, &["Properties", part])
                    .ok_or_else(|| Error::Failed(format!("the event {id} of {name} has no {part}")))
            };
            let iam = text(event, &["Properties", "Auth", "Authorizer"]) == Some("AWS_IAM");
            Route::new(part("Method")?, part("Path")?, name, iam)
        })
        .collect()
}

fn get<'a>(node: &'a Yaml<'a>, path: &[&str]) -> Option<&'a Yaml<'a>> {
    path.iter().try_fold(node, |node, key| node.as_mapping_get(key))
}

fn text<'a>(node: &'a Yaml<'a>, path: &[&str]) -> Option<&'a str> {
    get(node, path)?.as_str()
}

fn entries<'a>(node: Option<&'a Yaml<'a>>) -> impl Iterator<Item = (&'a str, &'a Yaml<'a>)> {
    let mapping = node.and_then(Yaml::as_mapping);
    mapping.into_iter().flatten().filter_map(|(key, value)| Some((key.as_str()?, value)))
}

/// Returns the name in `!Ref name` or `{Ref: name}`.
fn ref_name<'a>(value: &'a Yaml<'a>) -> Option<&'a str> {
    match value {
        Yaml::Tagged(tag, inner) if tag.suffix == "Ref" => inner.as_str(),
        other => text(other, &["Ref"]),
    }
}

fn collect_texts<'a>(value: &'a Yaml<'a>, into: &mut Vec<&'a str>) {
    match value {
        Yaml::Tagged(_, inner) => collect_texts(inner, into),
        Yaml::Sequence(items) => items.iter().for_each(|item| collect_texts(item, into)),
        Yaml::Mapping(map) => map.values().for_each(|item| collect_texts(item, into)),
        other => into.extend(other.as_str()),
    }
}
