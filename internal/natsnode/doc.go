// Package natsnode runs NATS servers for what brings its own: the embedded mode, the bench, the demo and the tests.
//
// They are real nats-servers with JetStream, on loopback: a Node in this process, a Cluster of nodes, or a Process, which
// is a child that can be killed (SIGKILL) and frozen (SIGSTOP) as a machine would be. All of them keep their name, ports
// and store from one start to the next, so that clients and routes find a restarted server where it was.
//
// A port that was picked is reserved for as long as its node exists, also while the server is down: nobody else is given
// it (see port_linux.go). That is why ports are picked here and not by the server, which lets go of them when it stops;
// and a JetStream cluster refuses to start without configured routes, so that route ports have to be known beforehand.
package natsnode
