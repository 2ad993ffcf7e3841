//! `hull list`.

use crate::cli::Global;
use crate::cli::table::Table;
use crate::container::{Container, Status};
use crate::error::Kind;
use crate::stdio::output::{print, print_line};
use crate::{Context, Result};
use clap::ValueEnum;
use serde_json::{Value, json};

/// Options of `list`.
#[derive(clap::Args)]
pub struct Args {
    /// Format of the output
    #[arg(short, long, value_name = "FORMAT", default_value = "table")]
    format: ListFormat,
    /// Print ids only
    #[arg(short, long)]
    quiet: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum ListFormat {
    Table,
    Json,
}

/// Executes the command.
pub fn run(args: &Args, global: &Global) -> Result<u8> {
    let store = global.store();
    let (mut containers, mut damaged) = (Vec::new(), Vec::new());
    let ids = store.ids()?;
    for id in &ids {
        match Container::open(&store, id) {
            Ok(container) => containers.push(container),
            // A container that is deleted meanwhile is left out.
            Err(error) if error.kind() == Kind::NoSuchContainer => {}
            Err(error) => damaged.push((id, error)),
        }
    }
    for (id, error) in &damaged {
        crate::log::warn(&format!(
            "container {id} has a damaged record ({error}); hull delete --force {id} removes it"
        ));
    }
    if args.quiet {
        return ids.iter().try_for_each(print_line).map(|()| 0);
    }
    match args.format {
        ListFormat::Json => {
            let broken = damaged
                .iter()
                .map(|(id, _)| json!({ "id": id, "pid": 0, "status": "damaged" }));
            let list: Vec<Value> = containers.iter().map(entry).chain(broken).collect();
            let list = if list.is_empty() {
                Value::Null
            } else {
                Value::Array(list)
            };
            print_line(serde_json::to_string(&list).on("print", "JSON")?)?;
        }
        ListFormat::Table => {
            let mut table = Table::new(&["ID", "PID", "STATUS", "BUNDLE", "CREATED", "OWNER"]);
            for container in &containers {
                let status = container.seen_status();
                let pid = if status == Status::Stopped {
                    0
                } else {
                    container.pid()
                };
                let record = &container.record;
                let bundle = record.spec.bundle().display().to_string();
                table.row([
                    record.id.clone(),
                    pid.to_string(),
                    status.word().into(),
                    bundle,
                    record.created.clone(),
                    owner(record.owner),
                ]);
            }
            for (id, _) in &damaged {
                let none = String::new;
                table.row([
                    (*id).clone(),
                    "0".into(),
                    "damaged".into(),
                    none(),
                    none(),
                    none(),
                ]);
            }
            print(table)?;
        }
    }
    Ok(0)
}

fn entry(container: &Container) -> Value {
    let mut state = container.state();
    if let Value::Object(map) = &mut state {
        map.insert("owner".into(), json!(owner(container.record.owner)));
    }
    state
}

/// The name of the user in the host's `/etc/passwd`, or `#` and the id, as in runc.
fn owner(uid: u32) -> String {
    let passwd = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    let name = passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)? == uid.to_string()).then(|| name.to_owned())
    });
    name.unwrap_or_else(|| format!("#{uid}"))
}
