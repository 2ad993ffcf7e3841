//! Labels of the Linux security modules: AppArmor's profile, SELinux's process and mount labels.
//!
//! Where the module is off, a label of the process is an error, because the process would run
//! without what confines it. A label of a mount is left out with a warning: only SELinux reads it,
//! and without SELinux file systems refuse the option (`context=`: EINVAL).
#![forbid(unsafe_code)]

use crate::{Error, Result};
use nix::sys::statfs::{SELINUX_MAGIC, statfs};
use std::fs;
use std::path::Path;

/// Which security modules the running kernel has. Plain data, so that tests can describe other
/// hosts.
#[derive(Clone, Copy, Debug, Default, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Lsm {
    /// AppArmor is enabled.
    pub apparmor: bool,
    /// AppArmor has files of its own in /proc (Linux 5.8), so that other modules can be used
    /// together with it.
    pub apparmor_attr: bool,
    /// SELinux is enabled and has a policy.
    pub selinux: bool,
}

impl Lsm {
    /// Reads /sys and /proc; a module whose files cannot be read counts as off.
    pub fn probe() -> Self {
        let apparmor = Path::new("/sys/kernel/security/apparmor").exists()
            && fs::read("/sys/module/apparmor/parameters/enabled")
                .is_ok_and(|text| text.first() == Some(&b'Y'));
        let apparmor_attr = apparmor && Path::new("/proc/thread-self/attr/apparmor/exec").exists();
        // Without a policy the label of every process is `kernel`.
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

/// A label that the child writes before it sets no_new_privs and loads the filter. The child
/// verifies that the file is procfs's (CVE-2019-16884, CVE-2025-52881).
#[derive(Clone, Debug, PartialEq)]
pub struct Attr {
    /// The file's path below `/proc/thread-self`.
    pub file: &'static str,
    /// The text, for one write(2).
    pub text: String,
}

/// What to write so that the next execve(2) changes to the profile of `process.apparmorProfile`;
/// none for an empty profile.
///
/// # Errors
/// AppArmor is off; the profile's name contains a control character.
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

/// What to write so that the next execve(2) changes to `process.selinuxLabel`, and the session
/// keyring that is made before it has the label too; none for an empty label.
///
/// # Errors
/// SELinux is off; the label contains a control character.
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

/// What becomes of `linux.mountLabel`.
#[derive(Clone, Debug, PartialEq)]
pub enum MountLabel {
    /// The config has none.
    None,
    /// The option for every new file system but proc, sysfs and mqueue (which take none) and those
    /// that name a context themselves.
    Option(String),
    /// The label is left out, with this warning.
    Off(String),
}

/// The mount option for `linux.mountLabel`.
///
/// # Errors
/// The label contains a quote or a control character.
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
    // Quoted, because a label has commas between its categories.
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
        let MountLabel::Off(warning) = mount_label(Some(label), &OFF).unwrap() else {
            panic!("not left out")
        };
        assert!(warning.contains(label));
        assert_eq!(mount_label(None, &ON).unwrap(), MountLabel::None);
        assert!(mount_label(Some("a\",exec"), &ON).is_err());
        assert!(mount_label(Some("a\0b"), &OFF).is_err());
    }

    #[test]
    fn probing_agrees_with_the_list_of_modules() {
        // securityfs is not always mounted; where it is, its list tells which modules are enabled.
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
