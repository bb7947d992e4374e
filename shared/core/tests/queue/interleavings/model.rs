//! The state machine of a row, small enough to be read at once: what each operation does when nothing else goes on.

use std::collections::BTreeMap;

/// Who acts: two runners, with a key each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Who {
    Ann,
    Bob,
}

/// A claim id. `AnnFirst` is the one that the prepared states are about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Id {
    AnnFirst,
    AnnNew,
    BobFirst,
    BobNew,
}

impl Id {
    pub(crate) const ALL: [Self; 4] = [Self::AnnFirst, Self::AnnNew, Self::BobFirst, Self::BobNew];

    pub(crate) fn owner(self) -> Who {
        match self {
            Self::AnnFirst | Self::AnnNew => Who::Ann,
            Self::BobFirst | Self::BobNew => Who::Bob,
        }
    }
}

/// What is done to the row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Op {
    Claim(Id),
    Heartbeat(Id),
    Release(Id),
    Fail(Id),
    /// A submit under a claim, of the first or the second of two results.
    Submit(Id, u8),
    Reap,
    Cancel,
    Requeue,
    Revoke(Who),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Status {
    Pending,
    Claimed,
    InProgress,
    Complete,
    Failed,
    Cancelled,
}

/// The row and what is known of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Row {
    pub(crate) status: Status,
    pub(crate) claim: Option<Id>,
    pub(crate) attempts: u32,
    pub(crate) max_attempts: u32,
    /// It waits for its retry.
    pub(crate) deferred: bool,
    /// The holder's lease has run out.
    pub(crate) lapsed: bool,
    /// How each past claim ended.
    pub(crate) past: BTreeMap<Id, &'static str>,
    /// Claim and number of the accepted result, and whether it came late.
    pub(crate) submission: Option<(Id, u8, bool)>,
    pub(crate) revoked: BTreeMap<Who, bool>,
}

impl Row {
    fn live(&self) -> bool {
        matches!(self.status, Status::Claimed | Status::InProgress)
    }

    fn holds(&self, id: Id) -> bool {
        self.live() && self.claim == Some(id)
    }

    fn is_revoked(&self, who: Who) -> bool {
        self.revoked.get(&who).copied().unwrap_or(false)
    }

    /// Ends the live claim and puts the row back.
    fn end_claim(&mut self, ended_by: &'static str) {
        if let Some(id) = self.claim.take() {
            self.past.insert(id, ended_by);
        }
        self.status = Status::Pending;
        self.lapsed = false;
    }

    fn count_attempt(&mut self, deferred: bool) {
        if self.attempts < self.max_attempts {
            self.attempts += 1;
            self.deferred = deferred;
        } else {
            self.status = Status::Failed;
        }
    }

    /// Does it; says how it went.
    pub(crate) fn apply(&mut self, op: Op) -> String {
        match op {
            Op::Claim(id) => self.claim(id),
            Op::Heartbeat(id) => self.heartbeat(id),
            Op::Release(id) => self.release(id, "released"),
            Op::Fail(id) => self.release(id, "failed"),
            Op::Submit(id, result) => self.submit(id, result),
            Op::Reap => self.reap(),
            Op::Cancel => self.cancel(),
            Op::Requeue => self.requeue(),
            Op::Revoke(who) => self.revoke(who),
        }
    }

    fn claim(&mut self, id: Id) -> String {
        if self.is_revoked(id.owner()) {
            return "key_not_allowed".into();
        }
        if self.holds(id) {
            return "claimed".into();
        }
        if self.claim == Some(id) || self.past.contains_key(&id) {
            return "claim_lost".into();
        }
        if self.status != Status::Pending || self.deferred {
            return "empty".into();
        }
        (self.status, self.claim, self.lapsed) = (Status::Claimed, Some(id), false);
        "claimed".into()
    }

    fn heartbeat(&mut self, id: Id) -> String {
        if self.is_revoked(id.owner()) {
            return "key_not_allowed".into();
        }
        if self.holds(id) {
            (self.status, self.lapsed) = (Status::InProgress, false);
            return "continue".into();
        }
        let past = self.past.get(&id);
        let cancelled = self.status == Status::Cancelled && (self.claim == Some(id) || past.is_some());
        if cancelled || past == Some(&"superseded") { "cancel".into() } else { "claim_lost".into() }
    }

    fn release(&mut self, id: Id, how: &'static str) -> String {
        if self.is_revoked(id.owner()) {
            return "key_not_allowed".into();
        }
        if self.holds(id) {
            self.end_claim(how);
            if how == "failed" {
                self.count_attempt(true);
            }
        } else if self.past.get(&id) != Some(&how) {
            return "claim_lost".into();
        }
        format!("{how}: {:?}, {} attempts", self.status, self.attempts)
    }

    fn submit(&mut self, id: Id, result: u8) -> String {
        if self.is_revoked(id.owner()) {
            return "key_not_allowed".into();
        }
        if let Some((_, accepted, late)) = self.submission
            && accepted == result
        {
            return format!("accepted before, late: {late}");
        }
        let past = self.past.get(&id).copied();
        let known = self.claim == Some(id) || past.is_some();
        match self.status {
            Status::Complete | Status::Cancelled if known => return "run_finished".into(),
            _ if self.holds(id) => {}
            _ if matches!(past, Some("lapsed" | "revoked")) => {
                if self.live() {
                    self.end_claim("superseded");
                }
                self.past.remove(&id);
            }
            _ => return "claim_lost".into(),
        }
        let late = past.is_some();
        (self.status, self.claim, self.deferred, self.lapsed) = (Status::Complete, Some(id), false, false);
        self.submission = Some((id, result, late));
        format!("accepted, late: {late}")
    }

    fn reap(&mut self) -> String {
        if self.live() && self.lapsed {
            self.end_claim("lapsed");
            self.count_attempt(false);
            return "reaped 1".into();
        }
        "reaped 0".into()
    }

    fn cancel(&mut self) -> String {
        match self.status {
            Status::Pending | Status::Claimed | Status::InProgress => {
                (self.status, self.deferred, self.lapsed) = (Status::Cancelled, false, false);
                "cancelled 1".into()
            }
            Status::Cancelled => "cancelled 0".into(),
            Status::Complete | Status::Failed => "run_finished".into(),
        }
    }

    fn requeue(&mut self) -> String {
        match self.status {
            Status::Complete => "run_finished".into(),
            Status::Pending if !self.deferred => "requeued 0".into(),
            Status::Claimed | Status::InProgress => "requeued 0".into(),
            Status::Pending | Status::Failed | Status::Cancelled => {
                self.end_claim("superseded");
                (self.attempts, self.deferred) = (0, false);
                "requeued 1".into()
            }
        }
    }

    fn revoke(&mut self, who: Who) -> String {
        if self.revoked.insert(who, true) == Some(true) {
            return "revoked 0".into();
        }
        if self.live() && self.claim.is_some_and(|id| id.owner() == who) {
            self.end_claim("revoked");
            return "revoked 1".into();
        }
        "revoked 0".into()
    }
}
