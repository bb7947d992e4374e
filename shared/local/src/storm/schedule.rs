//! Which faults strike the service, and when: a list that follows from the seed.
//!
//! A fault is due at a fraction of the storm, not at a second of it: a slower machine meets the same faults at the
//! same depth of work. The faults of the network (replies dropped, requests doubled and delayed) and of the
//! runners (frozen, failing) are chosen by each runner, from a stream of its own (`runner`).

use super::random::Random;

/// A fault of the service or an act of its admins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// A process that is serving a request is killed.
    KillFunction,
    /// Some of the functions' sessions are ended by the server.
    TerminateBackends,
    /// A reply of Postgres is lost, the statement carried out or not, and the connection with it.
    CutDatabaseReply,
    /// Postgres is stopped in immediate mode and started again.
    CrashPostgres,
    /// A runner's key is revoked, and allowed again after a moment.
    RevokeKey,
    /// The service gets a new signing key.
    RotateSigningKeys,
    /// A run is cancelled.
    CancelRun,
    /// A run is requeued.
    RequeueRun,
    /// Two reapers run at once.
    TwoReapers,
    /// The migrations are applied again, and a column and an index are added to the hot table and dropped.
    Migrate,
    /// A transaction with an old snapshot stays open for seconds.
    HoldSnapshot,
    /// The disk that holds the evidence has no room left for seconds.
    FillDisk,
}

impl Fault {
    /// Each kind, and how many a storm of 10,000 jobs has of it.
    const COUNTS: [(Self, usize); 12] = [
        (Self::KillFunction, 500),
        (Self::TerminateBackends, 300),
        (Self::CutDatabaseReply, 400),
        (Self::CrashPostgres, 8),
        (Self::RevokeKey, 80),
        (Self::RotateSigningKeys, 8),
        (Self::CancelRun, 250),
        (Self::RequeueRun, 120),
        (Self::TwoReapers, 60),
        (Self::Migrate, 6),
        (Self::HoldSnapshot, 8),
        (Self::FillDisk, 5),
    ];

    /// Its name in the report.
    pub fn name(self) -> &'static str {
        match self {
            Self::KillFunction => "function killed in mid-request",
            Self::TerminateBackends => "database sessions terminated",
            Self::CutDatabaseReply => "database reply lost",
            Self::CrashPostgres => "Postgres stopped in immediate mode",
            Self::RevokeKey => "key revoked, allowed again",
            Self::RotateSigningKeys => "signing keys rotated",
            Self::CancelRun => "run cancelled",
            Self::RequeueRun => "run requeued",
            Self::TwoReapers => "two reapers at once",
            Self::Migrate => "migration applied",
            Self::HoldSnapshot => "old snapshot held open",
            Self::FillDisk => "disk full",
        }
    }
}

/// A fault and when it is due.
#[derive(Debug, Clone, PartialEq)]
pub struct Planned {
    /// The fraction of the storm, between 0 and 1.
    pub at: f64,
    /// What happens.
    pub fault: Fault,
    /// Chooses its victim.
    pub(super) random: Random,
}

/// The faults of a storm over `jobs` jobs, in the order in which they are due. Each kind occurs at least once.
pub fn schedule(seed: u64, jobs: usize) -> Vec<Planned> {
    let mut planned = Vec::new();
    for (kind, (fault, of_10_000)) in Fault::COUNTS.into_iter().enumerate() {
        let count = (of_10_000 * jobs).div_ceil(10_000);
        let mut times = Random::new(seed, 1_000 + kind as u64);
        for number in 0..count {
            // Spread evenly and then moved by chance: two crashes in one second test less than one each.
            let at = 0.02 + 0.94 * (number as f64 + times.fraction()) / count as f64;
            let random = Random::new(seed, (2_000 + kind as u64) << 32 | number as u64);
            planned.push(Planned { at, fault, random });
        }
    }
    planned.sort_by(|one, other| one.at.total_cmp(&other.at));
    planned
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_schedule_follows_from_the_seed_and_has_every_kind() {
        let planned = schedule(7, 10_000);
        assert_eq!(planned, schedule(7, 10_000));
        assert_ne!(planned, schedule(8, 10_000));
        assert!(planned.windows(2).all(|pair| pair[0].at <= pair[1].at));
        for jobs in [1, 500, 10_000] {
            let planned = schedule(7, jobs);
            for (fault, _) in Fault::COUNTS {
                assert!(planned.iter().any(|planned| planned.fault == fault), "{fault:?} of {jobs}");
            }
        }
        assert_eq!(planned.len(), Fault::COUNTS.iter().map(|(_, count)| count).sum::<usize>());
    }
}
