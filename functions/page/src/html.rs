//! The page for people: one file without a build step. Its script and style are inline, and the
//! Content-Security-Policy allows exactly these two by their digests.

use bakeoff_lambda::Reply;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use sha2::{Digest as _, Sha256};
use std::sync::LazyLock;

const PAGE: &str = include_str!("page.html");

/// Allows the page's own script and style, requests to its own origin, and nothing else.
static POLICY: LazyLock<String> = LazyLock::new(|| {
    format!(
        "default-src 'none'; script-src 'sha256-{}'; style-src 'sha256-{}'; connect-src 'self'; img-src data:; \
         base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
        digest("script"),
        digest("style")
    )
});

/// Returns the page.
pub(crate) fn reply() -> Reply {
    Reply::text(200, "text/html; charset=utf-8", PAGE)
        .header("content-security-policy", &*POLICY)
        .header("x-content-type-options", "nosniff")
        .header("referrer-policy", "no-referrer")
        .header("cache-control", "max-age=300")
}

/// Returns the SHA-256 of the text of the page's only element of this name, in base64.
fn digest(element: &str) -> String {
    let (open, close) = (format!("<{element}>"), format!("</{element}>"));
    let text =
        PAGE.split_once(&open).and_then(|(_, rest)| rest.split_once(&close)).map_or("", |(text, _)| text);
    STANDARD.encode(Sha256::digest(text))
}
