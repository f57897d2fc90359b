#!/usr/bin/env bash
# nats-server 2.15.2, JetStream: a message with Nats-TTL 1s on a stream with subject_delete_marker_ttl 5s.
# Guess: it is gone after a second. Seen: it is kept for five: a TTL below that of the markers is raised to it, also that of a
# message which is not the last of its subject, and whose end leaves no marker.
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
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	stream, err := js.CreateStream(ctx, jetstream.StreamConfig{
		Name: "S", Subjects: []string{"s.>"}, AllowMsgTTL: true, SubjectDeleteMarkerTTL: 5 * time.Second, Duplicates: time.Second,
	})
	must(err)
	begun := time.Now()
	for range 2 {
		m := nats.NewMsg("s.x")
		m.Header.Set("Nats-TTL", "1s")
		_, err := js.PublishMsg(ctx, m)
		must(err)
	}
	gone := map[uint64]time.Duration{}
	for len(gone) < 2 && time.Since(begun) < 20*time.Second {
		for seq := uint64(1); seq <= 2; seq++ {
			if _, err := stream.GetMsg(ctx, seq); err != nil && gone[seq] == 0 {
				gone[seq] = time.Since(begun)
			}
		}
		time.Sleep(50 * time.Millisecond)
	}
	for seq := uint64(1); seq <= 2; seq++ {
		fmt.Println("message", seq, "outlived its TTL by three seconds:", gone[seq] > 4*time.Second)
	}
}

func must(err error) {
	if err != nil {
		panic(err)
	}
}
GO
go get github.com/nats-io/nats-server/v2@v2.15.2 github.com/nats-io/nats.go@v1.55.0 >/dev/null 2>&1
got="$(GOFLAGS=-mod=mod go run .)"
want='message 1 outlived its TTL by three seconds: true
message 2 outlived its TTL by three seconds: true'
echo "$got"
[ "$got" = "$want" ] || { echo "changed; it was:"; echo "$want"; exit 1; }
