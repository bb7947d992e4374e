//! What `template.yaml` says of the functions and their routes, so that it is said once.
//!
//! Read are the SAM functions with their `HttpApi` events, and plain `AWS::ApiGatewayV2::Route` and
//! `Integration` resources. What only CloudFormation can know (`!GetAtt`, `!If`, …) is passed over; a
//! `!Ref` to a parameter is its default.

use std::path::Path;
use std::time::Duration;

use saphyr::{LoadableYamlNode, Yaml};

use crate::api_gateway::route::Route;
use crate::error::{Error, Result, While};

/// One function of the template.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Function {
    /// Its binary and its package: `Metadata.BuildProperties.Binary`, else the last part of `CodeUri`,
    /// else the resource's name without `Function`.
    pub name: String,
    /// How long one invocation may take.
    pub timeout: Duration,
    /// `MemorySize` in MB; only told to the function here, not enforced.
    pub memory_mb: u32,
}

/// The functions and routes of a template.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Template {
    /// In the template's order.
    pub functions: Vec<Function>,
    /// In the template's order; `Route::function` is a name in `functions`.
    pub routes: Vec<Route>,
}

impl Template {
    /// Reads `template.yaml`.
    ///
    /// # Errors
    /// When it cannot be read, is no YAML, or names a route that leads to no function.
    pub fn read(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).while_(format!("read {}", path.display()))?;
        Self::parse(&text).map_err(|error| Error::Failed(format!("{}: {error}", path.display())))
    }

    /// Parses the text of a template.
    ///
    /// # Errors
    /// As [`Template::read`].
    pub fn parse(text: &str) -> Result<Self> {
        let documents = Yaml::load_from_str(text).map_err(|error| Error::Failed(error.to_string()))?;
        let root = documents.first().ok_or_else(|| Error::Failed("an empty template".into()))?;
        let source = Source { root };
        let mut routes = Vec::new();
        for (id, function) in source.resources("AWS::Serverless::Function") {
            routes.extend(event_routes(&source.name(id, function), function)?);
        }
        for (id, route) in source.resources("AWS::ApiGatewayV2::Route") {
            routes.push(source.plain_route(id, route)?);
        }
        let functions = source.resources("AWS::Serverless::Function");
        let functions = functions.map(|(id, function)| source.function(id, function)).collect();
        Ok(Self { functions, routes })
    }
}

/// The template as YAML, to look things up in.
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

    /// A number, written out or as a reference to a parameter with a default.
    fn number(&self, value: &Yaml) -> Option<u32> {
        let parameter = || {
            let name = referenced(value)?;
            let default = get(self.root, &["Parameters", name, "Default"])?;
            default.as_integer().or_else(|| default.as_str()?.parse().ok())
        };
        value.as_integer().or_else(parameter).and_then(|number| number.try_into().ok())
    }

    /// Follows a route's target to its integration and that one's URI to the function.
    fn plain_route(&self, id: &str, route: &Yaml) -> Result<Route> {
        let leads_nowhere = || Error::Failed(format!("the route {id} leads to no function"));
        let key = text(route, &["Properties", "RouteKey"]).ok_or_else(leads_nowhere)?;
        let (method, path) = key.split_once(' ').ok_or_else(leads_nowhere)?;
        let target = get(route, &["Properties", "Target"]);
        let (_, integration) =
            self.named_in(target, "AWS::ApiGatewayV2::Integration").ok_or_else(leads_nowhere)?;
        let uri = get(integration, &["Properties", "IntegrationUri"]);
        let (id, function) = self.named_in(uri, "AWS::Serverless::Function").ok_or_else(leads_nowhere)?;
        let iam = text(route, &["Properties", "AuthorizationType"]) == Some("AWS_IAM");
        Route::new(method, path, &self.name(id, function), iam)
    }

    /// The resource of a type whose name occurs in `value`: `!Ref X.Alias`, `!Sub '…/${X}'`, `!GetAtt`.
    fn named_in(&self, value: Option<&Yaml>, of_type: &'static str) -> Option<(&'a str, &'a Yaml<'a>)> {
        let mut texts = Vec::new();
        collect_texts(value?, &mut texts);
        self.resources(of_type).find(|(id, _)| {
            texts.iter().any(|text| text.split(|c: char| !c.is_ascii_alphanumeric()).any(|word| word == *id))
        })
    }
}

/// The routes among a function's own events.
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

/// What `!Ref name` or `{Ref: name}` names.
fn referenced<'a>(value: &'a Yaml<'a>) -> Option<&'a str> {
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
