#!/usr/bin/env bash
# nats-server 2.15.2, JetStream: a publish with both Nats-Msg-Id and Nats-Expected-Last-Subject-Sequence, sent twice.
# Guess: the second is a duplicate, acknowledged with the first one's sequence, whatever the stream's replicas are.
# Seen: on a stream of three replicas it is. On one of one replica the condition is looked at before the id: the retry of a
# publish whose acknowledgement was lost is refused with "wrong last sequence" (10071). After a scale-up the same client
# sees the other behaviour. On three replicas the id wins even if the message names another subject: it is acknowledged
# as a duplicate of a message on a subject that was not published to, and nothing is stored.
set -euo pipefail
dir="$(mktemp -d)"
trap 'rm -rf "$dir"' EXIT
cd "$dir"
cat > go.mod <<'MOD'
module finding

go 1.26
MOD
cat > main.go <<'GO'
package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

func main() {
	var routes []*url.URL
	var ports []int
	for range 3 {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		must(err)
		ports = append(ports, l.Addr().(*net.TCPAddr).Port)
		routes = append(routes, &url.URL{Scheme: "nats", Host: l.Addr().String()})
		must(l.Close())
	}
	var first *server.Server
	for i := range 3 {
		dir, err := os.MkdirTemp(".", "store")
		must(err)
		s, err := server.NewServer(&server.Options{
			ServerName: fmt.Sprint("n", i), Host: "127.0.0.1", Port: -1, JetStream: true, StoreDir: dir, NoSigs: true, NoLog: true,
			Cluster: server.ClusterOpts{Name: "c", Host: "127.0.0.1", Port: ports[i]}, Routes: routes,
		})
		must(err)
		s.Start()
		if i == 0 {
			first = s
		}
	}
	if !first.ReadyForConnections(20 * time.Second) {
		panic("not ready")
	}
	nc, err := nats.Connect(first.ClientURL())
	must(err)
	defer nc.Close()
	js, err := jetstream.New(nc)
	must(err)
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	for _, replicas := range []int{1, 3} {
		name := fmt.Sprint("R", replicas)
		for {
			attempt, done := context.WithTimeout(ctx, 2*time.Second)
			_, err = js.CreateStream(attempt, jetstream.StreamConfig{Name: name, Subjects: []string{name + ".>"}, Replicas: replicas})
			done()
			if err == nil || ctx.Err() != nil {
				break
			}
			time.Sleep(100 * time.Millisecond)
		}
		must(err)
		for _, subject := range []string{name + ".a", name + ".a", name + ".b"} {
			m := nats.NewMsg(subject)
			m.Header.Set("Nats-Msg-Id", "x")
			m.Header.Set("Nats-Expected-Last-Subject-Sequence", "0")
			ack, err := js.PublishMsg(ctx, m)
			var api *jetstream.APIError
			switch {
			case errors.As(err, &api):
				fmt.Println(subject, "refused", api.ErrorCode)
			case err != nil:
				panic(err)
			default:
				fmt.Println(subject, "acknowledged", ack.Sequence, "duplicate", ack.Duplicate)
			}
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
got="$(go run .)"
want='R1.a acknowledged 1 duplicate false
R1.a refused 10071
R1.b acknowledged 1 duplicate true
R3.a acknowledged 1 duplicate false
R3.a acknowledged 1 duplicate true
R3.b acknowledged 1 duplicate true'
echo "$got"
[ "$got" = "$want" ] || { echo "changed; it was:"; echo "$want"; exit 1; }
