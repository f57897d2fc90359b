//go:build !race

package integration

// raceEnabled says that the race detector watches, and with it nats-server's code.
const raceEnabled = false
