//! The memory of a checkpoint: pre-dumps, a page server, and lazy pages. After each restore the
//! tests compare every page with its known content.

use crate::support::checkpoint::{Checkpoint, another, ask, started, with_criu};
use crate::support::network::own_network;
use crate::support::{Bundle, Container, fixture, harness, leaks, runtime, until};
use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::process::{Child, Command, Stdio};

tests![
    a_chain_of_pre_dumps_is_restored,
    a_chain_of_pre_dumps_is_exported,
    a_chain_without_its_parent_is_refused,
    auto_dedup_keeps_each_page_once,
    pages_go_to_a_page_server,
    lazy_pages_are_fetched_on_use,
];

/// The program's pages, of 4 KiB.
const PAGES: u64 = 1024;

/// Their size.
const MEMORY: u64 = PAGES * 4096;

/// A container with memory of known content: its program writes to every page once, and keeps
/// writing to an eighth of them.
fn with_pages() -> Bundle {
    let mut b = with_criu(Bundle::new());
    b.args(&["/bin/probe", "--probe", "pages", &PAGES.to_string()]);
    b
}

/// Starts it and waits until it has written to every page.
fn filled(b: &Bundle) -> Container<'_> {
    let c = started(b);
    until("the memory to be full", || {
        b.rootfs().join("tmp/full").exists()
    });
    c
}

/// Asserts that every page holds what was written last; the number of writes.
#[track_caller]
fn intact(b: &Bundle) -> u64 {
    let answer = ask(b, "pages");
    assert_eq!(
        answer["wrong"], "0:",
        "pages with another content than they had"
    );
    answer["writes"].parse().unwrap()
}

/// Skips the test where the kernel does not track written pages (CONFIG_MEM_SOFT_DIRTY): after a
/// write to `clear_refs`, the next write to a page, and nothing else, must set bit 55 of its entry
/// in `pagemap` (Documentation/admin-guide/mm/soft-dirty.rst).
fn needs_tracking() {
    let mut memory = vec![1_u8; 3 * 4096];
    let page = (memory.as_ptr() as u64).div_ceil(4096);
    let within = (page * 4096 - memory.as_ptr() as u64) as usize;
    let pagemap = File::open("/proc/self/pagemap").unwrap();
    let dirty = || {
        let mut entry = [0; 8];
        pagemap.read_exact_at(&mut entry, page * 8).unwrap();
        u64::from_ne_bytes(entry) >> 55 & 1 == 1
    };
    fs::write("/proc/self/clear_refs", "4").unwrap();
    let before = dirty();
    memory[within] = 2;
    std::hint::black_box(&memory);
    if before || !dirty() {
        skip!("this kernel does not track written pages (CONFIG_MEM_SOFT_DIRTY)");
    }
}

/// The bytes of memory in a directory of images: the length of the files, and their blocks on the
/// disk.
fn dumped_memory(directory: &Path) -> (u64, u64) {
    let all = fs::read_dir(directory)
        .unwrap()
        .flatten()
        .filter(|entry| entry.file_name().to_string_lossy().starts_with("pages-"));
    all.map(|entry| entry.metadata().unwrap())
        .fold((0, 0), |(length, blocks), meta| {
            (length + meta.len(), blocks + meta.blocks() * 512)
        })
}

/// A dump on top of two pre-dumps.
fn chain(b: &Bundle, c: &Container) -> [Checkpoint; 3] {
    let [first, second] = pre_dumps(b, c);
    let last = first.beside("last");
    last.dumped(b, &["--parent-path", "../second"]);
    assert!(
        c.call(&["state"]).failure().contains("does not exist"),
        "the dump ends the container"
    );
    [first, second, last]
}

/// Two pre-dumps, the second on top of the first.
fn pre_dumps(b: &Bundle, c: &Container) -> [Checkpoint; 2] {
    let first = Checkpoint::new();
    let second = first.beside("second");
    first.dumped(b, &["--pre-dump"]);
    assert_eq!(c.status(), "running");
    let mut writes = intact(b);
    until("writes after the first round", || {
        std::mem::replace(&mut writes, intact(b)) < writes
    });
    second.dumped(b, &["--pre-dump", "--parent-path", "../images"]);
    until("writes after the second round", || {
        std::mem::replace(&mut writes, intact(b)) < writes
    });
    [first, second]
}

fn a_chain_of_pre_dumps_is_restored() {
    needs_tracking();
    let b = with_pages();
    let c = filled(&b);
    let before = intact(&b);
    let [first, second, last] = chain(&b, &c);
    assert!(
        dumped_memory(&first.images).0 >= MEMORY,
        "{:?}",
        dumped_memory(&first.images)
    );
    // Only the pages that were written to meanwhile: an eighth of them.
    for directory in [&second.images, &last.images] {
        let bytes = dumped_memory(directory).0;
        assert!(
            bytes > 0 && bytes < MEMORY / 2,
            "{}: {bytes}",
            directory.display()
        );
        assert!(directory.join("parent").is_symlink());
    }
    last.restored(&b, &[]);
    assert!(intact(&b) > before);
    assert_eq!(c.status(), "running");
}

fn a_chain_of_pre_dumps_is_exported() {
    needs_tracking();
    only_hull!("--export and --import");
    let b = with_pages();
    let c = filled(&b);
    let before = intact(&b);
    let file = fixture::new_dir("exported").join("chain.hull");
    let [first, second] = pre_dumps(&b, &c);
    b.call(&[
        "checkpoint",
        "--parent-path",
        second.images.to_str().unwrap(),
        "--export",
        file.to_str().unwrap(),
        &b.id,
    ])
    .success();
    for checkpoint in [first, second] {
        fs::remove_dir_all(checkpoint.images).unwrap();
    }
    b.call(&[
        "restore",
        "--detach",
        "--import",
        file.to_str().unwrap(),
        "--bundle",
        b.dir.to_str().unwrap(),
        &b.id,
    ])
    .success();
    assert!(intact(&b) > before);
    assert_eq!(c.status(), "running");
}

fn a_chain_without_its_parent_is_refused() {
    needs_tracking();
    let b = with_pages();
    let c = filled(&b);
    let [first, _, last] = chain(&b, &c);
    let away = first.images.with_file_name("away");
    fs::rename(&first.images, &away).unwrap();
    let said = last.restore(&b, &[]).failure();
    assert_has!(said, "criu");
    assert!(c.call(&["state"]).failure().contains("does not exist"));
    assert!(!b.cgroup_dir("freezer").exists(), "the cgroup is left");
    fs::rename(away, &first.images).unwrap();
    last.restored(&b, &[]);
    intact(&b);
}

fn auto_dedup_keeps_each_page_once() {
    needs_tracking();
    let b = with_pages();
    let _c = filled(&b);
    let first = Checkpoint::new();
    first.dumped(&b, &["--pre-dump"]);
    let before = dumped_memory(&first.images);
    let mut writes = intact(&b);
    until("writes", || {
        std::mem::replace(&mut writes, intact(&b)) < writes
    });
    let last = first.beside("last");
    last.dumped(&b, &["--parent-path", "../images", "--auto-dedup"]);
    // criu punches holes for pages that the second dump has anew: the first file keeps its length.
    let after = dumped_memory(&first.images);
    assert!(
        after.0 == before.0 && after.1 < before.1,
        "{before:?}, {after:?}"
    );
    last.restored(&b, &["--auto-dedup"]);
    intact(&b);
    // After the restore the pages are in memory, and no file has them any more.
    let (first, last) = (
        dumped_memory(&first.images).1,
        dumped_memory(&last.images).1,
    );
    assert!(first < after.1 / 4 && last < MEMORY / 8, "{first}, {last}");
}

/// A server of criu's: a page server or the daemon of lazy pages.
struct Server(Child);

impl Server {
    fn start(args: &[&str]) -> Self {
        let mut command = Command::new(crate::support::checkpoint::criu());
        command
            .args(args)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        Self(leaks::spawn(&mut command).unwrap())
    }

    /// Waits for its end, with status 0.
    #[track_caller]
    fn ends(&mut self, log: &Path) {
        let in_time = harness::wait_within(&mut self.0, runtime::LIMIT);
        let status = self.0.wait().unwrap();
        leaks::forget(&self.0);
        assert!(
            in_time && status.success(),
            "{status}\n{}",
            fs::read_to_string(log).unwrap_or_default()
        );
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
        leaks::forget(&self.0);
    }
}

const PORT: &str = "27277";

/// Whether a server listens at the port. It must not be asked by connecting, since it serves one
/// client. (State 0A of /proc/net/tcp is LISTEN.)
fn listening() -> bool {
    let port = format!(":{:04X} ", PORT.parse::<u16>().unwrap());
    ["tcp", "tcp6"].iter().any(|name| {
        fs::read_to_string(format!("/proc/thread-self/net/{name}")).is_ok_and(|text| {
            text.lines()
                .any(|line| line.contains(&port) && line.contains(" 0A "))
        })
    })
}

fn pages_go_to_a_page_server() {
    let b = with_pages();
    own_network();
    let c = filled(&b);
    let (pages, checkpoint) = (fixture::new_dir("pages"), Checkpoint::new());
    let log = pages.join("server.log");
    let mut server = Server::start(&[
        "page-server",
        "--images-dir",
        pages.to_str().unwrap(),
        "--address",
        "127.0.0.1",
        "--port",
        PORT,
        "--log-file",
        log.to_str().unwrap(),
    ]);
    until("the page server", listening);
    checkpoint.dumped(&b, &["--page-server", &format!("127.0.0.1:{PORT}")]);
    server.ends(&log);
    drop(c);
    assert_eq!(
        dumped_memory(&checkpoint.images).0,
        0,
        "the other images have pages"
    );
    assert!(dumped_memory(&pages).0 >= MEMORY);
    for entry in fs::read_dir(&pages)
        .unwrap()
        .flatten()
        .filter(|entry| entry.path().extension().is_some_and(|e| e == "img"))
    {
        fs::copy(entry.path(), checkpoint.images.join(entry.file_name())).unwrap();
    }
    let _c = Container::new(&b);
    checkpoint.restored(&b, &[]);
    intact(&b);
}

/// As users of runc do it: the dump keeps the pages, `criu lazy-pages` fetches them, and the
/// restored container runs before it has them.
fn lazy_pages_are_fetched_on_use() {
    let all = runtime::text("/proc/self/status");
    let bounding = all
        .lines()
        .find_map(|line| line.strip_prefix("CapBnd:"))
        .unwrap();
    // criu makes pipes that are longer than the limit for others.
    if u64::from_str_radix(bounding.trim(), 16).unwrap() >> 24 & 1 == 0 {
        skip!("criu's lazy pages need CAP_SYS_RESOURCE");
    }
    let b = with_pages();
    own_network();
    let _c = filled(&b);
    let before = intact(&b);
    let checkpoint = Checkpoint::new();
    let (mut ready, status) = std::io::pipe().unwrap();
    rustix::io::fcntl_setfd(&status, rustix::io::FdFlags::empty()).unwrap();
    let number = std::os::fd::AsRawFd::as_raw_fd(&status).to_string();
    let dump = checkpoint.spawn_dump(
        &b,
        &[
            "--lazy-pages",
            "--page-server",
            &format!("127.0.0.1:{PORT}"),
            "--status-fd",
            &number,
        ],
    );
    drop(status);
    let mut said = [1; 8];
    assert!(
        harness::readable_within(&ready, runtime::LIMIT),
        "nothing was written to --status-fd"
    );
    let count = ready.read(&mut said).unwrap();
    assert_eq!(said[..count], [0], "{}", checkpoint.log("dump.log"));
    let (images, work) = (
        checkpoint.images.to_str().unwrap(),
        checkpoint.work.to_str().unwrap(),
    );
    let mut server = Server::start(&[
        "lazy-pages",
        "--page-server",
        "--address",
        "127.0.0.1",
        "--port",
        PORT,
        "-D",
        images,
        "-W",
        work,
        "-vv",
        "-o",
        "lazy.log",
    ]);
    until("the daemon's socket", || {
        checkpoint.work.join("lazy-pages.socket").exists()
    });
    let other = another(&b);
    let c = Container::new(&other);
    checkpoint.restored(&other, &["--lazy-pages"]);
    assert!(intact(&other) > before);
    server.ends(&checkpoint.work.join("lazy.log"));
    assert_eq!(
        runtime::wait(dump, runtime::LIMIT),
        0,
        "the dump ends when it has sent all pages"
    );
    assert_eq!(c.status(), "running");
    assert!(
        b.call(&["state", &b.id])
            .failure()
            .contains("does not exist")
    );
    // The pages came over the network: no image has them.
    assert!(
        dumped_memory(&checkpoint.images).0 < MEMORY,
        "{:?}",
        dumped_memory(&checkpoint.images)
    );
    assert_has!(checkpoint.log("lazy.log"), "transferred");
}
