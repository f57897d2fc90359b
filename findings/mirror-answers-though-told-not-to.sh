#!/usr/bin/env bash
# nats-server 2.15.2, JetStream: a filtered mirror beside a stream that allows direct get, created with mirror_direct false.
# Guess: direct gets of the origin are answered by the origin. Seen: the server switches mirror_direct on by itself, and the
# mirror answers some of the requests to the origin's subject; for what its filter left out it says "message not found", though
# the origin has it. Only the header Nats-Stream of a found message tells who answered.
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
	_, err = js.CreateStream(ctx, jetstream.StreamConfig{Name: "ORIGIN", Subjects: []string{"s.>"}, AllowDirect: true})
	must(err)
	for _, subject := range []string{"s.a", "s.b"} {
		_, err := js.Publish(ctx, subject, []byte("x"))
		must(err)
	}
	mirror, err := js.CreateStream(ctx, jetstream.StreamConfig{
		Name: "MIRROR", Mirror: &jetstream.StreamSource{Name: "ORIGIN", FilterSubject: "s.a"}, MirrorDirect: false,
	})
	must(err)
	for {
		info, err := mirror.Info(ctx)
		must(err)
		if info.State.Msgs == 1 {
			fmt.Println("mirror_direct:", info.Config.MirrorDirect)
			break
		}
		time.Sleep(50 * time.Millisecond)
	}
	origin, err := js.Stream(ctx, "ORIGIN")
	must(err)
	found, missing := 0, 0
	by := map[string]int{}
	for range 400 {
		if _, err := origin.GetLastMsgForSubject(ctx, "s.b"); err != nil {
			missing++
		} else {
			found++
		}
		m, err := origin.GetLastMsgForSubject(ctx, "s.a")
		must(err)
		by[m.Header.Get("Nats-Stream")]++
	}
	fmt.Println("s.b, which only the origin has: found", found > 0, "not found", missing > 0)
	fmt.Println("s.a: answered by ORIGIN", by["ORIGIN"] > 0, "by MIRROR", by["MIRROR"] > 0)
}

func must(err error) {
	if err != nil {
		panic(err)
	}
}
GO
go get github.com/nats-io/nats-server/v2@v2.15.2 github.com/nats-io/nats.go@v1.55.0 >/dev/null 2>&1
got="$(GOFLAGS=-mod=mod go run .)"
want='mirror_direct: true
s.b, which only the origin has: found true not found true
s.a: answered by ORIGIN true by MIRROR true'
echo "$got"
[ "$got" = "$want" ] || { echo "changed; it was:"; echo "$want"; exit 1; }
