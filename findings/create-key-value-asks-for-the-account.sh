#!/usr/bin/env bash
# nats.go 1.55.0 (jetstream), nats-server 2.15.2: CreateKeyValue of a bucket that is there, by a user
# who may use the bucket and ask for its stream.
# Guess: it finds the bucket, as KeyValue does, and needs no more; else it says which permission is missing.
# Seen: it asks $JS.API.INFO, for the whole account, and then $JS.API.STREAM.CREATE.KV_<bucket>, bucket or not. Without either the
# call ends with its context (5 s unless that says less); the permission is told to the connection's error handler only.
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

func user(name string, more ...string) *server.User {
	may := append([]string{"$JS.API.STREAM.INFO.KV_B", "$JS.API.DIRECT.GET.KV_B.>", "$KV.B.>"}, more...)
	return &server.User{Username: name, Password: "p", Permissions: &server.Permissions{Publish: &server.SubjectPermission{Allow: may}}}
}

func main() {
	dir, err := os.MkdirTemp(".", "store")
	must(err)
	const info, create = "$JS.API.INFO", "$JS.API.STREAM.CREATE.KV_B"
	s, err := server.NewServer(&server.Options{Host: "127.0.0.1", Port: -1, JetStream: true, StoreDir: dir, NoSigs: true, NoLog: true,
		Users: []*server.User{user("bucket"), user("create", create), user("info", info), user("both", info, create)}})
	must(err)
	s.Start()
	if !s.ReadyForConnections(20 * time.Second) {
		panic("not ready")
	}
	for _, name := range []string{"both", "bucket", "create", "info"} { // the first makes it
		refused := make(chan error, 10)
		nc, err := nats.Connect(s.ClientURL(), nats.UserInfo(name, "p"), nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) { refused <- err }))
		must(err)
		js, err := jetstream.New(nc)
		must(err)
		_, err = js.CreateKeyValue(context.Background(), jetstream.KeyValueConfig{Bucket: "B"})
		fmt.Printf("%s: CreateKeyValue: %v\n", name, err)
		if err != nil {
			fmt.Println("  told:", <-refused)
		}
		_, err = js.KeyValue(context.Background(), "B")
		fmt.Printf("  KeyValue: %v\n", err)
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
want='both: CreateKeyValue: <nil>
  KeyValue: <nil>
bucket: CreateKeyValue: context deadline exceeded
  told: nats: permissions violation: Permissions Violation for Publish to "$JS.API.INFO"
  KeyValue: <nil>
create: CreateKeyValue: context deadline exceeded
  told: nats: permissions violation: Permissions Violation for Publish to "$JS.API.INFO"
  KeyValue: <nil>
info: CreateKeyValue: context deadline exceeded
  told: nats: permissions violation: Permissions Violation for Publish to "$JS.API.STREAM.CREATE.KV_B"
  KeyValue: <nil>'
echo "$got"
[ "$got" = "$want" ] || { echo "changed; it was:"; echo "$want"; exit 1; }
