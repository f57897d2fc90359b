#!/usr/bin/env bash
# nats-server 2.15.2, JetStream: a stream of three messages whose retention is edited from limits to interest.
# Guess: the edit is refused, as one to work queue is, or it concerns what is stored from then on. Seen: it is accepted, and as
# the stream has no consumer, all that it held is dropped at once; editing it back brings nothing back.
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
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	cfg := jetstream.StreamConfig{Name: "S", Subjects: []string{"s.>"}}
	stream, err := js.CreateStream(ctx, cfg)
	must(err)
	for range 3 {
		_, err := js.Publish(ctx, "s.x", nil)
		must(err)
	}
	cfg.Retention = jetstream.WorkQueuePolicy
	_, err = js.UpdateStream(ctx, cfg)
	fmt.Println("to work queue refused:", err != nil)
	cfg.Retention = jetstream.InterestPolicy
	_, err = js.UpdateStream(ctx, cfg)
	fmt.Println("to interest refused:", err != nil)
	cfg.Retention = jetstream.LimitsPolicy
	_, err = js.UpdateStream(ctx, cfg)
	must(err)
	info, err := stream.Info(ctx)
	must(err)
	fmt.Println("messages:", info.State.Msgs)
}

func must(err error) {
	if err != nil {
		panic(err)
	}
}
GO
go get github.com/nats-io/nats-server/v2@v2.15.2 github.com/nats-io/nats.go@v1.55.0 >/dev/null 2>&1
got="$(GOFLAGS=-mod=mod go run .)"
want='to work queue refused: true
to interest refused: false
messages: 0'
echo "$got"
[ "$got" = "$want" ] || { echo "changed; it was:"; echo "$want"; exit 1; }
