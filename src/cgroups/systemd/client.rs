//! The methods of systemd that hull calls (org.freedesktop.systemd1(5)).

use super::bus::{Bus, Failure, Message, variant};
use super::unit::Unit;
use super::value::{Property, Value};
use crate::{Error, Result};
use cgroups_rs::systemd as names;
use nix::unistd::Pid;
use zvariant::{DynamicType, ObjectPath};

const SYSTEMD: &str = "org.freedesktop.systemd1";
const OBJECT: &str = "/org/freedesktop/systemd1";
const MANAGER: &str = "org.freedesktop.systemd1.Manager";
const UNIT_EXISTS: &str = "org.freedesktop.systemd1.UnitExists";

/// A connection to an instance of systemd. It has no thread, and closes when it is dropped.
#[derive(Debug)]
pub struct Client {
    bus: Bus,
    /// systemd's version, once it has been queried.
    version: Option<u32>,
}

impl Client {
    /// Connects to the system's instance or, with `user`, the user's: over the bus, else over
    /// systemd's private socket.
    ///
    /// # Errors
    /// Neither socket answers; the error has the reason of each.
    pub fn connect(user: bool) -> Result<Self> {
        let context = if user {
            "reach the user's systemd"
        } else {
            "reach systemd"
        };
        let mut failed = Vec::new();
        for (path, is_direct) in addresses(user) {
            match Bus::connect(&path, is_direct) {
                Ok(bus) => {
                    return Self { bus, version: None }
                        .subscribed()
                        .map_err(|e| e.within(context));
                }
                Err(error) => failed.push(error.to_string()),
            }
        }
        if failed.is_empty() {
            failed.push("XDG_RUNTIME_DIR and DBUS_SESSION_BUS_ADDRESS are not set".to_owned());
        }
        Err(Error::new(format!("{context}: {}", failed.join("; "))))
    }

    /// Subscribes to the signals about jobs, which systemd sends only to subscribers.
    fn subscribed(mut self) -> Result<Self> {
        if !self.bus.is_direct {
            let rule = format!(
                "type='signal',sender='{SYSTEMD}',interface='{MANAGER}',member='JobRemoved'"
            );
            self.bus.call(
                "org.freedesktop.DBus",
                "/org/freedesktop/DBus",
                "org.freedesktop.DBus",
                "AddMatch",
                Some(&rule),
            )?;
        }
        self.manager("Subscribe", None::<&()>)?;
        Ok(self)
    }

    fn manager<B: serde::Serialize + DynamicType>(
        &mut self,
        member: &str,
        body: Option<&B>,
    ) -> std::result::Result<Message, Failure> {
        self.bus.call(SYSTEMD, OBJECT, MANAGER, member, body)
    }

    /// systemd's version: the first number of texts such as `252.39-1~deb12u1` and `v245`.
    fn version(&mut self) -> Result<u32> {
        if let Some(version) = self.version {
            return Ok(version);
        }
        let message = self.bus.call(
            SYSTEMD,
            OBJECT,
            "org.freedesktop.DBus.Properties",
            "Get",
            Some(&(MANAGER, "Version")),
        )?;
        let value: zvariant::OwnedValue = message.body()?;
        let text =
            String::try_from(value).map_err(|e| Error::new(format!("systemd's version: {e}")))?;
        let digits: String = text
            .chars()
            .skip_while(|c| !c.is_ascii_digit())
            .take_while(char::is_ascii_digit)
            .collect();
        let version = digits
            .parse()
            .map_err(|_| Error::new(format!("systemd's version: \"{text}\"")))?;
        self.version = Some(version);
        Ok(version)
    }

    /// The properties that this version of systemd has, as D-Bus values.
    fn fitting(
        &mut self,
        properties: &[Property],
    ) -> Result<Vec<(String, zvariant::Value<'static>)>> {
        let newest = properties.iter().map(|p| p.since).max().unwrap_or(0);
        let version = if newest == 0 { 0 } else { self.version()? };
        let fitting = properties.iter().filter(|p| p.since <= version);
        fitting
            .map(|p| {
                Ok((
                    p.name.clone(),
                    variant(&p.value).map_err(|e| e.within(&p.name))?,
                ))
            })
            .collect()
    }

    /// Starts a unit with a process in it and waits until systemd has finished the job. A failed
    /// unit of the same name is reset before.
    ///
    /// # Errors
    /// systemd refuses, or does not finish the job within 30 s.
    pub fn start(&mut self, unit: &Unit, more: &[Property], pid: Pid) -> Result<()> {
        let mut all = unit.properties.clone();
        all.extend(more.iter().cloned());
        let pids = vec![Value::U32(pid.as_raw().cast_unsigned())];
        all.push(Property::new(
            names::PIDS,
            Value::Array("u".to_owned(), pids),
        ));
        let properties = self.fitting(&all)?;
        let auxiliary: Vec<(String, Vec<(String, zvariant::Value)>)> = Vec::new();
        let body = (
            unit.name.as_str(),
            names::UNIT_MODE_REPLACE,
            &properties,
            &auxiliary,
        );
        let started = match self.manager("StartTransientUnit", Some(&body)) {
            Err(Failure::Refused(name, _)) if name == UNIT_EXISTS => {
                self.reset_failed(&unit.name);
                self.manager("StartTransientUnit", Some(&body))
            }
            other => other,
        };
        let done = started
            .map_err(Error::from)
            .and_then(|message| self.wait(&message));
        done.map_err(|e| {
            self.reset_failed(&unit.name);
            e.within(format_args!("unable to start unit \"{}\"", unit.name))
        })
    }

    /// Waits for the job that a call has started.
    fn wait(&mut self, started: &Message) -> Result<()> {
        let job: zvariant::OwnedObjectPath = started.body()?;
        loop {
            let removed = self.bus.signal("JobRemoved")?;
            let (_, path, unit, result): (u32, zvariant::OwnedObjectPath, String, String) =
                removed.body()?;
            if ObjectPath::from(path) == ObjectPath::from(job.clone()) {
                return if result == "done" {
                    Ok(())
                } else {
                    Err(Error::new(format!("systemd's job for {unit}: {result}")))
                };
            }
        }
    }

    /// Stops a unit with its processes; one that does not exist is no error.
    ///
    /// # Errors
    /// systemd refuses, or does not finish the job within 30 s.
    pub fn stop(&mut self, name: &str) -> Result<()> {
        let stopped = match self.manager("StopUnit", Some(&(name, names::UNIT_MODE_REPLACE))) {
            Ok(message) => self.wait(&message),
            Err(Failure::Refused(error, _)) if error == names::NO_SUCH_UNIT => Ok(()),
            Err(failure) => Err(failure.into()),
        };
        self.reset_failed(name);
        stopped.map_err(|e| e.within(format_args!("unable to stop unit \"{name}\"")))
    }

    /// Changes properties of a running unit, until it stops.
    ///
    /// # Errors
    /// systemd refuses a property, or the unit does not exist.
    pub fn set(&mut self, name: &str, properties: &[Property]) -> Result<()> {
        let properties = self.fitting(properties)?;
        if properties.is_empty() {
            return Ok(());
        }
        let set = self.manager("SetUnitProperties", Some(&(name, true, &properties)));
        set.map(drop).map_err(|e| {
            Error::from(e).within(format_args!("unable to set properties of unit \"{name}\""))
        })?;
        // systemd answers before it writes the cgroup's files, and writes them before it handles
        // the next call (`manager_loop`, src/core/manager.c).
        self.version = None;
        self.version().map(drop)
    }

    /// Moves a process into a unit's cgroup, or into the one at `below` in it.
    ///
    /// # Errors
    /// systemd refuses, or the unit does not exist.
    pub fn attach(&mut self, name: &str, below: &str, pid: Pid) -> Result<()> {
        let pids = vec![pid.as_raw().cast_unsigned()];
        let done = self.manager("AttachProcessesToUnit", Some(&(name, below, &pids)));
        done.map(drop).map_err(|e| {
            Error::from(e).within(format_args!(
                "unable to move process {pid} into unit \"{name}\""
            ))
        })
    }

    /// Resets a failed unit, which keeps its name until then. For another unit it has no effect.
    fn reset_failed(&mut self, name: &str) {
        let _ = self.manager("ResetFailedUnit", Some(&name));
    }
}

/// The sockets to try in their order, and whether each is systemd's private one.
fn addresses(user: bool) -> Vec<(String, bool)> {
    let mut all = Vec::new();
    let variable = if user {
        "DBUS_SESSION_BUS_ADDRESS"
    } else {
        "DBUS_SYSTEM_BUS_ADDRESS"
    };
    all.extend(
        std::env::var(variable)
            .ok()
            .and_then(|address| socket(&address))
            .map(|path| (path, false)),
    );
    if user {
        if let Ok(dir) = std::env::var("XDG_RUNTIME_DIR") {
            all.extend([
                (format!("{dir}/bus"), false),
                (format!("{dir}/systemd/private"), true),
            ]);
        }
    } else {
        all.extend([
            ("/run/dbus/system_bus_socket".to_owned(), false),
            ("/run/systemd/private".to_owned(), true),
        ]);
    }
    all
}

/// The path of the first Unix socket of a D-Bus address; an abstract one begins with `@`.
pub(in crate::cgroups) fn socket(address: &str) -> Option<String> {
    address.split(';').find_map(|one| {
        let keys = one.strip_prefix("unix:")?;
        keys.split(',')
            .find_map(|pair| match pair.split_once('=')? {
                ("path", path) => Some(path.to_owned()),
                ("abstract", name) => Some(format!("@{name}")),
                _ => None,
            })
    })
}
