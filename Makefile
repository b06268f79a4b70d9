# Everything but build, lint and clean needs root: CRIU does, and so do hosts
# made of namespaces.
GO ?= go
LINT = github.com/golangci/golangci-lint/v2/cmd/golangci-lint@v2.15.0
FUZZTIME ?= 30s

.PHONY: build deb setup demo test test-slow lint bench hosts hosts-down fuzz clean vm vm-setup vm-test vm-matrix vagrant-box

build: # the binary, as build/migrate
	CGO_ENABLED=0 $(GO) build -trimpath -o build/migrate ./cmd/migrate

deb: build # a Debian package in build; VERSION=1.2.3 names it
	@packaging/deb build/migrate build

setup: # what the machine lacks
	@scripts/setup

demo: setup # a 256 MiB workload from one host to another and back
	@$(GO) run ./internal/demo

test: # all tests, after setup
	@scripts/test

test-slow: setup # what takes minutes for itself: the whole crash matrices, large drains and those in which something dies
	$(GO) test ./tests/hosts ./tests/containers -p 1 -tags slow -count=1 -timeout 60m -v -run 'Crash|Survive|DrainOf|Promtool'

lint: # the linters of .golangci.yml
	$(GO) run $(LINT) run

bench: setup # downtime beside that of plain CRIU and its own post-copy; BENCH=redis-1g-1gbit for one scenario; writes build/bench.json
	@mkdir -p build
	@$(GO) run ./internal/bench -o build/bench.json $(if $(BENCH),-only $(BENCH)) $(if $(RUNS),-runs $(RUNS))

hosts: setup # hosts A, B and C on this machine; HOSTSFLAGS="--rate 1gbit"
	@$(GO) run ./internal/testhost/cmd/hosts up $(HOSTSFLAGS)

hosts-down: # takes them down
	@$(GO) run ./internal/testhost/cmd/hosts down

vm: # build/vm/vm, which starts virtual machines: docs/vm.md
	@mkdir -p build/vm
	$(GO) build -o build/vm/vm ./tests/vm/cmd/vm

vm-setup: # as setup, and what virtual machines need
	@scripts/setup vm

vm-test: vm-setup # one pair of kernels, as every commit; writes build/vm-report.json
	$(GO) test ./tests/vm -count=1 -timeout 30m -v -parallel 2 -run 'TestVM$$' -vm $(VMFLAGS)

vm-matrix: vm-setup # every ordered pair of kernels, every scenario: about an hour
	$(GO) test ./tests/vm -count=1 -timeout 4h -v -parallel 3 -run 'TestVM' -vm -kernels all $(VMFLAGS)

vagrant-box: # build/vagrant, which the Vagrantfile needs: docs/vagrant.md
	@scripts/setup vagrant
	$(GO) run ./tests/vm/cmd/vm box

fuzz: # every fuzz target for FUZZTIME
	@scripts/fuzz $(FUZZTIME)

clean: # what was built
	rm -rf build
