//! The Debian package: `packaging/deb` (`make deb`) makes it, dpkg installs it below a directory,
//! and its program runs a container. README shows the same configurations of engines as the package
//! has.

use crate::support::Bundle;
use crate::support::fixture::new_dir;
use crate::support::runtime::{LIMIT, Output, finish, path, text};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

tests![
    a_package_is_made_read_installed_run_and_removed,
    a_package_is_reproducible,
    the_readme_shows_what_the_package_brings
];

/// The configurations of engines, by their names in the package.
const CONFIGURATIONS: [&str; 6] = [
    "containerd-v2.toml",
    "containerd-v3.toml",
    "containers.conf",
    "crio.conf",
    "daemon.json",
    "runtimeclass.yaml",
];

fn tree() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn call(program: &str, args: &[&str]) -> Output {
    let mut command = Command::new(program);
    command
        .args(args)
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
    finish(command, LIMIT)
}

/// The package of the binary under test, in a new directory.
fn package() -> PathBuf {
    only_hull!("the package is hull's");
    let dir = new_dir("package");
    call(
        tree().join("packaging/deb").to_str().unwrap(),
        &[path().to_str().unwrap(), dir.to_str().unwrap()],
    )
    .success();
    let mut made: Vec<PathBuf> = fs::read_dir(&dir)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    assert_eq!(made.len(), 1, "{made:?}");
    made.remove(0)
}

fn a_package_is_made_read_installed_run_and_removed() {
    let package = package();
    let package = package.to_str().unwrap();
    let fields = call("dpkg-deb", &["--field", package]).success().stdout;
    for line in [
        &format!("Version: {}\n", env!("CARGO_PKG_VERSION")),
        "Package: hull\n",
        "Architecture: amd64\n",
    ] {
        assert_has!(fields, line);
    }
    assert!(
        !fields.contains("Depends:"),
        "a static binary needs no other package: {fields}"
    );
    let listed = call("dpkg-deb", &["--contents", package]).success().stdout;
    assert!(
        listed.lines().all(|line| line.contains(" root/root ")),
        "{listed}"
    );
    assert!(
        !listed.contains("./etc"),
        "the package configures an engine: {listed}"
    );

    let root = installed(package);
    has_its_files(&root);
    runs(&root.join("usr/bin/hull"));
    dpkg(&root, &["--purge", "hull"]).success();
    assert!(
        !root.join("usr/bin/hull").exists()
            && !root.join("usr/bin/hull-vm").is_symlink()
            && !root.join("usr/share/doc/hull").exists()
    );
}

/// Runs dpkg with a root directory and a database of its own.
fn dpkg(root: &Path, args: &[&str]) -> Output {
    let front = [
        format!("--root={}", root.display()),
        "--log=/dev/null".into(),
        "--force-not-root,script-chrootless".into(),
    ];
    let all: Vec<&str> = front
        .iter()
        .map(String::as_str)
        .chain(args.iter().copied())
        .collect();
    call("dpkg", &all)
}

fn installed(package: &str) -> PathBuf {
    let root = new_dir("root");
    for name in ["updates", "info"] {
        fs::create_dir_all(root.join("var/lib/dpkg").join(name)).unwrap();
    }
    fs::write(root.join("var/lib/dpkg/status"), "").unwrap();
    dpkg(&root, &["--install", package]).success();
    assert_has!(
        text(root.join("var/lib/dpkg/status")),
        "Status: install ok installed"
    );
    // dpkg reports a file only where its checksum is wrong.
    assert_eq!(dpkg(&root, &["--verify", "hull"]).success().stdout, "");
    root
}

/// The program, its manual and completions, and the configurations, with their modes.
fn has_its_files(root: &Path) {
    let share = root.join("usr/share");
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o7777;
    assert_eq!(mode(&root.join("usr/bin/hull")), 0o755);
    assert_eq!(
        fs::read_link(root.join("usr/bin/hull-vm")).unwrap(),
        Path::new("hull")
    );
    for page in ["hull", "hull-run", "hull-exec", "hull-create"] {
        let page = share.join(format!("man/man1/{page}.1.gz"));
        assert_eq!(mode(&page), 0o644);
        assert_has!(
            call("gzip", &["-dc", page.to_str().unwrap()])
                .success()
                .stdout,
            ".TH hull"
        );
    }
    let bash = share.join("bash-completion/completions/hull");
    call("bash", &["-n", bash.to_str().unwrap()]).success();
    assert_has!(
        text(share.join("zsh/vendor-completions/_hull")),
        "#compdef hull"
    );
    assert_has!(
        text(share.join("fish/vendor_completions.d/hull.fish")),
        "complete -c hull"
    );
    for name in CONFIGURATIONS {
        assert_eq!(
            text(share.join("doc/hull/examples").join(name)),
            text(tree().join("packaging").join(name))
        );
    }
    assert_has!(text(share.join("doc/hull/copyright")), "Apache-2.0");
}

/// The installed program prints its version and runs a container.
fn runs(program: &Path) {
    let said = call(program.to_str().unwrap(), &["--version"])
        .success()
        .stdout;
    assert_has!(said, &format!("hull version {}", env!("CARGO_PKG_VERSION")));
    let b = Bundle::sh("echo from the package; exit 7");
    b.write();
    let state = new_dir("state");
    let out = call(
        program.to_str().unwrap(),
        &[
            "--root",
            state.to_str().unwrap(),
            "run",
            "--bundle",
            b.dir.to_str().unwrap(),
            &b.id,
        ],
    );
    assert_eq!(
        (out.status, out.stdout.as_str()),
        (7, "from the package\n"),
        "{}",
        out.stderr
    );
}

fn a_package_is_reproducible() {
    let (one, other) = (package(), package());
    assert!(
        fs::read(one).unwrap() == fs::read(other).unwrap(),
        "two packages of one commit differ"
    );
}

fn the_readme_shows_what_the_package_brings() {
    let readme = text(tree().join("README.md"));
    for name in CONFIGURATIONS {
        assert_has!(readme, &text(tree().join("packaging").join(name)));
    }
    let mut packaged: Vec<String> = fs::read_dir(tree().join("packaging"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    packaged.retain(|name| name != "deb");
    packaged.sort();
    assert_eq!(packaged, CONFIGURATIONS);
    // They name the program that the package installs.
    for name in CONFIGURATIONS
        .iter()
        .filter(|name| **name != "runtimeclass.yaml")
    {
        let lines = text(tree().join("packaging").join(name)).replace('\'', "\"");
        assert_has!(lines, "\"/usr/bin/hull\"");
    }
}
