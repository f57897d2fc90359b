#!/usr/bin/env bash
# orbit.go jetstreamext 0.3.2 on a JetStream context that has a domain (jetstream.NewWithDomain of nats.go 1.55.0).
# Guess: GetBatch asks on the domain's API prefix, $JS.<domain>.API.DIRECT.GET.<stream>, as nats.go does for every request.
# Seen: it leaves API out, $JS.<domain>.DIRECT.GET.<stream>, where nobody listens: "no responders" of a stream that is there. A
# context with the prefix $JS.<domain>.API (NewWithAPIPrefix) works: the server maps that to its own API, before any subscriber
# of $JS.<domain>.> hears of it.
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
	"strings"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/synadia-io/orbit.go/jetstreamext"
)

func main() {
	dir, err := os.MkdirTemp(".", "store")
	must(err)
	s, err := server.NewServer(&server.Options{Host: "127.0.0.1", Port: -1, JetStream: true, JetStreamDomain: "hub", StoreDir: dir, NoSigs: true, NoLog: true})
	must(err)
	s.Start()
	if !s.ReadyForConnections(20 * time.Second) {
		panic("not ready")
	}
	nc, err := nats.Connect(s.ClientURL())
	must(err)
	asked, err := nc.SubscribeSync("$JS.hub.>")
	must(err)
	must(nc.Flush())
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	byDomain, err := jetstream.NewWithDomain(nc, "hub")
	must(err)
	byPrefix, err := jetstream.NewWithAPIPrefix(nc, "$JS.hub.API")
	must(err)
	_, err = byDomain.CreateStream(ctx, jetstream.StreamConfig{Name: "S", Subjects: []string{"s.>"}, AllowDirect: true})
	must(err)
	_, err = byDomain.Publish(ctx, "s.a", nil)
	must(err)
	for _, js := range []jetstream.JetStream{byDomain, byPrefix} {
		short, done := context.WithTimeout(ctx, time.Second)
		n := 0
		batch, err := jetstreamext.GetBatch(short, js, "S", 10, jetstreamext.GetBatchSeq(1))
		if err == nil {
			for _, err := range batch {
				if err == nil {
					n++
				}
			}
		}
		done()
		fmt.Println("messages read:", n)
	}
	for {
		m, err := asked.NextMsg(time.Second)
		if err != nil {
			return
		}
		if strings.HasSuffix(m.Subject, ".DIRECT.GET.S") {
			fmt.Println("asked on", m.Subject)
		}
	}
}

func must(err error) {
	if err != nil {
		panic(err)
	}
}
GO
go get github.com/nats-io/nats-server/v2@v2.15.2 github.com/nats-io/nats.go@v1.55.0 github.com/synadia-io/orbit.go/jetstreamext@v0.3.2 >/dev/null 2>&1
got="$(GOFLAGS=-mod=mod go run .)"
want='messages read: 0
messages read: 1
asked on $JS.hub.DIRECT.GET.S'
echo "$got"
[ "$got" = "$want" ] || { echo "changed; it was:"; echo "$want"; exit 1; }
