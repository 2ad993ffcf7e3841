# What these targets need, they install (Debian, as root). `make help` lists them.
BUILD = gcc libc6-dev libseccomp-dev pkg-config

.PHONY: build help demo deb test test-vm drills fmt lint audit bench clean

build: ## build hull for release: target/x86_64-unknown-linux-gnu/release/hull
	scripts/packages $(BUILD)
	cargo build --release

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):[^#]*## \(.*\)/\1\t\2/p' $(MAKEFILE_LIST) | expand -t 10

demo: build ## build hull and show a container's life and a container with the host's root
	scripts/demo

deb: build ## make target/hull_VERSION_ARCHITECTURE.deb
	packaging/deb target/x86_64-unknown-linux-gnu/release/hull target

test: ## run lint and all tests: unit, golden, integration, in test VMs, OCI runtime-tools
	scripts/test

drills: ## run the drills of containerd, CRI, Docker, Podman and buildah: minutes
	scripts/test drills

test-vm: ## run the integration suite and OCI runtime-tools on the VM backend: hours
	tests/vm-backend
	conformance/run --backend vm --jobs 1 --runtime target/x86_64-unknown-linux-gnu/debug/hull

fmt: ## format Rust and Python
	cargo fmt
	rustfmt --edition 2024 crates/*/src/*.rs
	scripts/ruff check --quiet --select I --fix
	scripts/ruff format --quiet

lint: ## check the format of Rust and Python, clippy, ruff, shellcheck, dependencies
	scripts/lint
	scripts/deny

audit: ## check the dependencies for known vulnerabilities (RustSec's database)
	scripts/deny advisories

bench: build ## measure hull beside runc, crun and bubblewrap
	benches/run

clean: ## remove what cargo built
	cargo clean
