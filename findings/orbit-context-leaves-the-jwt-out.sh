#!/usr/bin/env bash
# orbit.go natscontext 0.1.1 on a context as nats context add --jwt FILE --seed FILE (nats CLI 0.5.1) writes it.
# Guess: who connects by such a context is the user of the JWT.
# Seen: natscontext reads user_jwt into its settings, does not know user_seed, and connects as nobody: the options of the
# connection have no JWT.
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
	"path/filepath"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/synadia-io/orbit.go/natscontext"
)

func main() {
	s, err := server.NewServer(&server.Options{Host: "127.0.0.1", Port: -1, NoSigs: true, NoLog: true})
	must(err)
	s.Start()
	if !s.ReadyForConnections(20 * time.Second) {
		panic("not ready")
	}
	file, err := filepath.Abs("context.json")
	must(err)
	must(os.WriteFile(file, fmt.Appendf(nil, `{"url": %q, "user_jwt": "/etc/user.jwt", "user_seed": "/etc/user.nk"}`, s.ClientURL()), 0o600))
	nc, settings, err := natscontext.Connect(file)
	must(err)
	fmt.Println("settings:", settings.UserJwt)
	fmt.Println("the connection has a JWT:", nc.Opts.UserJWT != nil)
}

func must(err error) {
	if err != nil {
		panic(err)
	}
}
GO
go get github.com/nats-io/nats-server/v2@v2.15.2 github.com/nats-io/nats.go@v1.55.0 github.com/synadia-io/orbit.go/natscontext@v0.1.1 >/dev/null 2>&1
got="$(GOFLAGS=-mod=mod go run .)"
want='settings: /etc/user.jwt
the connection has a JWT: false'
echo "$got"
[ "$got" = "$want" ] || { echo "changed; it was:"; echo "$want"; exit 1; }
