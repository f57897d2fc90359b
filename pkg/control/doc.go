// Package control is what an operator asks of running instances: a NATS micro service with an endpoint for
// each verb.
//
// It has the verbs, the requests, the answers and the errors, which are those of subjects.md, and a Client
// that asks. The Client gathers the answers of all instances, in all their parts; where an instance's
// answer lacks parts, it says so.
//
// How a request is carried out is not here: an instance (internal/service) answers. What an answer says of
// a proxy is a pkg/status.
package control
