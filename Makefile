# hull: `make demo` runs the main job on a fresh machine, `make test` passes the tests. Both install what they need (Debian, as root).
BUILD = gcc libc6-dev libseccomp-dev pkg-config

.PHONY: build demo deb test test-vm drills lint audit bench clean
build:
	scripts/packages $(BUILD)
	cargo build --release

demo: build
	scripts/demo

# target/hull_VERSION_ARCHITECTURE.deb
deb: build
	packaging/deb target/x86_64-unknown-linux-gnu/release/hull target

test:
	scripts/test

# containerd, its CRI, Docker, Podman and buildah with runc and with hull: minutes.
drills:
	scripts/test drills

# The integration suite and that of runtime-tools in virtual machines: hours under emulation.
test-vm:
	tests/vm-wall
	conformance/run --wall vm --jobs 1 --runtime target/x86_64-unknown-linux-gnu/debug/hull

lint:
	cargo fmt --check
	scripts/packages $(BUILD)
	cargo clippy --all-targets -- -D warnings
	scripts/deny

audit: ## check the dependencies for known vulnerabilities, by RustSec's database on github.com
	scripts/deny advisories

bench: build
	benches/run

clean:
	cargo clean
