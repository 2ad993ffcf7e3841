//! `hull list`.

use crate::cli::Global;
use crate::cli::table::Table;
use crate::container::{Container, Status};
use crate::stdio::output::{print, print_line};
use crate::{Context, Result};
use clap::ValueEnum;
use serde_json::{Value, json};

/// Options of `list`.
#[derive(clap::Args)]
pub struct Args {
    /// Form of the output
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

/// Carries the command out.
pub fn run(args: &Args, global: &Global) -> Result<u8> {
    let store = global.store();
    // One that is removed meanwhile is left out.
    let containers: Vec<Container> = store
        .ids()?
        .iter()
        .filter_map(|id| Container::open(&store, id).ok())
        .collect();
    if args.quiet {
        let mut ids = containers.iter().map(|container| &container.record.id);
        return ids.try_for_each(print_line).map(|()| 0);
    }
    match args.format {
        ListFormat::Json => {
            let list: Vec<Value> = containers.iter().map(entry).collect();
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
                let status = container.status();
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

/// The owner's name from the host's passwd, or `#` and the number as runc writes it.
fn owner(uid: u32) -> String {
    let passwd = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    let name = passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)? == uid.to_string()).then(|| name.to_owned())
    });
    name.unwrap_or_else(|| format!("#{uid}"))
}
