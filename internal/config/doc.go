// Package config is the configuration of the subproxy service: a YAML file, over it the environment, under
// it the defaults.
//
// It promises that every mistake is reported at once, each with its line, its column and what would be
// right, and that a Config it returns has no missing or impossible value. The struct tags in config.go are
// the only table: decoding, ranges, environment names and WriteDefaults follow from them, so a new setting
// is one new field.
//
// Every scalar can be set by a variable named SUBPROXY_ and its path in upper case, joined by _, as in
// SUBPROXY_STORES_0_SUBSCRIPTIONS_1_SELECTOR; elements of lists only where the file has them. A variable
// that is set and empty sets an empty text.
//
// Anchors, aliases, merge keys, tags and several documents are refused. What the settings mean to NATS or
// to the rules is left to the packages that get them.
package config
