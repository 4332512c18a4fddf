# Everything that one types here. `make help` lists it.

CARGO ?= cargo
CACHE := $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/longshore
DENY := $(CACHE)/tools/bin/cargo-deny
DENY_VERSION := 0.20.2

# The image that the tests install is built without whole-program optimization, which takes as long as all the rest of it; what is
# released is a third smaller, and the same otherwise.
QUICK_IMAGE := CARGO_PROFILE_RELEASE_LTO=off CARGO_PROFILE_RELEASE_CODEGEN_UNITS=16

.DEFAULT_GOAL := help
.PHONY: help demo demo-down test fmt lint deny unit mutants e2e image isolation test-vk conformance kueue bench chaos chaos-short clusters-down

help: ## Lists what can be made
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: ## Two real clusters, Longshore between them, pods offloaded: installs and builds what it needs
	@hack/demo

demo-down: ## Ends what `make demo` started
	@hack/demo down

test: fmt lint deny unit e2e chaos-short ## Everything that CI runs: formatting, lints, unit tests, end-to-end tests on real clusters

fmt: ## Checks the formatting
	$(CARGO) fmt --all --check

lint: ## Lints, warnings denied, and the documentation's links
	$(CARGO) clippy --workspace --all-targets --quiet -- -D warnings
	RUSTDOCFLAGS='-D warnings' $(CARGO) doc --workspace --no-deps --document-private-items --quiet

deny: $(DENY) ## Checks the dependencies' licences, sources and duplicates
	$(DENY) --log-level error check licenses bans sources

$(DENY):
	$(CARGO) install --quiet --locked cargo-deny@$(DENY_VERSION) --root $(CACHE)/tools

unit: ## Unit tests: pure decisions, and the shells around them over fake services
	hack/mutants/run --check
	$(CARGO) test --workspace --exclude e2e --quiet

mutants: ## Shows that the checkers can fail: each mistake in hack/mutants is found by the test that it names
	hack/mutants/run

e2e: ## End-to-end tests on real clusters of this machine (brings up `host` and `east`; needs root)
	hack/clusters deps
	hack/clusters build --helm --kwok --metrics-server --prometheus
	$(QUICK_IMAGE) hack/image
	$(CARGO) build --bin longshore --example memory --features crash-points
	hack/clusters up host east
	$(QUICK_IMAGE) hack/e2e $(E2E_ARGS)

image: ## The container image, without Docker: target/image/longshore.tar
	@hack/image

isolation: ## How much a sick target costs the pods of the others; minutes, on a quiet machine (needs root)
	hack/clusters up host east west
	$(CARGO) test --package e2e --test isolation -- --ignored --nocapture

test-vk: ## The virtual-kubelet project's own end-to-end suite, against both providers (a part of e2e; needs root)
	hack/clusters up host east
	$(CARGO) test --package e2e --test vk

conformance: ## Kubernetes' own node, pod and storage suites against a virtual node; hours (needs root; GROUPS=…)
	hack/conformance/run $(GROUPS)

kueue: ## Quotas by the real Kueue on both sides; minutes the first time (needs root)
	hack/clusters build --helm --kueue
	hack/clusters up host east
	$(CARGO) test --package e2e --test kueue -- --ignored --nocapture

bench: ## Measures from outside, beside plain Kubernetes and an offloader without logic: docs/performance.md (needs root)
	hack/clusters deps
	hack/clusters build
	$(CARGO) build --release --bin longshore
	$(CARGO) run --quiet --profile measure --package bench

chaos: ## Breaks everything at random and judges: SEED=7 DURATION=120 PODS=200 TARGETS=2 REAL=1 make chaos
	hack/clusters deps
	hack/clusters build
	$(CARGO) build --bin longshore $(FEATURES)
	$(CARGO) run --quiet --package chaos

chaos-short: ## A short seed set of `make chaos`, as a part of `make test`
	@$(MAKE) --no-print-directory chaos SEED=3,5 DURATION=25 PODS=80 FEATURES='--features crash-points'

clusters-down: ## Ends all local clusters
	hack/clusters down
