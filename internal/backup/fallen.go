// Copyright The niodoo_exporter Authors
// SPDX-License-Identifier: Apache-2.0

package backup

import (
	"maps"
	"slices"
	"strings"
)

// Fall is a table or a collection that has lost most of its rows.
type Fall struct {
	Source string `json:"source"`
	Name   string `json:"name"`
	Before int64  `json:"before"`
	Now    int64  `json:"now"`
	// Gone says that it does not exist any more.
	Gone bool `json:"gone,omitempty"`
}

// minFallen is how many rows a table must have had for a fall to mean anything.
const minFallen = 100

// Fallen returns what has less than half of the rows that it had in another
// backup, and what had rows and has none. Redis is left out: its keys expire.
func Fallen(before, now Summary) []Fall {
	var all []Fall
	for _, source := range []string{"postgresql", "qdrant"} {
		// Where nothing was counted nothing is known.
		if len(now.Rows[source]) == 0 {
			continue
		}
		for _, name := range slices.Sorted(maps.Keys(before.Rows[source])) {
			had := before.Rows[source][name].Count
			has, there := counted(now.Rows[source], name)
			switch {
			case there && (has >= had || has > 0 && (2*has >= had || had < minFallen)):
			case !there && (had == 0 || source != "postgresql"): // a collection that changed is not counted
			default:
				all = append(all, Fall{Source: source, Name: name, Before: had, Now: has, Gone: !there})
			}
		}
	}
	return all
}

// counted returns a table's rows. With several databases a table's name begins
// with that of its database, which may have come or gone between two backups.
func counted(rows map[string]Rows, name string) (count int64, ok bool) {
	if r, ok := rows[name]; ok {
		return r.Count, true
	}
	_, bare, _ := strings.Cut(name, ":")
	for other, r := range rows {
		if other == bare || strings.HasSuffix(other, ":"+name) {
			count, ok = max(count, r.Count), true
		}
	}
	return count, ok
}
