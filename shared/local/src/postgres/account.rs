//! The user a cluster runs as.

use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use crate::error::{Error, Result, While};

/// Whom the server's processes run as: ourselves, or, since `initdb` and `postgres` refuse root, an
/// unprivileged user of this machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Account {
    /// We are not root: the user who started us.
    Ourselves,
    /// We are root: this user instead.
    Other {
        /// Numeric user id.
        uid: u32,
        /// Numeric group id.
        gid: u32,
    },
}

impl Account {
    /// Ourselves, unless we are root: then `postgres`, or `nobody` where there is none.
    ///
    /// # Errors
    /// When we are root and `/etc/passwd` names neither.
    pub fn unprivileged() -> Result<Self> {
        if !we_are_root()? {
            return Ok(Self::Ourselves);
        }
        let passwd = std::fs::read_to_string("/etc/passwd").while_("read /etc/passwd")?;
        ["postgres", "nobody"].into_iter().find_map(|name| in_passwd(&passwd, name)).ok_or_else(|| {
            Error::Missing {
                what: "a user other than root for PostgreSQL to run as".into(),
                remedy: "useradd --system postgres".into(),
            }
        })
    }

    /// A command run as this user, in `/`: our own working directory may be closed to it.
    pub(super) fn command(self, program: &Path) -> Command {
        let mut command = Command::new(program);
        command.current_dir("/");
        if let Self::Other { uid, gid } = self {
            command.uid(uid).gid(gid);
        }
        command
    }

    /// Gives a file or folder to this user.
    pub(super) fn own(self, path: &Path) -> Result<()> {
        match self {
            Self::Ourselves => Ok(()),
            Self::Other { uid, gid } => std::os::unix::fs::chown(path, Some(uid), Some(gid))
                .while_(format!("give {} to the database's user", path.display())),
        }
    }

    /// Whether this user can get into `dir`: every folder on the way must let it pass. A home of mode
    /// 0700, such as root's, does not.
    pub(super) fn can_enter(self, dir: &Path) -> bool {
        let Self::Other { uid, .. } = self else {
            return true;
        };
        dir.ancestors()
            .all(|dir| dir.metadata().is_ok_and(|meta| meta.mode() & 0o001 != 0 || meta.uid() == uid))
    }
}

/// Whether this process acts as root.
pub(super) fn we_are_root() -> Result<bool> {
    let output = Command::new("id").arg("-u").output().while_("ask `id -u` who we are")?;
    Ok(output.stdout.trim_ascii() == b"0")
}

fn in_passwd(passwd: &str, name: &str) -> Option<Account> {
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
    fn reads_the_ids_of_a_user() {
        assert_eq!(in_passwd(PASSWD, "postgres"), Some(Account::Other { uid: 101, gid: 104 }));
        assert_eq!(in_passwd(PASSWD, "nobody"), None);
        assert_eq!(in_passwd(PASSWD, "odd"), None);
    }

    #[test]
    fn a_second_name_for_root_is_not_unprivileged() {
        assert_eq!(in_passwd("postgres:x:0:0::/:/bin/sh", "postgres"), None);
    }
}
