// Copyright The niodoo_exporter Authors
// SPDX-License-Identifier: Apache-2.0

// Package humanize writes values for people.
package humanize

import (
	"fmt"
	"math"
	"strconv"
	"time"
)

// Units that are written in a way of their own; any other is written after the number.
const (
	Bytes       = "bytes"
	BytesPerDay = "bytes per day"
	BytesPerSec = "bytes per second"
	Ratio       = "ratio"
	Seconds     = "seconds"
)

// Value returns a value with its unit.
func Value(unit string, v float64) string {
	switch unit {
	case Bytes:
		return bytesText(v)
	case BytesPerDay:
		return bytesText(v) + "/d"
	case BytesPerSec:
		return bytesText(v) + "/s"
	case Ratio:
		return percent(100*v) + " %"
	case Seconds:
		return secondsText(v)
	}
	if unit == "" {
		return number(v)
	}
	return number(v) + " " + unit
}

// Signed is [Value] with a sign before what grows, too.
func Signed(unit string, v float64) string {
	if v > 0 {
		return "+" + Value(unit, v)
	}
	return Value(unit, v)
}

var prefixes = []string{"B", "KiB", "MiB", "GiB", "TiB", "PiB"}

func bytesText(v float64) string {
	i := 0
	for ; math.Abs(v) >= 1024 && i < len(prefixes)-1; i++ {
		v /= 1024
	}
	return number(v) + " " + prefixes[i]
}

func secondsText(v float64) string {
	switch a := math.Abs(v); {
	case a == 0:
		return "0 s"
	case a < 1e-3:
		return number(v*1e6) + " us"
	case a < 1:
		return number(v*1e3) + " ms"
	case a < 120:
		return number(v) + " s"
	}
	return Duration(time.Duration(v * float64(time.Second)))
}

// percent writes what is close to a hundred more exactly: there the difference
// to it is what matters.
func percent(v float64) string {
	if v >= 90 && v < 100 && v != math.Trunc(v) {
		return strconv.FormatFloat(v, 'f', 2, 64)
	}
	return number(v)
}

// number writes three digits, or all before the point.
func number(v float64) string {
	a := math.Abs(v)
	switch {
	case math.IsNaN(v) || math.IsInf(v, 0):
		return strconv.FormatFloat(v, 'g', -1, 64)
	case v == math.Trunc(v) || a >= 100:
		return strconv.FormatFloat(v, 'f', 0, 64)
	case a >= 10:
		return strconv.FormatFloat(v, 'f', 1, 64)
	case a >= 1:
		return strconv.FormatFloat(v, 'f', 2, 64)
	}
	if a < 5e-4 {
		return strconv.FormatFloat(v, 'f', 0, 64)
	}
	return strconv.FormatFloat(v, 'g', 3, 64)
}

// Duration returns the two largest parts of a duration: 3d4h, 5m10s.
func Duration(d time.Duration) string {
	sign := ""
	if d < 0 {
		sign, d = "-", -d
	}
	parts := []struct {
		unit string
		size time.Duration
	}{{"d", 24 * time.Hour}, {"h", time.Hour}, {"m", time.Minute}, {"s", time.Second}}
	for i, p := range parts {
		n := d / p.size
		if n == 0 {
			continue
		}
		text := fmt.Sprintf("%s%d%s", sign, n, p.unit)
		if i+1 < len(parts) {
			if rest := (d % p.size) / parts[i+1].size; rest > 0 {
				text += fmt.Sprintf("%d%s", rest, parts[i+1].unit)
			}
		}
		return text
	}
	return sign + "0s"
}
