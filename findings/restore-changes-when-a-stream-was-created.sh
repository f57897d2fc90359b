#!/usr/bin/env bash
# nats-server 2.15.2, JetStream; nats CLI 0.5.1: a stream is backed up, deleted and restored on one server.
# Guess: a restored stream is the same stream, so its creation time, by which clients tell whether a stream was made anew
# under an old name, is restored with it. Seen: created is the time of the restore, later than the time of the first message
# that the stream holds, while each message keeps its sequence, subject and time.
set -euo pipefail
dir="$(mktemp -d)"
server=
trap '[ -z "$server" ] || { kill "$server"; wait "$server" 2>/dev/null || true; }; rm -rf "$dir"' EXIT
cd "$dir"
export GOBIN="$dir" HOME="$dir/home" GOPATH="${GOPATH:-$(go env GOPATH)}" GOCACHE="${GOCACHE:-$(go env GOCACHE)}"
mkdir -p "$HOME"
go install github.com/nats-io/nats-server/v2@v2.15.2 2>/dev/null
go install github.com/nats-io/natscli/nats@v0.5.1 2>/dev/null
./nats-server -a 127.0.0.1 -p -1 -js -sd "$dir/store" --ports_file_dir "$dir" -l "$dir/log" &
server=$!
for _ in $(seq 100); do
  [ -s "$dir/nats-server_$server.ports" ] && break
  sleep 0.1
done
url="$(grep -o 'nats://127.0.0.1:[0-9]*' "$dir/nats-server_$server.ports" | head -n 1)"
nats() { ./nats --server "$url" "$@"; }
field() { nats stream info S --json | tr -d ' \n' | grep -o "\"$1\":\"[^\"]*\"" | head -n 1; }
nats stream add S --subjects 's.>' --defaults >/dev/null
for n in 1 2 3; do nats pub --quiet --jetstream s.x "$n" >/dev/null 2>&1 || nats pub s.x "$n" >/dev/null 2>&1; done
created="$(field created)" first="$(field first_ts)" last="$(field last_ts)"
nats stream backup S backup --no-progress >/dev/null 2>&1 || nats backup stream S backup >/dev/null 2>&1
nats stream rm -f S >/dev/null
nats stream restore backup --no-progress >/dev/null 2>&1 || nats backup restore stream backup >/dev/null 2>&1
same() { [ "$2" = "$3" ] && echo "$1: kept" || echo "$1: changed"; }
got="$(same created "$created" "$(field created)"; same 'first message' "$first" "$(field first_ts)"; same 'last message' "$last" "$(field last_ts)")"
want='created: changed
first message: kept
last message: kept'
echo "$got"
[ "$got" = "$want" ] || { echo "changed; it was:"; echo "$want"; exit 1; }
