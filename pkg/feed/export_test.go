package feed

import "time"

// Polls is the configuration with another time between looks at the stream's last sequence.
func (c Config) Polls(every time.Duration) Config {
	c.pollInterval = every
	return c
}

// Pages is the configuration with another number of messages in one direct get.
func (c Config) Pages(messages int) Config {
	c.batchSize = messages
	return c
}
