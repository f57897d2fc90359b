// Package config is the service's configuration: YAML, read strictly, every mistake reported at once with its place and
// what would be right; every scalar can be overridden by an environment variable.
//
// The types' tags are the one table of keys, defaults, ranges and descriptions. Decoding, checking, the environment
// variables' names and the printed defaults all follow it, so that a new key is one line.
package config
