// Package testbed starts what the bench, the demo and the tests look at from outside: NATS servers, one or
// several, in this process or in processes of their own (Cluster, Server), and programs (Process, Program).
// It promises that nothing that it started outlives this process, on Linux not even where this process is
// killed. What is measured or checked is left to others.
package testbed
