// Package proxy holds subscriptions: it keeps each one's registration in the bucket true, and says how it is.
//
// The rules are in Proxy, a value that starts nothing, sleeps nowhere and asks no clock: an input and the time go in,
// what to do comes out. Around it, one loop per store owns all the store's proxies; it takes inputs from an inbox that
// merges bursts, and has attempts made in batches (package registrar): 10,000 due proxies are one pipelined write and one
// pipelined read-back. The Supervisor starts and ends the loops and routes what happens to them.
//
// It promises: at most one attempt in flight per proxy; after a cluster event an attempt at once; no write that is not
// conditional on what was last seen; and that a run which another run of the same name superseded never writes again.
package proxy
