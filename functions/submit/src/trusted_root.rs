//! The trusted root that bundles are verified against: the embedded one, unless configuration names
//! another, which takes effect without a new build.

use bakeoff_attestation::TrustedRoot;
use bakeoff_core::Error;
use bakeoff_lambda::telemetry::{Metric, publish};
use bakeoff_lambda::{App, Result};
use std::ops::Deref;
use std::sync::Arc;
use std::time::{Duration, Instant};
use time::OffsetDateTime;
use tokio::sync::Mutex;

/// How long a root is used before it is read again.
const KEEP: Duration = Duration::from_secs(3600);

static KEPT: Mutex<Option<(Instant, Root)>> = Mutex::const_new(None);

/// A root in use.
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

/// The trusted root, read at most an hour ago. Each reading publishes its age, for the alarm that says
/// when to refresh it.
pub(crate) async fn trusted_root(app: &App) -> Result<Root> {
    let mut kept = KEPT.lock().await;
    if let Some((_, root)) = kept.as_ref().filter(|(read_at, _)| read_at.elapsed() < KEEP) {
        return Ok(root.clone());
    }
    let root = match app.trusted_root_json().await? {
        Some(json) => Root::Configured(Arc::new(
            TrustedRoot::parse(json.as_bytes())
                .map_err(|why| Error::Internal(format!("the configured trusted root: {why}")))?,
        )),
        None => Root::Embedded(TrustedRoot::embedded()),
    };
    if let Some(newest) = root.newest_start() {
        let age = OffsetDateTime::now_utc() - newest;
        publish(&[Metric::gauge("TrustRootAgeDays", age.as_seconds_f64() / 86_400.0, "None")]);
    }
    *kept = Some((Instant::now(), root.clone()));
    Ok(root)
}
