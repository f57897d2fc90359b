#!/usr/bin/env bash
# nats-server 2.15.2 with JetStream: SIGHUP, where the names of server and cluster are flags (--name, --cluster_name) and the rest
# is in the configuration file.
# Guess: flags hold through a reload, as --port, --cluster and --store_dir do.
# Seen: the names don't: the server refuses the whole file, and only its log says so. With the names in the file it takes it over.
set -euo pipefail
dir="$(mktemp -d)"
server=
trap '[ -z "$server" ] || kill "$server"; rm -rf "$dir"' EXIT
cd "$dir"
GOBIN="$dir" go install github.com/nats-io/nats-server/v2@v2.15.2 >/dev/null 2>&1
await() { # a text of the server's log
	for _ in $(seq 200); do
		if grep -qE "$1" log 2>/dev/null; then return; fi
		sleep 0.1
	done
	cat log
	return 1
}
reload() { # what it is called here, what the file has beside users, further flags
	printf '%s\nauthorization {users: [{user: u, password: p}]}\n' "$2" > server.conf
	rm -rf log store
	./nats-server -c server.conf --addr 127.0.0.1 --port -1 --jetstream --store_dir store --log log "${@:3}" &
	server=$!
	await 'Server is ready'
	kill -HUP "$server"
	await 'Failed to reload|Reloaded server configuration'
	echo "$1: $(grep -oE 'Failed to reload.*|Reloaded server configuration' log)" >> seen
	kill "$server"
	wait "$server" || true
	server=
}
route="--cluster nats://127.0.0.1:$((20000 + RANDOM % 10000)) --routes nats://127.0.0.1:1"
reload 'alone, name by flag' '' --name n1
reload 'alone, name in the file' 'server_name: n1'
reload 'cluster, both by flag' '' --name n1 --cluster_name c $route
reload 'cluster, its own name in the file' 'server_name: n1' --cluster_name c $route
reload 'cluster, both in the file' 'server_name: n1, cluster {name: c}' $route
got="$(cat seen)"
want='alone, name by flag: Failed to reload server configuration: config reload not supported for ServerName: old=n1, new=
alone, name in the file: Reloaded server configuration
cluster, both by flag: Failed to reload server configuration: jetstream cluster requires `server_name` to be set
cluster, its own name in the file: Failed to reload server configuration: jetstream cluster requires `cluster.name` to be set
cluster, both in the file: Reloaded server configuration'
echo "$got"
[ "$got" = "$want" ] || { echo "changed; it was:"; echo "$want"; exit 1; }
