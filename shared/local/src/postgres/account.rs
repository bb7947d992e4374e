//! The operating-system user that runs a cluster.

use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use crate::error::{Error, ErrorContext, Result};

/// The user that runs the server: the current user, or an unprivileged user if the current one is root,
/// because `initdb` and `postgres` refuse to run as root.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Account {
    /// The current user, who is not root.
    CurrentUser,
    /// An unprivileged user, because the current one is root.
    Other {
        /// Numeric user id.
        uid: u32,
        /// Numeric group id.
        gid: u32,
    },
}

impl Account {
    /// Returns the current user or, if that is root, the user `postgres` or else `nobody`.
    ///
    /// # Errors
    /// If the current user is root and `/etc/passwd` has neither.
    pub(crate) fn unprivileged() -> Result<Self> {
        if !is_root()? {
            return Ok(Self::CurrentUser);
        }
        let passwd = std::fs::read_to_string("/etc/passwd").context("read /etc/passwd")?;
        ["postgres", "nobody"].into_iter().find_map(|name| find_in_passwd(&passwd, name)).ok_or_else(|| {
            Error::Missing {
                what: "a user other than root for PostgreSQL to run as".into(),
                remedy: "useradd --system postgres".into(),
            }
        })
    }

    /// Returns a command that runs as this user in `/`, because this user may not have access to the current
    /// directory.
    pub(super) fn command(self, program: &Path) -> Command {
        let mut command = Command::new(program);
        command.current_dir("/");
        if let Self::Other { uid, gid } = self {
            command.uid(uid).gid(gid);
        }
        command
    }

    /// Changes the owner of a file or folder to this user.
    pub(super) fn chown(self, path: &Path) -> Result<()> {
        match self {
            Self::CurrentUser => Ok(()),
            Self::Other { uid, gid } => std::os::unix::fs::chown(path, Some(uid), Some(gid))
                .context(format!("change the owner of {} to the database's user", path.display())),
        }
    }

    /// Returns whether this user can enter `dir`, which requires execute permission on all its ancestors. A
    /// home directory of mode 0700, such as root's, denies it.
    pub(super) fn can_enter(self, dir: &Path) -> bool {
        let Self::Other { uid, .. } = self else {
            return true;
        };
        dir.ancestors()
            .all(|dir| dir.metadata().is_ok_and(|meta| meta.mode() & 0o001 != 0 || meta.uid() == uid))
    }
}

/// Returns whether this process runs as root.
pub(super) fn is_root() -> Result<bool> {
    let output = Command::new("id").arg("-u").output().context("get the current user with `id -u`")?;
    Ok(output.stdout.trim_ascii() == b"0")
}

fn find_in_passwd(passwd: &str, name: &str) -> Option<Account> {
    passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        (fields.next()? == name).then_some(())?;
        let (uid, gid) = (fields.nth(1)?.parse().ok()?, fields.next()?.parse().ok()?);
        (uid != 0).then_some(Account::Other { uid, gid })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\n\
                          odd\n\
                          postgres:x:101:104:PostgreSQL,,,:/var/lib/postgresql:/bin/bash\n";

    #[test]
    fn a_users_ids_are_read_from_passwd() {
        assert_eq!(find_in_passwd(PASSWD, "postgres"), Some(Account::Other { uid: 101, gid: 104 }));
        assert_eq!(find_in_passwd(PASSWD, "nobody"), None);
        assert_eq!(find_in_passwd(PASSWD, "odd"), None);
    }

    #[test]
    fn another_name_for_uid_0_is_not_unprivileged() {
        assert_eq!(find_in_passwd("postgres:x:0:0::/:/bin/sh", "postgres"), None);
    }
}
