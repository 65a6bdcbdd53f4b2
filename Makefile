# semcached: bare `make` lists the targets. Only Go and make are needed.

GO      ?= go
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
LDFLAGS := -s -w -X main.version=$(VERSION)
BIN     := bin/semcached
export CGO_ENABLED ?= 0

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

build: ## build bin/semcached
	$(GO) build -trimpath -ldflags '$(LDFLAGS)' -o $(BIN) ./cmd/semcached

run: build ## build and serve with the defaults
	$(BIN) serve

demo: build ## show misses and hits without any model server
	$(BIN) demo

# The e2e tests run a binary they build, of which go test's cache knows nothing.
E2E := github.com/semcached/semcached/internal/e2e
test: ## the fast test suite
	$(GO) test $$($(GO) list ./... | grep -v '^$(E2E)$$')
	$(GO) test -count=1 $(E2E)

check: ## everything .ci/run does: race, purego, vet, staticcheck, fuzz, e2e
	bash .ci/run

bench: ## benchmarks of the hot paths, each beside its rival
	$(GO) test -run '^$$' -bench . -benchmem ./bench

bench-index: ## a table of the indexes beside their rivals (ARGS=-quick: minutes, else half an hour)
	$(GO) run ./bench/index -o bench/index/RESULTS.md $(ARGS)

# Whatever is killed, full, slow, failing, damaged or without power: nothing acknowledged is lost. The
# drills need strace (apt) and, to fill a small disk, leave to mount; without, they skip and say so.
DRILL := $(GO) test -count=1 -v -timeout 3h
drill: ## break the store in every way known; ten minutes or more
	SEMCACHED_DRILL=full $(DRILL) ./store/bolt/drill
	SEMCACHED_DRILL=full $(DRILL) -run Drill ./internal/e2e

drill-short: ## the same with fewer rounds; a minute
	SEMCACHED_DRILL=short $(DRILL) ./store/bolt/drill
	SEMCACHED_DRILL=short $(DRILL) -run Drill ./internal/e2e

bench-eviction: ## our eviction beside LRU's and otter's, at the same bytes; a minute
	cd bench/eviction/otter && $(GO) run .

image: ## build the container image semcached:latest
	docker build --build-arg VERSION=$(VERSION) -t semcached:latest .

clean: ## remove what was built
	rm -rf bin

.DEFAULT_GOAL := help
.PHONY: help build run demo test check bench bench-index bench-eviction drill drill-short image clean
