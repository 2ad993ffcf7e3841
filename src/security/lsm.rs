//! Labels of the Linux security modules: AppArmor's profile, SELinux's process and mount labels.
//!
//! Where the module is off, what confines the process is an error, for the process would run
//! without it; a mount's label is left out with a warning, for the mount is the same without it:
//! only SELinux reads labels, and file systems refuse the option (`context=`: EINVAL) where there
//! is no SELinux.
#![forbid(unsafe_code)]

use crate::{Error, Result};
use nix::sys::statfs::{SELINUX_MAGIC, statfs};
use std::fs;
use std::path::Path;

/// What the running kernel does. Plain data: a test makes up its own.
#[derive(Clone, Copy, Debug, Default, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Lsm {
    /// AppArmor confines programs.
    pub apparmor: bool,
    /// AppArmor has files of its own in /proc (Linux 5.8), so that other modules can be used beside
    /// it.
    pub apparmor_attr: bool,
    /// SELinux has a policy.
    pub selinux: bool,
}

impl Lsm {
    /// Asks /sys and /proc; where they are not readable, the module counts as off.
    pub fn probe() -> Self {
        let apparmor = Path::new("/sys/kernel/security/apparmor").exists()
            && fs::read("/sys/module/apparmor/parameters/enabled")
                .is_ok_and(|text| text.first() == Some(&b'Y'));
        let apparmor_attr = apparmor && Path::new("/proc/thread-self/attr/apparmor/exec").exists();
        // Without a policy every process is `kernel`.
        let selinux = statfs("/sys/fs/selinux")
            .is_ok_and(|stat| stat.filesystem_type() == SELINUX_MAGIC)
            && fs::read("/proc/thread-self/attr/current")
                .is_ok_and(|label| label.strip_suffix(b"\0").unwrap_or(&label) != b"kernel");
        Self {
            apparmor,
            apparmor_attr,
            selinux,
        }
    }
}

/// A label to be written before no_new_privs and the filter. The writer verifies that the file is
/// procfs's (CVE-2019-16884 and after).
#[derive(Clone, Debug, PartialEq)]
pub struct Attr {
    /// Below `/proc/thread-self`.
    pub file: &'static str,
    /// The whole of what is written, in one write(2).
    pub text: String,
}

/// What to write so that the next execve(2) has `process.apparmorProfile`; none for an empty
/// profile.
///
/// # Errors
/// AppArmor is off.
pub fn apparmor_exec(profile: Option<&str>, lsm: &Lsm) -> Result<Option<Attr>> {
    let Some(profile) = profile.filter(|profile| !profile.is_empty()) else {
        return Ok(None);
    };
    check(profile, "process.apparmorProfile")?;
    if !lsm.apparmor {
        let why = "apparmor is disabled or not supported on this host";
        return Err(Error::new(format!(
            "unable to apply apparmor profile: apparmor failed to apply profile {profile}: {why}"
        )));
    }
    let file = if lsm.apparmor_attr {
        "attr/apparmor/exec"
    } else {
        "attr/exec"
    };
    Ok(Some(Attr {
        file,
        text: format!("exec {profile}"),
    }))
}

/// What to write so that the next execve(2) has `process.selinuxLabel`, and the session keyring
/// made before it too; none for an empty label.
///
/// # Errors
/// SELinux is off.
pub fn selinux_exec(label: Option<&str>, lsm: &Lsm) -> Result<Vec<Attr>> {
    let Some(label) = label.filter(|label| !label.is_empty()) else {
        return Ok(Vec::new());
    };
    check(label, "process.selinuxLabel")?;
    if !lsm.selinux {
        return Err(Error::new(
            "selinux label is specified in config, but selinux is disabled or not supported",
        ));
    }
    Ok(["attr/keycreate", "attr/exec"]
        .map(|file| Attr {
            file,
            text: label.into(),
        })
        .into())
}

/// A mount label where SELinux can hold it, or the sentence that says why not.
#[derive(Clone, Debug, PartialEq)]
pub enum MountLabel {
    /// Nothing is asked for.
    None,
    /// The option for every new file system but proc, sysfs and mqueue (which take none) and those
    /// that name a context themselves.
    Option(String),
    /// Left out, with this warning.
    Off(String),
}

/// `linux.mountLabel`.
///
/// # Errors
/// A label that cannot stand between quotes.
pub fn mount_label(label: Option<&str>, lsm: &Lsm) -> Result<MountLabel> {
    let Some(label) = label.filter(|label| !label.is_empty()) else {
        return Ok(MountLabel::None);
    };
    check(label, "linux.mountLabel")?;
    if label.contains('"') {
        return Err(Error::new(format!(
            "linux.mountLabel {label:?}: a quote in a label"
        )));
    }
    if !lsm.selinux {
        return Ok(MountLabel::Off(format!(
            "linux.mountLabel {label} is left out: selinux is disabled or not supported"
        )));
    }
    // Quoted, as a label has commas between its categories.
    Ok(MountLabel::Option(format!("context=\"{label}\"")))
}

/// A label is one line of text.
fn check(label: &str, field: &str) -> Result<()> {
    match label.chars().any(char::is_control) {
        true => Err(Error::new(format!(
            "{field} {label:?}: a control character in a label"
        ))),
        false => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OFF: Lsm = Lsm {
        apparmor: false,
        apparmor_attr: false,
        selinux: false,
    };
    const ON: Lsm = Lsm {
        apparmor: true,
        apparmor_attr: true,
        selinux: true,
    };

    #[test]
    fn a_profile_needs_apparmor() {
        let attr = apparmor_exec(Some("box"), &ON).unwrap().unwrap();
        assert_eq!(
            (attr.file, attr.text.as_str()),
            ("attr/apparmor/exec", "exec box")
        );
        let old = Lsm {
            apparmor_attr: false,
            ..ON
        };
        assert_eq!(
            apparmor_exec(Some("box"), &old).unwrap().unwrap().file,
            "attr/exec"
        );
        let error = apparmor_exec(Some("box"), &OFF).unwrap_err().to_string();
        assert!(
            error.starts_with("unable to apply apparmor profile: apparmor failed to apply profile"),
            "{error}"
        );
        assert!(apparmor_exec(Some("unconfined"), &OFF).is_err()); // as its peers do
        assert!(apparmor_exec(Some("a\nb"), &ON).is_err());
        for none in [None, Some("")] {
            assert_eq!(apparmor_exec(none, &OFF).unwrap(), None);
        }
    }

    #[test]
    fn a_process_label_needs_selinux() {
        let attrs = selinux_exec(Some("u:r:t:s0"), &ON).unwrap();
        assert_eq!(
            attrs.iter().map(|attr| attr.file).collect::<Vec<_>>(),
            ["attr/keycreate", "attr/exec"]
        );
        assert!(attrs.iter().all(|attr| attr.text == "u:r:t:s0"));
        let error = selinux_exec(Some("u:r:t:s0"), &OFF)
            .unwrap_err()
            .to_string();
        assert_eq!(
            error,
            "selinux label is specified in config, but selinux is disabled or not supported"
        );
        assert_eq!(selinux_exec(Some(""), &OFF).unwrap(), []);
    }

    #[test]
    fn a_mount_label_is_quoted_and_left_out_without_selinux() {
        let label = "system_u:object_r:container_file_t:s0:c1,c2";
        assert_eq!(
            mount_label(Some(label), &ON).unwrap(),
            MountLabel::Option(format!("context=\"{label}\""))
        );
        assert!(
            matches!(mount_label(Some(label), &OFF).unwrap(), MountLabel::Off(warning) if warning.contains(label))
        );
        assert_eq!(mount_label(None, &ON).unwrap(), MountLabel::None);
        assert!(mount_label(Some("a\",exec"), &ON).is_err());
        assert!(mount_label(Some("a\0b"), &OFF).is_err());
    }

    #[test]
    fn probing_agrees_with_the_list_of_modules() {
        // securityfs is not always mounted; where it is, its list says what runs.
        let Ok(list) = fs::read_to_string("/sys/kernel/security/lsm") else {
            println!("not compared: securityfs is not mounted");
            assert!(!Lsm::probe().apparmor);
            return;
        };
        let lsm = Lsm::probe();
        assert!(!lsm.apparmor || list.contains("apparmor"));
        assert!(!lsm.selinux || list.contains("selinux"));
    }
}
