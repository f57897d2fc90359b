// Package supervisor has the loops that keep an instance's registrations true: one a store.
//
// A loop owns all of its store's proxies (package proxy: the rules of one registration). It takes what
// happens from an inbox that merges bursts, steps the proxies, has attempts made in batches (package
// registrar: 10,000 due proxies are one pipelined write and one pipelined read-back), opens and closes
// endpoints (package delivery), moves subscriptions between instances (package rebalance), and tells how
// everything is (package status). The Supervisor starts and ends the loops and routes what happens to them.
//
// It promises: at most one attempt in flight per proxy; after a cluster event an attempt at once; no write
// that is not conditional on what was last seen; and that a run which another run of the same name
// superseded never writes again.
package supervisor
