//! Route matching as in API Gateway's HTTP APIs: the most specific route wins, independent of the order.

use percent_encoding::percent_decode_str;

use crate::error::{Error, Result};

/// A route key (`POST /api/queue/{run_id}/submit`) with its function.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    method: Option<String>,
    path: String,
    segments: Vec<Segment>,
    /// Name of the function.
    pub function: String,
    /// Whether the route requires an IAM principal (SigV4).
    pub iam: bool,
}

/// A path segment, ordered from most to least specific.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Segment {
    Literal(String),
    Variable(String),
    Greedy(String),
}

/// A matching route with the percent-decoded values of its path variables.
#[derive(Debug, PartialEq, Eq)]
pub struct RouteMatch<'a> {
    /// The route.
    pub route: &'a Route,
    /// Name and value of each variable, in path order.
    pub parameters: Vec<(&'a str, String)>,
}

impl Route {
    /// Creates a route from the parts of a route key. The method may be `ANY`.
    ///
    /// # Errors
    /// If the path does not start with `/`, or `{name+}` is not its last segment.
    pub fn new(method: &str, path: &str, function: &str, iam: bool) -> Result<Self> {
        let method = method.to_uppercase();
        let rest = path
            .strip_prefix('/')
            .ok_or_else(|| Error::Failed(format!("the path {path:?} must start with /")))?;
        let segments: Vec<Segment> = rest.split('/').map(Segment::parse).collect();
        let before_last = &segments[..segments.len() - 1];
        if before_last.iter().any(|segment| matches!(segment, Segment::Greedy(_))) {
            return Err(Error::Failed(format!("{path:?}: only the last segment may be greedy ({{name+}})")));
        }
        let method = (method != "ANY").then_some(method);
        Ok(Self { method, path: path.to_owned(), segments, function: function.to_owned(), iam })
    }

    /// Returns the route key, such as `POST /api/queue/{run_id}/submit`.
    pub fn key(&self) -> String {
        format!("{} {}", self.method.as_deref().unwrap_or("ANY"), self.path)
    }

    fn matches(&self, method: &str, path: &str) -> Option<Vec<(&str, String)>> {
        if self.method.as_deref().is_some_and(|own| own != method) {
            return None;
        }
        let mut rest = Some(path.strip_prefix('/')?);
        let mut parameters = Vec::new();
        for segment in &self.segments {
            let remaining = rest?;
            let (part, after) = remaining.split_once('/').map_or((remaining, None), |(a, b)| (a, Some(b)));
            rest = after;
            match segment {
                Segment::Literal(text) if text == part => {}
                Segment::Variable(name) if !part.is_empty() => {
                    parameters.push((name.as_str(), percent_decode(part)))
                }
                Segment::Greedy(name) if !remaining.is_empty() => {
                    parameters.push((name.as_str(), percent_decode(remaining)));
                    rest = None;
                }
                _ => return None,
            }
        }
        rest.is_none().then_some(parameters)
    }
}

impl Segment {
    fn parse(text: &str) -> Self {
        match text.strip_prefix('{').and_then(|text| text.strip_suffix('}')) {
            Some(name) => match name.strip_suffix('+') {
                Some(name) => Self::Greedy(name.to_owned()),
                None => Self::Variable(name.to_owned()),
            },
            None => Self::Literal(text.to_owned()),
        }
    }

    fn rank(&self) -> u8 {
        match self {
            Self::Literal(_) => 0,
            Self::Variable(_) => 1,
            Self::Greedy(_) => 2,
        }
    }
}

/// Finds the route for a method and a percent-encoded path. Of several matching routes, the one wins whose
/// first differing segment is more specific; among equal ones, the one that names the method.
pub fn find<'a>(routes: &'a [Route], method: &str, path: &str) -> Option<RouteMatch<'a>> {
    let matching = routes
        .iter()
        .filter_map(|route| route.matches(method, path).map(|parameters| RouteMatch { route, parameters }));
    matching.min_by_key(|candidate| {
        let ranks: Vec<u8> = candidate.route.segments.iter().map(Segment::rank).collect();
        (ranks, candidate.route.method.is_none())
    })
}

fn percent_decode(text: &str) -> String {
    percent_decode_str(text).decode_utf8_lossy().into_owned()
}
