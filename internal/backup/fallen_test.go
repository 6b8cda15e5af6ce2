// Copyright The niodoo_exporter Authors
// SPDX-License-Identifier: Apache-2.0

package backup

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestFallen(t *testing.T) {
	t.Parallel()
	of := func(source string, rows map[string]int64) Summary {
		s := Summary{Rows: map[string]map[string]Rows{source: {}}}
		for name, n := range rows {
			s.Rows[source][name] = Rows{Count: n}
		}
		return s
	}
	pg, qdrant := "postgresql", "qdrant"
	for name, test := range map[string]struct {
		source      string
		before, now map[string]int64
		want        []Fall
	}{
		"grown":            {pg, map[string]int64{"public.a": 10}, map[string]int64{"public.a": 11, "public.b": 0}, nil},
		"half is left":     {pg, map[string]int64{"public.a": 1000}, map[string]int64{"public.a": 500}, nil},
		"less than half":   {pg, map[string]int64{"public.a": 1000}, map[string]int64{"public.a": 499}, []Fall{{pg, "public.a", 1000, 499, false}}},
		"a small table":    {pg, map[string]int64{"public.a": 99}, map[string]int64{"public.a": 1}, nil},
		"empty":            {pg, map[string]int64{"public.a": 1}, map[string]int64{"public.a": 0}, []Fall{{pg, "public.a", 1, 0, false}}},
		"was empty":        {pg, map[string]int64{"public.a": 0}, map[string]int64{"public.a": 0}, nil},
		"gone":             {pg, map[string]int64{"public.a": 7}, map[string]int64{"public.b": 7}, []Fall{{pg, "public.a", 7, 0, true}}},
		"gone, was empty":  {pg, map[string]int64{"public.a": 0}, map[string]int64{"public.b": 7}, nil},
		"nothing counted":  {pg, map[string]int64{"public.a": 7}, nil, nil},
		"another database": {pg, map[string]int64{"public.a": 7}, map[string]int64{"x:public.a": 7, "y:public.a": 1}, nil},
		"one database":     {pg, map[string]int64{"x:public.a": 7}, map[string]int64{"public.a": 7}, nil},
		"points":           {qdrant, map[string]int64{"experiences": 601}, map[string]int64{"experiences": 3}, []Fall{{qdrant, "experiences", 601, 3, false}}},
		"points unknown":   {qdrant, map[string]int64{"experiences": 601}, map[string]int64{"failures": 3}, nil},
		"keys":             {"redis", map[string]int64{"db0": 601}, map[string]int64{"db0": 0}, nil},
	} {
		if d := cmp.Diff(test.want, Fallen(of(test.source, test.before), of(test.source, test.now))); d != "" {
			t.Errorf("%s: -want +got:\n%s", name, d)
		}
	}
}
