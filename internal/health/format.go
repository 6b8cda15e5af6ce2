// Copyright The niodoo_exporter Authors
// SPDX-License-Identifier: Apache-2.0

package health

import (
	"fmt"
	"math"
	"strconv"
	"time"
)

// Format writes a value of a threshold's unit for people: ratios as per cent,
// times and bytes in the unit that fits.
func Format(v float64, unit string) string {
	switch unit {
	case "":
		return number(v)
	case "ratio":
		return number(100*v) + " %"
	case "seconds":
		return duration(v)
	case "bytes":
		return byteSize(v)
	case "celsius":
		return number(v) + " °C"
	}
	return number(v) + " " + unit
}

// number writes a value with up to four digits that matter.
func number(v float64) string {
	if math.Abs(v) >= 1000 || v == math.Trunc(v) {
		return strconv.FormatFloat(v, 'f', 0, 64)
	}
	return strconv.FormatFloat(v, 'g', 4, 64)
}

func duration(seconds float64) string {
	day := 24 * time.Hour
	d := time.Duration(seconds * float64(time.Second))
	switch a := d.Abs(); {
	case a < time.Millisecond:
		return number(seconds*1e6) + " µs"
	case a < time.Second:
		return number(seconds*1e3) + " ms"
	case a < time.Minute:
		return number(seconds) + " s"
	case a < time.Hour:
		return d.Round(time.Second).String()
	case a < 2*day:
		return fmt.Sprintf("%.1f h", d.Hours())
	}
	return fmt.Sprintf("%.1f days", d.Hours()/24)
}

func byteSize(v float64) string {
	units := []string{"B", "KiB", "MiB", "GiB", "TiB", "PiB"}
	i := 0
	for ; math.Abs(v) >= 1024 && i < len(units)-1; i++ {
		v /= 1024
	}
	return number(math.Round(v*10)/10) + " " + units[i]
}
