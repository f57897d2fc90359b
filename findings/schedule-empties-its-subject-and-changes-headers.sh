#!/usr/bin/env bash
# nats-server 2.15.2, JetStream: a schedule (Nats-Schedule, of a stream with allow_msg_schedules, without allow_rollup_hdrs).
# Guess: it is stored beside what its subject has; what is stored when it is due has its headers, Nats-Msg-Id among them, or none
# that begins Nats-Schedule.
# Seen: the server makes it a rollup of its subject: what was stored there is gone, with an acknowledgement and no marker. What is
# stored when it is due has neither its Nats-Schedule, -TTL, -Target nor its Nats-Msg-Id, has Nats-Scheduler and Nats-Schedule-Next,
# and the rest as it was.
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
	"maps"
	"os"
	"slices"
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
	stream, err := js.CreateStream(ctx, jetstream.StreamConfig{Name: "S", Subjects: []string{"s.>"}, AllowMsgSchedules: true, AllowMsgTTL: true})
	must(err)
	_, err = js.Publish(ctx, "s.schedule", []byte("an event"))
	must(err)
	_, err = js.PublishMsg(ctx, &nats.Msg{Subject: "s.schedule", Data: []byte("x"), Header: nats.Header{
		"Nats-Schedule": {"@every 1s"}, "Nats-Schedule-Target": {"s.due"}, "Nats-Schedule-TTL": {"1h"}, "Nats-Msg-Id": {"m1"}, "ce-id": {"e1"},
	}})
	must(err)
	_, err = stream.GetMsg(ctx, 1)
	fmt.Println("the earlier event on s.schedule:", err)
	for _, sequence := range []uint64{2, 3, 4} {
		for {
			m, err := stream.GetMsg(ctx, sequence)
			if err != nil && ctx.Err() == nil {
				time.Sleep(50 * time.Millisecond)
				continue
			}
			must(err)
			fmt.Println(m.Subject)
			for _, name := range slices.Sorted(maps.Keys(m.Header)) {
				value := m.Header.Get(name)
				if _, err := time.Parse(time.RFC3339Nano, value); err == nil {
					value = "a time"
				}
				fmt.Printf("  %s: %s\n", name, value)
			}
			break
		}
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
want='the earlier event on s.schedule: nats: API error: code=404 err_code=10037 description=message not found
s.schedule
  Nats-Msg-Id: m1
  Nats-Rollup: sub
  Nats-Schedule: @every 1s
  Nats-Schedule-TTL: 1h
  Nats-Schedule-Target: s.due
  ce-id: e1
s.due
  Nats-Schedule-Next: a time
  Nats-Scheduler: s.schedule
  Nats-TTL: 1h
  ce-id: e1
s.due
  Nats-Schedule-Next: a time
  Nats-Scheduler: s.schedule
  Nats-TTL: 1h
  ce-id: e1'
echo "$got"
[ "$got" = "$want" ] || { echo "changed; it was:"; echo "$want"; exit 1; }
