//! Routes as API Gateway's HTTP APIs match them: the most specific wins, whatever the order.

use percent_encoding::percent_decode_str;

use crate::error::{Error, Result};

/// A route key (`POST /api/queue/{run_id}/submit`) and the function behind it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    method: Option<String>,
    path: String,
    segments: Vec<Segment>,
    /// The function's name.
    pub function: String,
    /// Whether the caller must be an IAM principal (SigV4).
    pub iam: bool,
}

/// Ordered by how specific it is, the most specific first.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Segment {
    Literal(String),
    Variable(String),
    Greedy(String),
}

/// A route that fits a request, and what its variables stand for (percent-decoded).
#[derive(Debug, PartialEq, Eq)]
pub struct Matched<'a> {
    /// The route.
    pub route: &'a Route,
    /// Name and value of each variable, in the path's order.
    pub parameters: Vec<(&'a str, String)>,
}

impl Route {
    /// Makes a route from the parts of a route key; the method may be `ANY`.
    ///
    /// # Errors
    /// When the path does not begin with `/` or has a `{name+}` before its end.
    pub fn new(method: &str, path: &str, function: &str, iam: bool) -> Result<Self> {
        let method = method.to_uppercase();
        let rest = path.strip_prefix('/').ok_or_else(|| Error::Failed(format!("{path:?} is no path")))?;
        let segments: Vec<Segment> = rest.split('/').map(Segment::parse).collect();
        let before_last = &segments[..segments.len() - 1];
        if before_last.iter().any(|segment| matches!(segment, Segment::Greedy(_))) {
            return Err(Error::Failed(format!("{path:?}: only the last part may be greedy")));
        }
        let method = (method != "ANY").then_some(method);
        Ok(Self { method, path: path.to_owned(), segments, function: function.to_owned(), iam })
    }

    /// As API Gateway writes it: `POST /api/queue/{run_id}/submit`.
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
            let here = rest?;
            let (part, after) = here.split_once('/').map_or((here, None), |(a, b)| (a, Some(b)));
            rest = after;
            match segment {
                Segment::Literal(text) if text == part => {}
                Segment::Variable(name) if !part.is_empty() => {
                    parameters.push((name.as_str(), decoded(part)))
                }
                Segment::Greedy(name) if !here.is_empty() => {
                    parameters.push((name.as_str(), decoded(here)));
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

/// The route for a method and a path as received (still percent-encoded): of those that match, the one
/// whose first differing part is the more specific, and of equal ones the one that names the method.
pub fn find<'a>(routes: &'a [Route], method: &str, path: &str) -> Option<Matched<'a>> {
    let matching = routes
        .iter()
        .filter_map(|route| route.matches(method, path).map(|parameters| Matched { route, parameters }));
    matching.min_by_key(|found| {
        let ranks: Vec<u8> = found.route.segments.iter().map(Segment::rank).collect();
        (ranks, found.route.method.is_none())
    })
}

fn decoded(text: &str) -> String {
    percent_decode_str(text).decode_utf8_lossy().into_owned()
}
