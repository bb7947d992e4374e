//! How long a claim lasts unheard of.

/// The terms of a lease, in seconds. A lease is not a time limit on the job: heartbeats renew it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeaseTerms {
    /// How long a claim lives after its last heartbeat.
    pub ttl_s: i32,
    /// How often a runner is asked to send one.
    pub heartbeat_interval_s: i32,
}

impl Default for LeaseTerms {
    fn default() -> Self {
        Self { ttl_s: 300, heartbeat_interval_s: 60 }
    }
}
