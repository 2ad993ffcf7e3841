//! `hull init`: a fresh process that executes container steps, as the cloned child would.

use super::executor::execute;
use crate::process::child::identity;
use crate::step::child::Buffers;
use crate::step::container::slot;
use crate::step::wire::Malformed;
use crate::sys::file;
use crate::sys::page::Page;
use crate::{Context, Error, Result};

/// Reads the container steps from the descriptor `steps` and executes them in this process.
///
/// # Errors
/// The steps or the report page cannot be read; the steps are malformed. Otherwise it does not
/// return.
pub fn run_init(steps: i32, slots: &[i32]) -> Result<std::convert::Infallible> {
    file::rewind(steps).on("read", "the container steps")?;
    let mut bytes = Vec::new();
    let mut window = [0_u8; 65536];
    loop {
        match file::read(steps, &mut window).on("read", "the container steps")? {
            0 => break,
            count => bytes.extend_from_slice(&window[..count]),
        }
    }
    file::close(steps);
    for &raw in slots.iter().filter(|raw| **raw >= 0) {
        file::set_cloexec(raw).on("set close-on-exec of descriptor", raw)?;
    }
    identity::kept_over_execve().on("restore", "the capabilities")?;
    let page = slots.get(slot::PAGE as usize).copied().unwrap_or(-1);
    let page = Page::from_file(page).on("map", "the report page")?;
    let mut buffers = Buffers::for_steps(&bytes)
        .map_err(|Malformed| Error::new("the container steps are malformed"))?;
    execute(&bytes, slots, page.report(), &mut buffers)
}
