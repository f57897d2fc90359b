// Package proxy has the rules of one registration: what the holder of a subscription does when something
// happens.
//
// Proxy is a plain value that starts nothing, sleeps nowhere and asks no clock: an input and the time go in
// (Step), what to do comes out (Effects). It promises: at most one attempt under way; an attempt at once
// after news of the cluster, through an open breaker too; and that a superseded proxy makes no attempt.
// Attempts are made by package registrar, events are received by package delivery, and the loop that owns
// all proxies of a store is package supervisor's.
package proxy
