// Package instance is one run of subproxy: the two buckets, the session among other instances, the proxies,
// the endpoints that take their events, the cluster events that they hear, and the alerts that stand.
//
// It promises that the parts begin and end in the right order: nothing is claimed before the registry has
// been read and the session is open, a bucket that is gone is created again, and Stop hands over, releases,
// and gives the session back.
//
// It leaves to others what the parts do, where events go (Options.Sink), the connection, and what an
// operator asks. The service and package subproxy begin instances with it.
package instance
