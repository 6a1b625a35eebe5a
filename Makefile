# Holdfast: the commands that a person or a CI types. Each does its own set-up.

GO       ?= go
BIN      := bin
INSTANCES ?= 12
OUT      ?=
ONCE     ?=
LAB      ?= lab
STORY    ?=
SEEDS    ?= 50

.PHONY: demo lab lab-down skewed e2e kills dash test mutate check bench build setup clean

build: ## the programs, into bin/
	@echo "build: compiling holdfast (the first time takes a few minutes on two cores)"
	@$(GO) build -o $(BIN)/ ./cmd/holdfast ./examples/notes/cmd/... ./lab/cmd/...
	@$(GO) build -tags slim -o $(BIN)/ ./cmd/holdfast-agent

demo: build ## the whole loop on this machine, without root: make demo [INSTANCES=12] [ONCE=1] [OUT=scorecard.json]
	@$(BIN)/holdfast-demo -instances $(INSTANCES) $(if $(ONCE),-once) $(if $(OUT),-out $(OUT))

lab: build setup ## full servers in several sites on this machine, as root: make lab [LAB=name]
	@$(BIN)/holdfast-lab --name $(LAB) up

lab-down: ## takes the lab away, without residue
	@$(GO) build -o $(BIN)/ ./lab/cmd/holdfast-lab
	@$(BIN)/holdfast-lab --name $(LAB) down

dash: ## programs, images and a pinned fleet of examples/dash, into bin/dash/: no registry, no Docker Engine, no root
	@$(GO) -C examples/dash run ./cmd/dash-build -out $(CURDIR)/$(BIN)/dash

skewed: ## the agent that `holdfast-lab skew` needs; the first time takes minutes
	@$(GO) build -o $(BIN)/ ./lab/cmd/holdfast-lab
	@$(BIN)/holdfast-lab build-skewed . $(BIN)

e2e: setup $(BIN)/versitygw dash ## every story, one line each, with fifty seeds of kills at random: make e2e [STORY=name] [SEEDS=n]
	@HOLDFAST_E2E=lab HOLDFAST_SEEDS=$(SEEDS) $(GO) run ./test/e2e/stories $(STORY)
	@test -n "$(STORY)" || $(GO) -C examples/dash test -count=1 ./...

setup: ## what the tests need from the distribution (asks for nothing that is there already)
	@sh lab/setup.sh

$(BIN)/versitygw: lab/tools/go.mod ## an S3 server that is none of ours, to test against; `make test` uses it where it is
	@echo "building versitygw (two minutes the first time)"
	@$(GO) -C lab/tools build -trimpath -o ../../$(BIN)/ github.com/versity/versitygw/cmd/versitygw

test: setup ## every test
	$(GO) vet ./...
	$(GO) test -count=1 -timeout 18m ./...
	$(GO) -C examples/dash vet ./build ./load
	@if test -x $(BIN)/dash/programs/ferretdb-1.24; then $(GO) -C examples/dash test -count=1 -timeout 18m ./...; \
	else $(GO) -C examples/dash test -count=1 ./build ./load; \
		echo "left out: examples/dash on its database, and test/dash on a Docker Engine: make dash builds that (minutes, once), make e2e runs it"; fi

mutate: ## every check of the vault switched off in turn: the test named beside it must go red (about a minute)
	$(GO) test -tags mutate -count=1 -timeout 10m -run TestRemovedChecksAreMissed ./internal/vault

kills: setup ## a kill at every single moment of a recovery, each in a run of its own (an hour)
	HOLDFAST_E2E=full $(GO) test -count=1 -timeout 90m -v ./test/e2e -run TestKillDuringRecovery

check: ## format, vet and lint, with the pinned linter
	@test -z "$$(gofmt -l $$(git ls-files '*.go'))" || { gofmt -l $$(git ls-files '*.go'); exit 1; }
	$(GO) vet ./...
	$(GO) run github.com/golangci/golangci-lint/v2/cmd/golangci-lint@v2.8.0 run

bench: build ## measured figures, as tables and JSON; see docs/performance.md
	@for b in bench/*/; do echo "== $$b"; $(GO) run ./$$b || exit 1; done

clean:
	rm -rf $(BIN) .demo
