// Copyright The niodoo_exporter Authors
// SPDX-License-Identifier: Apache-2.0

package humanize

import (
	"testing"
	"time"
)

func TestValue(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		unit string
		v    float64
		want string
	}{
		{Bytes, 0, "0 B"}, {Bytes, 1536, "1.50 KiB"}, {Bytes, -3 << 30, "-3 GiB"}, {BytesPerDay, 1 << 20, "1 MiB/d"},
		{BytesPerSec, 2048, "2 KiB/s"}, {Ratio, 0.9951, "99.51 %"}, {Ratio, 1, "100 %"}, {Ratio, 1e-7, "0 %"}, {Ratio, 0.123, "12.3 %"}, {Ratio, 0.5, "50 %"}, {Seconds, 0.0123, "12.3 ms"}, {Seconds, 4e-6, "4 us"},
		{Seconds, 90, "90 s"}, {Seconds, 93600, "1d2h"}, {"", 1234.5, "1234"}, {"per day", 3, "3 per day"}, {"", 0.00123456, "0.00123"},
	} {
		if got := Value(c.unit, c.v); got != c.want {
			t.Errorf("%v %s is %q, want %q", c.v, c.unit, got, c.want)
		}
	}
	if got := Signed(Bytes, 1024); got != "+1 KiB" {
		t.Error(got)
	}
	if got := Duration(-310 * time.Second); got != "-5m10s" {
		t.Error(got)
	}
}
