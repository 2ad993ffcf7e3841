//! Memory that is saved in rounds, goes to a page server, or comes back when it is used. Pages
//! whose content is known are compared one by one afterwards.

use crate::checkpoint_world::{Saved, another, ask, own_network, started, with_criu};
use crate::support::{Bundle, Container, fixture, harness, leaks, runtime, until};
use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::process::{Child, Command, Stdio};

tests![
    a_chain_of_pre_dumps_is_restored,
    a_chain_is_exported_whole,
    a_chain_without_its_parent_is_not_restored,
    auto_dedup_keeps_each_page_once,
    pages_go_to_a_page_server,
    lazy_pages_come_when_they_are_used,
];

/// The program's pages, of 4 KiB.
const PAGES: u64 = 1024;

/// Their size.
const MEMORY: u64 = PAGES * 4096;

/// A container with memory of known content, all of which is written once and an eighth for ever.
fn remembers() -> Bundle {
    let mut b = with_criu(Bundle::new());
    b.args(&["/bin/probe", "--probe", "pages", &PAGES.to_string()]);
    b
}

fn filled(b: &Bundle) -> Container<'_> {
    let c = started(b);
    until("the memory to be full", || {
        b.rootfs().join("tmp/full").exists()
    });
    c
}

/// How many writes there were; every page holds what was written last.
#[track_caller]
fn intact(b: &Bundle) -> u64 {
    let answer = ask(b, "pages");
    assert_eq!(
        answer["wrong"], "0:",
        "pages with another content than they had"
    );
    answer["writes"].parse().unwrap()
}

/// Skips where the kernel does not tell which pages were written (CONFIG_MEM_SOFT_DIRTY): after the
/// bits are cleared (`clear_refs`), bit 55 of a page's entry in `pagemap` must come with a write,
/// and not before (Documentation/admin-guide/mm/soft-dirty.rst).
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

/// The bytes of memory in a folder of images: as long as they are, and as the disk holds them.
fn saved_memory(folder: &Path) -> (u64, u64) {
    let all = fs::read_dir(folder)
        .unwrap()
        .flatten()
        .filter(|entry| entry.file_name().to_string_lossy().starts_with("pages-"));
    all.map(|entry| entry.metadata().unwrap())
        .fold((0, 0), |(length, blocks), meta| {
            (length + meta.len(), blocks + meta.blocks() * 512)
        })
}

/// The folder of images beside another's.
fn beside(saved: &Saved, name: &str) -> Saved {
    Saved {
        images: saved.images.with_file_name(name),
        work: saved.work.with_file_name(format!("{name}-work")),
    }
}

/// A dump on top of two pre-dumps.
fn chain(b: &Bundle, c: &Container) -> [Saved; 3] {
    let [first, second] = pre_dumps(b, c);
    let last = beside(&first, "last");
    last.dumped(b, &["--parent-path", "../second"]);
    assert!(
        c.call(&["state"]).failure().contains("does not exist"),
        "the dump ends the container"
    );
    [first, second, last]
}

/// Two pre-dumps, the second on top of the first.
fn pre_dumps(b: &Bundle, c: &Container) -> [Saved; 2] {
    let first = Saved::new();
    let second = beside(&first, "second");
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
    let b = remembers();
    let c = filled(&b);
    let before = intact(&b);
    let [first, second, last] = chain(&b, &c);
    assert!(
        saved_memory(&first.images).0 >= MEMORY,
        "{:?}",
        saved_memory(&first.images)
    );
    // Only what was written to meanwhile: an eighth of it.
    for folder in [&second.images, &last.images] {
        let bytes = saved_memory(folder).0;
        assert!(
            bytes > 0 && bytes < MEMORY / 2,
            "{}: {bytes}",
            folder.display()
        );
        assert!(folder.join("parent").is_symlink());
    }
    let out = last.restore(&b, &[]);
    assert!(
        out.status == 0,
        "{}\n{}",
        out.stderr,
        last.log("restore.log")
    );
    assert!(intact(&b) > before);
    assert_eq!(c.status(), "running");
}

fn a_chain_is_exported_whole() {
    needs_tracking();
    only_hull!("--export and --import");
    let b = remembers();
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
    for folder in [first, second] {
        fs::remove_dir_all(folder.images).unwrap();
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

fn a_chain_without_its_parent_is_not_restored() {
    needs_tracking();
    let b = remembers();
    let c = filled(&b);
    let [first, _, last] = chain(&b, &c);
    let away = first.images.with_file_name("away");
    fs::rename(&first.images, &away).unwrap();
    let said = last.restore(&b, &[]).failure();
    assert_has!(said, "criu");
    assert!(c.call(&["state"]).failure().contains("does not exist"));
    assert!(!b.cgroup_dir("freezer").exists(), "nothing is left of it");
    fs::rename(away, &first.images).unwrap();
    last.restore(&b, &[]).success();
    intact(&b);
}

fn auto_dedup_keeps_each_page_once() {
    needs_tracking();
    let b = remembers();
    let _c = filled(&b);
    let first = Saved::new();
    first.dumped(&b, &["--pre-dump"]);
    let before = saved_memory(&first.images);
    let mut writes = intact(&b);
    until("writes", || {
        std::mem::replace(&mut writes, intact(&b)) < writes
    });
    let last = beside(&first, "last");
    last.dumped(&b, &["--parent-path", "../images", "--auto-dedup"]);
    // What the second has anew is cut out of the first, whose file stays as long as it was.
    let after = saved_memory(&first.images);
    assert!(
        after.0 == before.0 && after.1 < before.1,
        "{before:?}, {after:?}"
    );
    let out = last.restore(&b, &["--auto-dedup"]);
    assert!(
        out.status == 0,
        "{}\n{}",
        out.stderr,
        last.log("restore.log")
    );
    intact(&b);
    // And what is back in memory is in no file any more.
    let (first, last) = (saved_memory(&first.images).1, saved_memory(&last.images).1);
    assert!(first < after.1 / 4 && last < MEMORY / 8, "{first}, {last}");
}

/// One of criu's servers.
struct Server(Child);

impl Server {
    fn start(args: &[&str]) -> Self {
        let mut command = Command::new(crate::checkpoint_world::criu());
        command
            .args(args)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        Self(leaks::spawn(&mut command).unwrap())
    }

    /// Its end, which must be a good one.
    #[track_caller]
    fn ends(&mut self, log: &Path) {
        let in_time = harness::wait_within(&mut self.0, runtime::LIMIT);
        let status = self.0.wait().unwrap();
        leaks::OWN
            .lock()
            .unwrap()
            .remove(&self.0.id().cast_signed());
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
        leaks::OWN
            .lock()
            .unwrap()
            .remove(&self.0.id().cast_signed());
    }
}

const PORT: &str = "27277";

/// Whether somebody listens at the port, asked without connecting: the servers serve one client.
/// (proc_net: state 0A is LISTEN.)
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
    let b = remembers();
    own_network();
    let c = filled(&b);
    let (pages, saved) = (fixture::new_dir("pages"), Saved::new());
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
    saved.dumped(&b, &["--page-server", &format!("127.0.0.1:{PORT}")]);
    server.ends(&log);
    drop(c);
    assert_eq!(
        saved_memory(&saved.images).0,
        0,
        "no page is where the other images are"
    );
    assert!(saved_memory(&pages).0 >= MEMORY);
    for entry in fs::read_dir(&pages)
        .unwrap()
        .flatten()
        .filter(|entry| entry.path().extension().is_some_and(|e| e == "img"))
    {
        fs::copy(entry.path(), saved.images.join(entry.file_name())).unwrap();
    }
    let _c = Container::new(&b);
    let out = saved.restore(&b, &[]);
    assert!(
        out.status == 0,
        "{}\n{}",
        out.stderr,
        saved.log("restore.log")
    );
    intact(&b);
}

/// As runc's users do it: the dump waits with the pages, `criu lazy-pages` fetches them, and the
/// restored container runs before it has them.
fn lazy_pages_come_when_they_are_used() {
    let all = runtime::text("/proc/self/status");
    let bounding = all
        .lines()
        .find_map(|line| line.strip_prefix("CapBnd:"))
        .unwrap();
    // CAP_SYS_RESOURCE: criu's pipes are longer than others may have.
    if u64::from_str_radix(bounding.trim(), 16).unwrap() >> 24 & 1 == 0 {
        skip!("criu's pages need CAP_SYS_RESOURCE here");
    }
    let b = remembers();
    own_network();
    let _c = filled(&b);
    let before = intact(&b);
    let saved = Saved::new();
    let (mut ready, status) = std::io::pipe().unwrap();
    rustix::io::fcntl_setfd(&status, rustix::io::FdFlags::empty()).unwrap();
    let number = std::os::fd::AsRawFd::as_raw_fd(&status).to_string();
    let mut dump = saved.begun(
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
        "--status-fd says nothing"
    );
    let count = ready.read(&mut said).unwrap();
    assert_eq!(said[..count], [0], "{}", saved.log("dump.log"));
    let (images, work) = (saved.images.to_str().unwrap(), saved.work.to_str().unwrap());
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
        saved.work.join("lazy-pages.socket").exists()
    });
    let other = another(&b);
    let c = Container::new(&other);
    let out = saved.restore(&other, &["--lazy-pages"]);
    assert!(
        out.status == 0,
        "{}\n{}",
        out.stderr,
        saved.log("restore.log")
    );
    assert!(intact(&other) > before);
    server.ends(&saved.work.join("lazy.log"));
    assert!(
        dump.wait().unwrap().success(),
        "the source ends when its pages are all away"
    );
    leaks::OWN.lock().unwrap().remove(&dump.id().cast_signed());
    assert_eq!(c.status(), "running");
    assert!(
        b.call(&["state", &b.id])
            .failure()
            .contains("does not exist")
    );
    // They came over the wire: no image holds them.
    assert!(
        saved_memory(&saved.images).0 < MEMORY,
        "{:?}",
        saved_memory(&saved.images)
    );
    assert_has!(saved.log("lazy.log"), "transferred");
}
