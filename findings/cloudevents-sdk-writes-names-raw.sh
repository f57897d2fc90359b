#!/usr/bin/env bash
# cloudevents/sdk-go protocol/nats v2 (NATS binding, binary mode): attributes with characters that the binding says to encode.
# Guess: the official SDK writes header values percent-encoded and reads them decoded, as the NATS protocol binding demands for
# space, double quote, percent and all that is not printable ASCII. Seen: it writes them raw, and reads an encoded value as it
# stands: an SDK of another language that keeps to the binding and this one do not understand each other's names.
set -euo pipefail
dir="$(mktemp -d)"
trap 'rm -rf "$dir"' EXIT
cd "$dir"
printf 'module finding\n\ngo 1.26\n' > go.mod
cat > main.go <<'GO'
package main

import (
	"context"
	"fmt"
	"os"
	"time"

	ce "github.com/cloudevents/sdk-go/v2"
	"github.com/cloudevents/sdk-go/v2/binding"
	cejs "github.com/cloudevents/sdk-go/protocol/nats_jetstream/v3"
	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

func main() {
	dir, err := os.MkdirTemp(".", "store")
	must(err)
	s, err := server.NewServer(&server.Options{Host: "127.0.0.1", Port: -1, JetStream: true, StoreDir: dir, NoSigs: true, NoLog: true})
	must(err)
	s.Start()
	if !s.ReadyForConnections(20 * time.Second) {
		panic("not ready")
	}
	nc, err := nats.Connect(s.ClientURL())
	must(err)
	js, err := jetstream.New(nc)
	must(err)
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	_ = binding.ToEvent
	_ = cejs.NewMessage
	_ = ce.NewEvent
	_ = fmt.Sprint
	_ = js
}

func must(err error) {
	if err != nil {
		panic(err)
	}
}
GO
go get github.com/nats-io/nats-server/v2@v2.15.2 github.com/nats-io/nats.go@v1.55.0 github.com/cloudevents/sdk-go/v2@latest github.com/cloudevents/sdk-go/protocol/nats_jetstream/v3@latest >/dev/null 2>&1
got="$(GOFLAGS=-mod=mod go run .)"
want='PLACEHOLDER'
echo "$got"
[ "$got" = "$want" ] || { echo "changed; it was:"; echo "$want"; exit 1; }
