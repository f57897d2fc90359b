# Everything here needs Go and nothing else.
GO ?= go

.PHONY: run demo test short chaos build bench check fuzz clean

run: ## the built-in example: embedded server, live status lines
	$(GO) run ./cmd/subproxy run --embedded

demo: build ## a cluster, emitters and instances, of which something breaks every few seconds
	bin/subproxy-bench demo

# The race detector needs a C compiler; where there is none, the tests run without it.
RACE ?= $(shell command -v $$($(GO) env CC) >/dev/null 2>&1 && echo -race)

short: ## the tests that take no minute: rules, the contract, one server in the process
	$(GO) test -short ./...

test: ## every test, race-detected; most wait for servers, so more of them run at once than there are cores
	$(GO) test $(RACE) -timeout 15m -parallel 4 ./...

DURATION ?= 10m
chaos: ## random faults on real processes for DURATION, then on several instances for as long, until one is not survived; its seed is printed and how to run it again
	$(GO) test -count=1 -timeout 0 -v -run '^Test(Instances)?Chaos$$' ./test/integration -chaos.duration=$(DURATION) $(CHAOS)

build:
	$(GO) build -o bin/ ./cmd/...

bench: build ## the figures of the README, on this machine
	bin/subproxy-bench reregister --subscriptions 10000
	bin/subproxy-bench idle --subscriptions 100000

check: ## what CI checks besides the tests
	@test -z "$$(gofmt -l .)" || { gofmt -l .; echo 'run gofmt -w on these'; exit 1; }
	$(GO) vet ./...
	$(GO) run honnef.co/go/tools/cmd/staticcheck@v0.8.2 ./...
	$(GO) mod tidy -diff

FUZZTIME ?= 10s
fuzz: ## each fuzz target for FUZZTIME
	@set -e; grep -rl --include=*_test.go '^func Fuzz' . | xargs -n1 dirname | sort -u | while read -r pkg; do \
	  grep -rho --include=*_test.go '^func Fuzz[A-Za-z0-9_]*' $$pkg | cut -d' ' -f2 | while read -r target; do \
	    $(GO) test -run '^$$' -fuzz "^$$target\$$" -fuzztime $(FUZZTIME) $$pkg; \
	  done; \
	done

clean:
	rm -rf bin
