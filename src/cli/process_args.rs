//! The process of an exec: read from a file, or the container's own process as changed by flags.

use crate::spec::config::{Capabilities, Config, Process, User};
use crate::{Context, Error, Result};
use std::path::{Path, PathBuf};

/// Flags of `exec` that describe the process.
#[derive(clap::Args)]
pub struct ProcessArgs {
    /// JSON file with the process, as in a config.json; then other flags for the process have no
    /// effect
    #[arg(short, long, value_name = "FILE")]
    pub process: Option<PathBuf>,
    /// Working directory
    #[arg(long, value_name = "DIR")]
    pub cwd: Option<String>,
    /// Set an environment variable
    #[arg(short, long, value_name = "NAME=VALUE")]
    pub env: Vec<String>,
    /// Allocate a terminal for the program
    #[arg(short, long)]
    pub tty: bool,
    /// User id and group id
    #[arg(short, long, value_name = "UID[:GID]")]
    pub user: Option<String>,
    /// Supplementary group id
    #[arg(short = 'g', long, value_name = "GID")]
    pub additional_gids: Vec<u32>,
    /// Add a capability to the bounding, effective and permitted sets
    #[arg(short, long, value_name = "CAP")]
    pub cap: Vec<String>,
    /// AppArmor profile
    #[arg(long, value_name = "PROFILE")]
    pub apparmor: Option<String>,
    /// SELinux label
    #[arg(long, value_name = "LABEL")]
    pub process_label: Option<String>,
    /// Set no_new_privs
    #[arg(long)]
    pub no_new_privs: bool,
}

/// Parses `UID` or `UID:GID`, and nothing else (CVE-2026-30892 was a lenient parser).
///
/// # Errors
/// A part is not a number, or out of range.
pub fn parse_user(text: &str) -> Result<(u32, Option<u32>)> {
    let number = |part: &str, what: &str| {
        let plain = !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
        let parsed = part
            .parse::<u32>()
            .ok()
            .filter(|id| plain && *id != u32::MAX);
        parsed.ok_or_else(|| Error::new(format!("user {text:?}: {part:?} is not a {what}")))
    };
    match text.split_once(':') {
        None => Ok((number(text, "user id")?, None)),
        Some((uid, gid)) => Ok((number(uid, "user id")?, Some(number(gid, "group id")?))),
    }
}

impl ProcessArgs {
    /// The process to execute. `config` is the container's config, `command` the program with its
    /// arguments.
    ///
    /// # Errors
    /// The file cannot be read or parsed; a flag is malformed; there is no command.
    pub fn process(&self, config: &Config, command: &[String]) -> Result<Process> {
        match &self.process {
            Some(path) => read(path),
            None => self.flags_over(config, command),
        }
    }

    fn flags_over(&self, config: &Config, command: &[String]) -> Result<Process> {
        if command.is_empty() {
            return Err(Error::new(
                "exec needs a program: hull exec ID COMMAND, or --process FILE",
            ));
        }
        let base = config.process.clone().unwrap_or_default();
        let mut user = base.user.clone();
        // An empty one is the container's user, as in engines that pass on what they were given.
        if let Some(text) = self.user.as_ref().filter(|text| !text.is_empty()) {
            let (uid, gid) = parse_user(text)?;
            user = User {
                uid,
                gid: gid.unwrap_or(user.gid),
                ..user
            };
        }
        if !self.additional_gids.is_empty() {
            user.additional_gids.extend(&self.additional_gids);
        }
        let mut env = base.env.clone();
        env.extend(self.env.iter().cloned());
        let capabilities = if self.cap.is_empty() {
            base.capabilities.clone()
        } else {
            Some(self.with_caps(base.capabilities.clone().unwrap_or_default()))
        };
        Ok(Process {
            terminal: self.tty,
            console_size: None,
            user,
            args: command.to_vec(),
            env,
            cwd: self.cwd.clone().unwrap_or_else(|| base.cwd.clone()),
            capabilities,
            no_new_privileges: self.no_new_privs || base.no_new_privileges,
            apparmor_profile: self
                .apparmor
                .clone()
                .or_else(|| base.apparmor_profile.clone()),
            selinux_label: self
                .process_label
                .clone()
                .or_else(|| base.selinux_label.clone()),
            ..base
        })
    }

    /// Adds capabilities as runc's exec does: to the bounding, effective and permitted sets, and to
    /// the ambient set where the inheritable set has them.
    fn with_caps(&self, mut sets: Capabilities) -> Capabilities {
        for name in &self.cap {
            let inheritable = sets.inheritable.contains(name);
            let Capabilities {
                bounding,
                effective,
                inheritable: _,
                permitted,
                ambient,
            } = &mut sets;
            for set in [bounding, effective, permitted]
                .into_iter()
                .chain(inheritable.then_some(ambient))
            {
                if !set.contains(name) {
                    set.push(name.clone());
                }
            }
        }
        sets
    }
}

pub fn read(path: &Path) -> Result<Process> {
    let text = std::fs::read(path).on("read", path.display())?;
    serde_json::from_slice(&text)
        .map_err(|error| Error::new(format!("read {}: {error}", path.display())))
}

#[cfg(test)]
mod tests {
    use super::parse_user;

    // Attack: CVE-2026-30892
    #[test]
    fn users_are_numbers_and_nothing_else() {
        assert_eq!(parse_user("7").unwrap(), (7, None));
        assert_eq!(parse_user("7:8").unwrap(), (7, Some(8)));
        for bad in [
            "",
            ":",
            "7:",
            ":8",
            "-1",
            "+1",
            "7:8:9",
            "root",
            "4294967295",
            " 7",
            "0x7",
            "99999999999",
        ] {
            assert!(parse_user(bad).is_err(), "{bad}");
        }
    }
}
