#!/usr/bin/env bash
# nats.go 1.55.0 and orbit.go jetstreamext 0.3.2: stored messages that have no data and a header Status of their own.
# Guess: a client that reads a stream gets every message; what the server answers with is told apart by more than a header that
# anybody may set. Seen: such a message is taken for an answer of the server, in four different ways:
# a core subscription to the republished message returns "no responders" for 503 and loses it; GetMsg, which asks by direct get,
# says the same of 503, "message not found" of 404, and fails for 100 and 500; GetBatch ends before the first such message, and so
# does Fetch of a pull consumer. The stream's leader (STREAM.MSG.GET) wraps the message in JSON, and that answer is read right.
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
	"github.com/synadia-io/orbit.go/jetstreamext"
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
		Name: "S", Subjects: []string{"s.>"}, AllowDirect: true, RePublish: &jetstream.RePublish{Source: "s.>", Destination: "live.>"},
	})
	must(err)
	live, err := nc.SubscribeSync("live.>")
	must(err)
	must(nc.Flush())
	for _, status := range []string{"", "503", "100", "404", "500", ""} {
		m := nats.NewMsg("s.x")
		if status != "" {
			m.Header.Set("Status", status)
		}
		_, err := js.PublishMsg(ctx, m)
		must(err)
	}
	for seq := 1; seq <= 6; seq++ {
		m, err := live.NextMsg(2 * time.Second)
		if err != nil {
			fmt.Println("republished:", err)
			continue
		}
		fmt.Println("republished:", m.Header.Get("Nats-Sequence"))
	}
	for seq := uint64(1); seq <= 6; seq++ {
		m, err := stream.GetMsg(ctx, seq)
		if err != nil {
			fmt.Println("GetMsg:", seq, err)
			continue
		}
		fmt.Println("GetMsg:", m.Sequence)
	}
	batch, err := jetstreamext.GetBatch(ctx, js, "S", 10, jetstreamext.GetBatchSeq(1))
	must(err)
	for m, err := range batch {
		if err != nil {
			fmt.Println("GetBatch:", err)
			break
		}
		fmt.Println("GetBatch:", m.Sequence)
	}
	consumer, err := stream.CreateConsumer(ctx, jetstream.ConsumerConfig{AckPolicy: jetstream.AckNonePolicy})
	must(err)
	fetched, err := consumer.Fetch(6, jetstream.FetchMaxWait(2*time.Second))
	must(err)
	n := 0
	for range fetched.Messages() {
		n++
	}
	fmt.Println("Fetch:", n, "of 6,", fetched.Error())
}

func must(err error) {
	if err != nil {
		panic(err)
	}
}
GO
go get github.com/nats-io/nats-server/v2@v2.15.2 github.com/nats-io/nats.go@v1.55.0 github.com/synadia-io/orbit.go/jetstreamext@v0.3.2 >/dev/null 2>&1
got="$(GOFLAGS=-mod=mod go run .)"
want='republished: 1
republished: nats: no responders available for request
republished: 3
republished: 4
republished: 5
republished: 6
GetMsg: 1
GetMsg: 2 nats: no responders available for request
GetMsg: 3 nats: unable to get message
GetMsg: 4 nats: API error: code=404 err_code=10037 description=message not found
GetMsg: 5 nats: unable to get message
GetMsg: 6
GetBatch: 1
GetBatch: nats: no responders available for request
Fetch: 1 of 6, nats: no responders available for request'
echo "$got"
[ "$got" = "$want" ] || { echo "changed; it was:"; echo "$want"; exit 1; }
