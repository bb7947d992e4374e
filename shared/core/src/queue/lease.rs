//! Lease durations.

/// Durations of a lease, in seconds. A lease does not limit the job's run time: each heartbeat renews it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeaseTerms {
    /// Time after the last heartbeat until the lease expires.
    pub ttl_s: i32,
    /// Interval at which runners should send heartbeats.
    pub heartbeat_interval_s: i32,
}

impl Default for LeaseTerms {
    fn default() -> Self {
        Self { ttl_s: 300, heartbeat_interval_s: 60 }
    }
}
