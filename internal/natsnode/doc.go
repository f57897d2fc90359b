// Package natsnode runs a NATS server in this process: that of the embedded mode, and those of tests.
//
// A Node is a real nats-server with JetStream, on loopback. It keeps its name, ports and store from one
// start to the next, so that clients and routes find a restarted server where it was. Several servers, and
// servers that can be killed, are package testbed's.
//
// A Port that was picked is reserved for as long as its node exists, also while the server is down: nobody
// else is given it (see port_linux.go). That is why ports are picked here and not by the server, which lets
// go of them when it stops; and a JetStream cluster refuses to start without configured routes, so that
// route ports have to be known beforehand.
package natsnode
