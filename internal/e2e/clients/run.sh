#!/usr/bin/env bash
# The official SDKs, and a real Ollama if the tiny models are found, against the
# built binary. Installs what is missing: npm packages, and an Ollama server from
# its Go module (about two minutes, needs gcc). The argument is a folder for tools.
set -euo pipefail
tools="${1:-$(mktemp -d)}"
cd "$(dirname "$0")"
if ! command -v node >/dev/null || ! command -v npm >/dev/null; then
	apt-get update -qq && apt-get install -y -qq nodejs npm
fi
(cd js && npm install --no-save --no-package-lock --no-audit --no-fund --loglevel=error)
if [ -z "${OLLAMA_BIN:-}" ] && ! command -v ollama >/dev/null; then
	CGO_ENABLED=1 GOBIN="$tools" go install github.com/ollama/ollama@v0.6.5
	export OLLAMA_BIN="$tools/ollama"
fi
go vet ./...
(cd ../../.. && go test -count=1 -v -run RealOllama ./internal/e2e)
go test -count=1 -v ./... | grep -vE '^(=== |    --- PASS|\s+[a-z_]+\.go:[0-9]+: ok )' 
