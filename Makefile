# niodoo_exporter. `make demo` shows it at work; `make test` proves it.

SHELL        := /bin/bash
GO           ?= go
BIN          := bin
TOOLS        := $(CURDIR)/.build/tools
COMMANDS     := niodoo_exporter niodooctl niodoo_sim

VERSION      ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)
REVISION     ?= $(shell git rev-parse HEAD 2>/dev/null || echo unknown)
BRANCH       ?= $(shell git rev-parse --abbrev-ref HEAD 2>/dev/null || echo unknown)
VERSION_PKG  := github.com/prometheus/common/version
# The same variables that .promu.yml sets.
LDFLAGS      := -s -w \
	-X $(VERSION_PKG).Version=$(VERSION) \
	-X $(VERSION_PKG).Revision=$(REVISION) \
	-X $(VERSION_PKG).Branch=$(BRANCH) \
	-X $(VERSION_PKG).BuildUser=$(shell id -un)@$(shell uname -n) \
	-X $(VERSION_PKG).BuildDate=$(shell date -u +%Y%m%d-%H:%M:%S)

# Versions of the tools that tests and checks use.
PROMETHEUS_VERSION   := v0.316.0
ALERTMANAGER_VERSION := v0.31.0
VICTORIAMETRICS_VERSION := v1.102.1
GOLANGCI_VERSION     := v2.15.0

.DEFAULT_GOAL := help

.PHONY: help
help: ## Show what can be made.
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: build
build: $(COMMANDS:%=$(BIN)/%) ## Build the commands into bin/.

.PHONY: FORCE
$(BIN)/%: FORCE
	@CGO_ENABLED=0 $(GO) build -trimpath -ldflags '$(LDFLAGS)' -o $@ ./cmd/$*

.PHONY: demo
demo: build ## Run a simulated stack and the exporter that watches it, until Ctrl-C.
	@$(BIN)/niodoo_sim demo --exporter=$(BIN)/niodoo_exporter $(DEMO_FLAGS)

.PHONY: test
test: test-deps tools ## Run all tests with the race detector; installs what they need.
	PATH="$(TOOLS):$$PATH" $(GO) test -race -timeout 20m ./...
	cd mixin && PATH="$(TOOLS):$$PATH" $(GO) test -timeout 20m ./...

E2E := NIODOO_E2E=full PATH="$(TOOLS):$$PATH" $(GO) test ./internal/e2e -count=1 -v -timeout 90m

.PHONY: e2e
e2e: test-deps tools ## Inject every fault and follow it to the mailbox; replay a healthy day; the same through VictoriaMetrics (an hour).
	$(E2E) -run '^(TestMatrix|TestMatrixIsComplete|TestReplays|TestHealthyDayIsSilent|TestTwoOfEach|TestThreeDown)$$'
	$(E2E) -run '^TestVictoriaMetrics'

.PHONY: fault-matrix
fault-matrix: test-deps tools ## Write docs/fault-matrix.md and .json from a run of every fault; ONLY=REGEXP renews some rows.
	NIODOO_E2E_TABLE=$(CURDIR)/docs/fault-matrix NIODOO_E2E_ONLY="$(ONLY)" $(E2E) -run '^TestMatrix$$'

.PHONY: test-deps
test-deps: ## Install the servers that the tests run, where they are missing.
	@scripts/test-deps

.PHONY: tools
tools: $(TOOLS)/promtool $(TOOLS)/prometheus $(TOOLS)/alertmanager $(TOOLS)/amtool $(TOOLS)/vmalert $(TOOLS)/victoria-metrics ## Build the tools that the tests use into .build/tools.

# Without the tag, a service discovery's dependency would have to be there too.
$(TOOLS)/prometheus $(TOOLS)/promtool:
	@echo "Building $(notdir $@) $(PROMETHEUS_VERSION) (some minutes the first time)"
	@GOBIN=$(TOOLS) $(GO) install -tags=remove_all_sd github.com/prometheus/prometheus/cmd/$(notdir $@)@$(PROMETHEUS_VERSION)

$(TOOLS)/alertmanager $(TOOLS)/amtool:
	@echo "Building $(notdir $@) $(ALERTMANAGER_VERSION)"
	@GOBIN=$(TOOLS) $(GO) install github.com/prometheus/alertmanager/cmd/$(notdir $@)@$(ALERTMANAGER_VERSION)

$(TOOLS)/vmalert $(TOOLS)/victoria-metrics:
	@echo "Building $(notdir $@) $(VICTORIAMETRICS_VERSION)"
	@GOBIN=$(TOOLS) $(GO) install github.com/VictoriaMetrics/VictoriaMetrics/app/$(notdir $@)@$(VICTORIAMETRICS_VERSION)

$(TOOLS)/golangci-lint:
	@echo "Building golangci-lint $(GOLANGCI_VERSION) (some minutes the first time)"
	@GOBIN=$(TOOLS) $(GO) install github.com/golangci/golangci-lint/v2/cmd/golangci-lint@$(GOLANGCI_VERSION)

.PHONY: lint
lint: $(TOOLS)/golangci-lint ## Lint, and check that go.mod is tidy and every file has its license header.
	$(TOOLS)/golangci-lint run
	cd mixin && $(TOOLS)/golangci-lint run --config ../.golangci.yml
	$(GO) mod tidy -diff
	cd mixin && $(GO) mod tidy -diff
	@scripts/check-headers

.PHONY: bench
bench: ## Run the benchmarks, with allocations.
	$(GO) test -run '^$$' -bench . -benchmem -timeout 40m ./...

.PHONY: bench-peers
bench-peers: test-deps ## Compare the cost of a scrape with Debian's exporters for the same services.
	@scripts/bench-peers $(PEERS_FLAGS)

.PHONY: bench-backup
bench-backup: $(BIN)/niodooctl test-deps ## Compare a backup with the manual's script on the same files and PostgreSQL (some minutes, 6 GB in TMPDIR).
	$(GO) run ./internal/backup/bench $(BACKUP_FLAGS) $(BIN)/niodooctl

.PHONY: bench-logs
bench-logs: $(BIN)/niodooctl ## Compare the log analysis with the manual's greps, and with ripgrep.
	@$(GO) run ./internal/logbench --program=$(BIN)/niodooctl $(LOGS_FLAGS)

GENERATED := collector/README.md mixin/metrics.json mixin/thresholds.json dashboards rules alertmanager examples/kubernetes/prometheusrule.yml mixin/tests/optional_rules.yml

.PHONY: scrape
scrape: $(BIN)/niodoo_exporter ## Record the scrape of a simulated stack that the mixin's tests replay.
	@mkdir -p .build
	$(GO) run ./internal/sample $(BIN)/niodoo_exporter > .build/scrape.prom
	mv .build/scrape.prom mixin/testdata/scrape.prom

.PHONY: generate
generate: ## Write the generated files.
	$(GO) run ./internal/reference > collector/README.md
	$(GO) run ./internal/reference json > mixin/metrics.json
	cp internal/thresholds/thresholds.json mixin/thresholds.json
	cd mixin && $(GO) run ./generate

.PHONY: check-generated
check-generated: generate ## Fail if a generated file was not current.
	@changed=$$(git status --porcelain -- $(GENERATED)); [ -z "$$changed" ] || { echo "Not current; run make generate and commit:"; echo "$$changed"; git diff -- $(GENERATED) | head -100; exit 1; }

.PHONY: clean
clean: ## Remove what was built.
	rm -rf $(BIN) .build
