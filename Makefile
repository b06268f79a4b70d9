# Everything but build, lint and clean needs root: CRIU does, and so do hosts
# made of namespaces.
GO ?= go
LINT = github.com/golangci/golangci-lint/v2/cmd/golangci-lint@v2.15.0
FUZZTIME ?= 30s

.PHONY: build setup demo test lint bench hosts hosts-down fuzz clean

build: # the binary, as build/migrate
	CGO_ENABLED=0 $(GO) build -trimpath -o build/migrate ./cmd/migrate

setup: # what the machine lacks
	@scripts/setup

demo: setup # a 256 MiB workload from one host to another and back
	@$(GO) run ./internal/demo

test: setup # all tests
	@scripts/test

lint: # the linters of .golangci.yml
	$(GO) run $(LINT) run

bench: setup # downtime beside that of plain CRIU and its own post-copy; BENCH=redis-1g-1gbit for one scenario; writes build/bench.json
	@mkdir -p build
	@$(GO) run ./internal/bench -o build/bench.json $(if $(BENCH),-only $(BENCH)) $(if $(RUNS),-runs $(RUNS))

hosts: setup # hosts A, B and C on this machine; HOSTSFLAGS="--rate 1gbit"
	@$(GO) run ./internal/testhost/cmd/hosts up $(HOSTSFLAGS)

hosts-down: # takes them down
	@$(GO) run ./internal/testhost/cmd/hosts down

fuzz: # every fuzz target for FUZZTIME
	@scripts/fuzz $(FUZZTIME)

clean: # what was built
	rm -rf build
