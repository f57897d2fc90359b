#!/usr/bin/env bash
# nats CLI 0.5.1 (github.com/nats-io/natscli), on nats-server 2.15.2: nats stream edit, of the description, of a stream with no_ack.
# Guess: what no flag names stays as it is, as it does for the other settings.
# Seen: --ack is true unless it is said otherwise, and every edit writes it: no_ack is false from then on. The stream then answers
# every request on its subjects, beside or before whom the request is for. With --no-ack in the same edit no_ack stays.
set -euo pipefail
dir="$(mktemp -d)"
trap 'rm -rf "$dir"' EXIT
cd "$dir"
export GOBIN="$dir/bin"
go install github.com/nats-io/natscli/nats@v0.5.1 >/dev/null 2>&1
printf 'module finding\n\ngo 1.26\n' > go.mod
cat > main.go <<'GO'
package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
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
	_, err = js.CreateStream(ctx, jetstream.StreamConfig{Name: "S", Subjects: []string{"s.>"}, NoAck: true})
	must(err)
	look := func(when string) {
		stream, err := js.Stream(ctx, "S")
		must(err)
		c := stream.CachedInfo().Config
		_, err = nc.Request("s.a", nil, time.Second)
		fmt.Printf("%s: description %q, no_ack %t, a request is answered by the stream: %t\n", when, c.Description, c.NoAck, err == nil)
	}
	look("made")
	for _, ack := range [][]string{nil, {"--no-ack"}} {
		edit := exec.Command("bin/nats", append([]string{"--server", s.ClientURL(), "stream", "edit", "S", "--description", "archive", "--force"}, ack...)...)
		edit.Env = append(os.Environ(), "XDG_CONFIG_HOME="+dir, "HOME="+dir)
		if out, err := edit.CombinedOutput(); err != nil {
			panic(string(out))
		}
		look(fmt.Sprint("edited ", ack))
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
want='made: description "", no_ack true, a request is answered by the stream: false
edited []: description "archive", no_ack false, a request is answered by the stream: true
edited [--no-ack]: description "archive", no_ack true, a request is answered by the stream: false'
echo "$got"
[ "$got" = "$want" ] || { echo "changed; it was:"; echo "$want"; exit 1; }
