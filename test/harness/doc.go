// Package harness is what the tests of the whole are made of: programs (Program, Run, Instance), servers
// (Server, Relay), what is seen of them from outside (World), and what holds that against what should be
// (Judge). It knows the contract (subjects.md) in types of its own, and shares no code with the product,
// which so can't be wrong in both. Scenarios are left to package integration.
package harness
