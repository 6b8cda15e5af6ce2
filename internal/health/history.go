// Copyright The niodoo_exporter Authors
// SPDX-License-Identifier: Apache-2.0

package health

import (
	"cmp"
	"context"
	"errors"
	"io/fs"
	"maps"
	"slices"
	"strings"

	"github.com/niodoo/niodoo_exporter/internal/opstate"
)

// History returns what earlier runs left in the state directory, the zero
// history where there is none.
func History(dir string) (opstate.HealthHistory, error) {
	h, err := opstate.Read[opstate.HealthHistory](dir)
	if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	return h, err
}

// Remember leaves the report in the state directory, for the exporter and for
// the next run, with what was told of it. A summary begins a new count.
func (r *Report) Remember(ctx context.Context, dir string, told Told, summary bool) error {
	doc := r.Document()
	err := opstate.Update(ctx, dir, func(h *opstate.Health) error { *h = doc; return nil })
	if err != nil {
		return err
	}
	return opstate.Update(ctx, dir, func(h *opstate.HealthHistory) error {
		if h.Since.IsZero() || summary {
			h.Since, h.Runs = doc.Finished, nil
		}
		if h.Runs == nil {
			h.Runs = map[opstate.Verdict]int64{}
		}
		h.Runs[doc.Verdict]++
		h.Add(r.changes(h.Last)...)
		h.Last = doc
		for _, note := range told.notes {
			note(h)
		}
		return nil
	})
}

// changes are the components whose verdict is another one than before. The
// first run changes nothing.
func (r *Report) changes(before opstate.Health) []opstate.HealthChange {
	if before.Finished.IsZero() {
		return nil
	}
	doc := r.Document()
	names := slices.AppendSeq(slices.Collect(maps.Keys(doc.Components)), maps.Keys(before.Components))
	slices.SortFunc(names, func(a, b string) int { return cmp.Or(cmp.Compare(order(a), order(b)), cmp.Compare(a, b)) })
	var out []opstate.HealthChange
	for _, name := range slices.Compact(names) {
		from, to := before.Components[name], doc.Components[name]
		if from == to {
			continue
		}
		c := opstate.HealthChange{At: doc.Finished, Component: name, From: from, To: to}
		if now := r.Component(name); now != nil {
			c.Why = strings.Join(now.Why, "; ")
		}
		out = append(out, c)
	}
	return out
}
