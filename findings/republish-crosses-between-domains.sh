#!/usr/bin/env bash
# nats-server 2.15.2, a hub and a leaf node in one account, each with a JetStream domain of its own (nats.go 1.55.0).
# Guess: two domains keep two streams of one name apart, so what the leaf's stream republishes stays in the leaf, or says at least
# which domain it is of.
# Seen: requests ($JS.API.>) and writes to buckets ($KV.>) stay in their domain. What a stream republishes crosses the link to any
# subscriber, and its headers have the stream's name and no domain: at the hub it looks like the hub's own stream of that name.
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
	"net/url"
	"os"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

func main() {
	hub := start("hub", func(o *server.Options) { o.LeafNode.Host, o.LeafNode.Port = "127.0.0.1", -1 })
	v, err := hub.Varz(nil)
	must(err)
	leaf := start("leaf", func(o *server.Options) {
		o.LeafNode.Remotes = []*server.RemoteLeafOpts{{URLs: []*url.URL{{Scheme: "nats-leaf", Host: fmt.Sprintf("127.0.0.1:%d", v.LeafNode.Port)}}}}
	})
	for leaf.NumLeafNodes() == 0 {
		time.Sleep(10 * time.Millisecond)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	atHub, hubs := connect(hub)
	_, leafs := connect(leaf)
	heard, err := atHub.SubscribeSync("news.>")
	must(err)
	must(atHub.Flush())
	var buckets [2]jetstream.KeyValue
	for i, js := range []jetstream.JetStream{hubs, leafs} {
		buckets[i], err = js.CreateKeyValue(ctx, jetstream.KeyValueConfig{Bucket: "b", RePublish: &jetstream.RePublish{Source: "$KV.b.>", Destination: "news.>"}})
		must(err)
	}
	time.Sleep(500 * time.Millisecond) // the interest crosses the link
	for i, domain := range []string{"hub", "leaf"} {
		_, err := buckets[i].Put(ctx, "k", []byte(domain))
		must(err)
		m, err := heard.NextMsg(5 * time.Second)
		must(err)
		fmt.Printf("heard at the hub: %s, stream %s, sequence %s\n", m.Data, m.Header.Get("Nats-Stream"), m.Header.Get("Nats-Sequence"))
		for key := range m.Header {
			if key == "Nats-Domain" {
				fmt.Println("with its domain")
			}
		}
	}
	for i, domain := range []string{"hub", "leaf"} {
		e, err := buckets[i].Get(ctx, "k")
		must(err)
		fmt.Printf("stored in the %s: %s\n", domain, e.Value())
	}
}

func start(domain string, configure func(*server.Options)) *server.Server {
	dir, err := os.MkdirTemp(".", domain)
	must(err)
	o := &server.Options{ServerName: domain, Host: "127.0.0.1", Port: -1, JetStream: true, JetStreamDomain: domain, StoreDir: dir, NoSigs: true, NoLog: true}
	configure(o)
	s, err := server.NewServer(o)
	must(err)
	s.Start()
	if !s.ReadyForConnections(20 * time.Second) {
		panic("not ready")
	}
	return s
}

func connect(s *server.Server) (*nats.Conn, jetstream.JetStream) {
	nc, err := nats.Connect(s.ClientURL())
	must(err)
	js, err := jetstream.New(nc)
	must(err)
	return nc, js
}

func must(err error) {
	if err != nil {
		panic(err)
	}
}
GO
go get github.com/nats-io/nats-server/v2@v2.15.2 github.com/nats-io/nats.go@v1.55.0 >/dev/null 2>&1
got="$(GOFLAGS=-mod=mod go run .)"
want='heard at the hub: hub, stream KV_b, sequence 1
heard at the hub: leaf, stream KV_b, sequence 1
stored in the hub: hub
stored in the leaf: leaf'
echo "$got"
[ "$got" = "$want" ] || { echo "changed; it was:"; echo "$want"; exit 1; }
