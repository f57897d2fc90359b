#!/usr/bin/env bash
# nats-server 2.15.2: a reload of its configuration takes a user's permission to subscribe away, a second reload gives it back.
# Guess: the client's subscription pauses meanwhile, as its publishes do, or the connection is closed and nats.go subscribes again.
# Seen: the server drops the subscription, says so once by an asynchronous error, and the connection stays. The second reload
# brings nothing back and nothing is said: the subscription of nats.go 1.55.0 is valid, and silent until a reconnect. A publish goes
# on at once.
set -euo pipefail
dir="$(mktemp -d)"
trap 'rm -rf "$dir"' EXIT
cd "$dir"
printf 'module finding\n\ngo 1.26\n' > go.mod
cat > main.go <<'GO'
package main

import (
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
)

const file = "server.conf"

func permit(denied string) {
	must(os.WriteFile(file, []byte(`listen: "127.0.0.1:-1"
authorization {users: [
  {user: admin, password: p}
  {user: u, password: p, permissions: {subscribe: {deny: [`+denied+`]}, publish: {deny: [`+denied+`]}}}
]}`), 0o600))
}

func main() {
	permit("")
	opts, err := server.ProcessConfigFile(file)
	must(err)
	opts.NoSigs, opts.NoLog = true, true
	s, err := server.NewServer(opts)
	must(err)
	s.Start()
	if !s.ReadyForConnections(20 * time.Second) {
		panic("not ready")
	}
	reconnected, refused := make(chan struct{}, 1), make(chan string, 100)
	nc, err := nats.Connect(s.ClientURL(), nats.UserInfo("u", "p"), nats.ReconnectWait(0),
		nats.ReconnectHandler(func(*nats.Conn) { reconnected <- struct{}{} }),
		nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) { refused <- err.Error() }))
	must(err)
	admin, err := nats.Connect(s.ClientURL(), nats.UserInfo("admin", "p"))
	must(err)
	hearsAll, err := admin.SubscribeSync("x")
	must(err)
	must(admin.Flush())
	sub, err := nc.SubscribeSync("x")
	must(err)
	must(nc.Flush())
	look := func(when string) {
		must(admin.Publish("x", []byte("from admin")))
		_, err := sub.NextMsg(2 * time.Second)
		fmt.Printf("%s: received %t, valid %t, connected %t, reconnects %d", when, err == nil, sub.IsValid(), nc.IsConnected(), nc.Stats().Reconnects)
		must(nc.Publish("x", []byte("from u")))
		must(nc.Flush())
		published := false
		for deadline := time.Now().Add(time.Second); !published && time.Now().Before(deadline); {
			m, err := hearsAll.NextMsg(200 * time.Millisecond)
			published = err == nil && string(m.Data) == "from u"
		}
		fmt.Printf(", its publish arrives %t\n", published)
		for { // its own publish, where it hears it
			if _, err := sub.NextMsg(200 * time.Millisecond); err != nil {
				break
			}
		}
		for len(refused) > 0 {
			text := <-refused
			text = text[:strings.Index(text, " to \"")]
			fmt.Println("  told:", text)
		}
	}
	look("permitted")
	permit("x")
	must(s.Reload())
	look("taken away")
	permit("")
	must(s.Reload())
	look("given back")
	must(nc.ForceReconnect())
	<-reconnected
	must(nc.Flush())
	look("after a reconnect")
}

func must(err error) {
	if err != nil {
		panic(err)
	}
}
GO
go get github.com/nats-io/nats-server/v2@v2.15.2 github.com/nats-io/nats.go@v1.55.0 >/dev/null 2>&1
got="$(GOFLAGS=-mod=mod go run .)"
want='permitted: received true, valid true, connected true, reconnects 0, its publish arrives true
taken away: received false, valid true, connected true, reconnects 0, its publish arrives false
  told: nats: permissions violation: Permissions Violation for Subscription
  told: nats: permissions violation: Permissions Violation for Publish
given back: received false, valid true, connected true, reconnects 0, its publish arrives true
after a reconnect: received true, valid true, connected true, reconnects 1, its publish arrives true'
echo "$got"
[ "$got" = "$want" ] || { echo "changed; it was:"; echo "$want"; exit 1; }
