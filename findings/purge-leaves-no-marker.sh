#!/usr/bin/env bash
# nats-server 2.15.2, JetStream: subject_delete_marker_ttl, "a marker is left where the last message of a subject goes".
# Guess: a purge by subject and a deletion of the last message leave one, with Nats-Marker-Reason Purge or Remove, as its
# documentation of the reasons suggests. Seen: only what limits remove (here max_age) leaves a marker; after a purge or a
# deletion there is none, and whoever follows the stream hears nothing.
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
		Name: "S", Subjects: []string{"s.>"}, AllowMsgTTL: true, SubjectDeleteMarkerTTL: time.Hour, MaxAge: 2 * time.Second, Duplicates: time.Second,
	})
	must(err)
	for _, subject := range []string{"s.aged", "s.purged", "s.deleted"} {
		_, err := js.Publish(ctx, subject, []byte("x"))
		must(err)
	}
	must(stream.Purge(ctx, jetstream.WithPurgeSubject("s.purged")))
	must(stream.DeleteMsg(ctx, 3))
	for {
		info, err := stream.Info(ctx)
		must(err)
		if info.State.LastSeq > 3 {
			break
		}
		time.Sleep(50 * time.Millisecond)
	}
	time.Sleep(2 * time.Second)
	for _, subject := range []string{"s.aged", "s.purged", "s.deleted"} {
		m, err := stream.GetLastMsgForSubject(ctx, subject)
		if err != nil {
			fmt.Println(subject, err)
			continue
		}
		fmt.Println(subject, m.Header.Get("Nats-Marker-Reason"))
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
want='s.aged MaxAge
s.purged nats: API error: code=404 err_code=10037 description=message not found
s.deleted nats: API error: code=404 err_code=10037 description=message not found'
echo "$got"
[ "$got" = "$want" ] || { echo "changed; it was:"; echo "$want"; exit 1; }
