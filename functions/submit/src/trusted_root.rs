//! The trusted root for bundle verification: the embedded root, unless the configuration names another, which
//! takes effect without a new build.

use bakeoff_attestation::TrustedRoot;
use bakeoff_core::Error;
use bakeoff_lambda::config::TrustedRootSource;
use bakeoff_lambda::telemetry::{Metric, publish};
use bakeoff_lambda::{App, Result};
use std::ops::Deref;
use std::sync::Arc;
use std::time::{Duration, Instant};
use time::OffsetDateTime;
use tokio::sync::Mutex;

/// Time after which the root is read again.
const CACHE_TTL: Duration = Duration::from_secs(3600);

static CACHE: Mutex<Option<CachedRoot>> = Mutex::const_new(None);

struct CachedRoot {
    root: Root,
    read_at: Instant,
    source: TrustedRootSource,
}

/// An embedded or a configured trusted root.
#[derive(Clone)]
pub(crate) enum Root {
    Embedded(&'static TrustedRoot),
    Configured(Arc<TrustedRoot>),
}

impl Deref for Root {
    type Target = TrustedRoot;

    fn deref(&self) -> &TrustedRoot {
        match self {
            Self::Embedded(root) => root,
            Self::Configured(root) => root,
        }
    }
}

/// Returns the trusted root, at most one hour old. Each read publishes the root's age, whose alarm signals
/// when to refresh it.
pub(crate) async fn trusted_root(app: &App) -> Result<Root> {
    let mut cache = CACHE.lock().await;
    let source = &app.config().trusted_root;
    let is_current = |cached: &&CachedRoot| cached.source == *source && cached.read_at.elapsed() < CACHE_TTL;
    if let Some(cached) = cache.as_ref().filter(is_current) {
        return Ok(cached.root.clone());
    }
    let root = match app.trusted_root_json().await? {
        Some(json) => Root::Configured(Arc::new(
            TrustedRoot::parse(json.as_bytes())
                .map_err(|error| Error::Internal(format!("the configured trusted root: {error}")))?,
        )),
        None => Root::Embedded(TrustedRoot::embedded()),
    };
    if let Some(newest) = root.newest_start() {
        let age = OffsetDateTime::now_utc() - newest;
        publish(&[Metric::gauge("TrustRootAgeDays", age.as_seconds_f64() / 86_400.0, "None")]);
    }
    *cache = Some(CachedRoot { root: root.clone(), read_at: Instant::now(), source: source.clone() });
    Ok(root)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The alarm must not fire on a fresh deploy: its operator could do nothing but wait for a release.
    #[test]
    fn the_embedded_root_is_younger_than_its_alarm() {
        let template = include_str!("../../../template.yaml");
        let (_, parameter) = template.split_once("TrustRootAlarmDays:").unwrap();
        let (_, default) = parameter.split_once("Default: ").unwrap();
        let limit: i64 = default.split(|c: char| !c.is_ascii_digit()).next().unwrap().parse().unwrap();
        let age = OffsetDateTime::now_utc() - TrustedRoot::embedded().newest_start().unwrap();
        assert!(
            age.whole_days() + 30 < limit,
            "the embedded root is {} days old and the alarm fires at {limit}: embed a newer root, or raise \
             TrustRootAlarmDays after checking that Sigstore has no newer one",
            age.whole_days()
        );
    }
}
