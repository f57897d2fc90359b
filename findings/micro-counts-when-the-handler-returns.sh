#!/usr/bin/env bash
# nats.go 1.55.0, micro: an endpoint whose handler answers from another goroutine, as long requests do.
# Guess: the statistics count answers: an error that the request was answered with, and the time until then. Seen: both are
# taken when the handler returns. An error that comes later is never counted, and the processing time is that of starting the
# goroutine.
set -euo pipefail
dir="$(mktemp -d)"
trap 'rm -rf "$dir"' EXIT
cd "$dir"
printf 'module finding\n\ngo 1.26\n' > go.mod
cat > main.go <<'GO'
package main

import (
	"fmt"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/micro"
)

func main() {
	s, err := server.NewServer(&server.Options{Host: "127.0.0.1", Port: -1, NoSigs: true, NoLog: true})
	must(err)
	s.Start()
	if !s.ReadyForConnections(20 * time.Second) {
		panic("not ready")
	}
	nc, err := nats.Connect(s.ClientURL())
	must(err)
	service, err := micro.AddService(nc, micro.Config{Name: "late", Version: "1.0.0"})
	must(err)
	must(service.AddEndpoint("later", micro.HandlerFunc(func(r micro.Request) {
		go func() {
			time.Sleep(200 * time.Millisecond)
			_ = r.Error("500", "no", nil)
		}()
	})))
	must(service.AddEndpoint("now", micro.HandlerFunc(func(r micro.Request) {
		time.Sleep(200 * time.Millisecond)
		_ = r.Error("500", "no", nil)
	})))
	for _, subject := range []string{"later", "now"} {
		m, err := nc.Request(subject, nil, 5*time.Second)
		must(err)
		fmt.Println(subject, "was answered with error", m.Header.Get(micro.ErrorCodeHeader))
	}
	for _, e := range service.Stats().Endpoints {
		fmt.Println(e.Name, "errors counted:", e.NumErrors, "took 200 ms:", e.ProcessingTime >= 200*time.Millisecond)
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
want='later was answered with error 500
now was answered with error 500
later errors counted: 0 took 200 ms: false
now errors counted: 1 took 200 ms: true'
echo "$got"
[ "$got" = "$want" ] || { echo "changed; it was:"; echo "$want"; exit 1; }
