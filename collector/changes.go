// Copyright The niodoo_exporter Authors
// SPDX-License-Identifier: Apache-2.0

package collector

import "time"

// changes remembers values by key and when each was seen to change. It is for
// what has no change time of its own; its memory is that of the process.
type changes struct {
	seen map[string]change
}

type change struct {
	value string
	at    time.Time // zero until the value has changed before our eyes
}

// observe notes the value of a key and returns when it last changed, the zero
// time if it never has. The first sight of a key is no change.
func (c *changes) observe(key, value string, now time.Time) time.Time {
	if c.seen == nil {
		c.seen = map[string]change{}
	}
	e, known := c.seen[key]
	if known && e.value != value {
		e.at = now
	}
	e.value = value
	c.seen[key] = e
	return e.at
}

// keep forgets all keys but those for which it reports true, so that the
// memory does not grow with what came and went.
func (c *changes) keep(wanted func(key string) bool) {
	for k := range c.seen {
		if !wanted(k) {
			delete(c.seen, k)
		}
	}
}
