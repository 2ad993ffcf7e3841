//! `hull init`: a fresh process that executes container steps, as the cloned child would.

use super::executor::execute;
use crate::process::child::identity;
use crate::step::child::Buffers;
use crate::step::container::slot;
use crate::step::wire::Malformed;
use crate::sys::file;
use crate::sys::page::Page;
use crate::{Context, Error, Result};

/// `hull init`: reads the script and executes it, in this fresh process, as the cloned child
/// would.
///
/// # Errors
/// A script or table that cannot be read. Otherwise it does not return.
pub fn run_init(script: i32, slots: &[i32]) -> Result<std::convert::Infallible> {
    file::rewind(script).on("read", "the script")?;
    let mut bytes = Vec::new();
    let mut window = [0_u8; 65536];
    loop {
        match file::read(script, &mut window).on("read", "the script")? {
            0 => break,
            count => bytes.extend_from_slice(&window[..count]),
        }
    }
    file::close(script);
    for &raw in slots.iter().filter(|raw| **raw >= 0) {
        file::set_cloexec(raw).on("keep from the container", raw)?;
    }
    identity::kept_over_execve().on("restore", "the capabilities")?;
    let page = slots.get(slot::PAGE as usize).copied().unwrap_or(-1);
    let page = Page::from_file(page).on("map", "the report page")?;
    let mut buffers =
        Buffers::for_steps(&bytes).map_err(|Malformed| Error::new("the script cannot be read"))?;
    execute(&bytes, slots, page.report(), &mut buffers)
}
