#!/usr/bin/env bash
# cloudevents/sdk-go protocol/nats_jetstream/v2 2.16.2, the official SDK's binding to NATS.
# Guess: it writes what the NATS protocol binding says: header values percent-encoded for space, double quote, percent and all that
# is not printable ASCII; in structured mode a header content-type: application/cloudevents+json, by which a receiver knows the
# mode. Seen: values are written raw; an encoded value is read as it stands, undecoded; and a structured message has no header at
# all, so that only a look into its data can tell that it is one.
set -euo pipefail
dir="$(mktemp -d)"
trap 'rm -rf "$dir"' EXIT
cd "$dir"
printf 'module finding\n\ngo 1.26\n' > go.mod
cat > main.go <<'GO'
package main

import (
	"bytes"
	"context"
	"fmt"

	cejs "github.com/cloudevents/sdk-go/protocol/nats_jetstream/v2"
	"github.com/cloudevents/sdk-go/v2/binding"
	"github.com/cloudevents/sdk-go/v2/event"
	"github.com/nats-io/nats.go"
)

func main() {
	e := event.New()
	e.SetID("1")
	e.SetSource("me")
	e.SetType("caf\u00e9 100%")
	must(e.SetData("application/json", []byte("{}")))
	for _, mode := range []context.Context{binding.WithForceBinary(context.Background()), binding.WithForceStructured(context.Background())} {
		var body bytes.Buffer
		header, err := cejs.WriteMsg(mode, binding.ToMessage(&e), &body)
		must(err)
		fmt.Printf("headers %d, ce-type %q, content-type %q\n", len(header), header["ce-type"], header["content-type"])
	}
	m := nats.NewMsg("s")
	m.Header = nats.Header{"ce-specversion": {"1.0"}, "ce-id": {"1"}, "ce-source": {"me"}, "ce-type": {"caf%C3%A9%20100%25"}}
	read, err := binding.ToEvent(context.Background(), cejs.NewMessage(m))
	must(err)
	fmt.Printf("read as %q\n", read.Type())
}

func must(err error) {
	if err != nil {
		panic(err)
	}
}
GO
go get github.com/cloudevents/sdk-go/v2@v2.16.2 github.com/cloudevents/sdk-go/protocol/nats_jetstream/v2@v2.16.2 github.com/nats-io/nats.go@v1.45.0 >/dev/null 2>&1
got="$(GOFLAGS=-mod=mod go run .)"
want='headers 5, ce-type ["café 100%"], content-type []
headers 0, ce-type [], content-type []
read as "caf%C3%A9%20100%25"'
echo "$got"
[ "$got" = "$want" ] || { echo "changed; it was:"; echo "$want"; exit 1; }
