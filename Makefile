# Needs Rust, make and a C compiler. Without a graphics card, scripts/driver.sh fetches a software Vulkan driver first.

CARGO ?= cargo
DRIVER = . ./scripts/driver.sh

.PHONY: help demo test build check bench portability dx12 wasm window clean-driver toolchain

help:
	@echo 'make demo          build, then show the whole thing at work'
	@echo 'make test          all tests, in the release profile'
	@echo 'make build         the command line program: target/release/t5'
	@echo 'make check         formatting, lints and documentation, warnings being errors'
	@echo 'make bench         benchmarks'
	@echo 'make portability   every kernel before the compilers of Windows, Vulkan drivers and browsers (half an hour)'
	@echo 'make dx12          t5 verify on DirectX 12, under wine'
	@echo 'make wasm          see that the library compiles for browsers'
	@echo 'make window        examples/window, which types by itself on a screen that nobody sees'
	@echo 'make clean-driver  forget the software Vulkan driver in .driver/'
	@echo
	@echo 'T5_DRIVER chooses the Vulkan driver: see the head of scripts/driver.sh'

demo: build
	@$(DRIVER) && scripts/demo.sh

test: toolchain
	@$(DRIVER) && $(CARGO) test --release --doc && scripts/test.sh

build: toolchain
	@$(CARGO) build --release

check: toolchain
	$(CARGO) fmt --check
	$(CARGO) fmt --check --manifest-path examples/window/Cargo.toml
	$(CARGO) clippy --release --all-targets -- -D warnings
	$(CARGO) clippy --release --lib --no-default-features -- -D warnings
	$(CARGO) clippy --release --lib --no-default-features --features train -- -D warnings
	$(CARGO) clippy --release --lib --no-default-features --features hub -- -D warnings
	RUSTDOCFLAGS='-D warnings' $(CARGO) doc --release --no-deps

bench: toolchain
	@$(DRIVER) && $(CARGO) bench

portability: toolchain
	@scripts/portability.sh

dx12: toolchain
	@scripts/dx12.sh

wasm: toolchain
	@scripts/wasm.sh

window: toolchain
	@scripts/window.sh

clean-driver:
	rm -rf .driver

toolchain:
	@command -v $(CARGO) >/dev/null || { \
	    echo 'cargo is missing: install Rust from https://rustup.rs, then open a new shell' >&2; exit 1; }
	@command -v cc >/dev/null || command -v gcc >/dev/null || command -v cl >/dev/null || { \
	    echo 'a C compiler is missing: on Debian and Ubuntu, sudo apt-get install gcc libc6-dev' >&2; exit 1; }
