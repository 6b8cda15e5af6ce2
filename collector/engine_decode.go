// Copyright The niodoo_exporter Authors
// SPDX-License-Identifier: Apache-2.0

package collector

import (
	"bytes"
	"cmp"
	"encoding/json"
	"slices"
	"strconv"
	"strings"

	"github.com/niodoo/niodoo_exporter/internal/promtext"
)

// Bounds of one answer. What is beyond is counted as rejected, reason limit.
const (
	maxEngineValues = 10_000
	maxEngineParts  = 32
	maxEngineLabels = 64 // layers or brains of one metric
)

// engineAnswer is what one endpoint said, whichever dialect it speaks.
type engineAnswer struct {
	readings []engineReading
	parts    []enginePart
	rejected [len(engineRejects)]int

	// From a JSON answer and its envelope:
	failed  bool   // "success": false
	code    string // of the error that says why
	status  []byte // nil if there is none
	version string
}

// engineReading is the value of a row of engineFields.
type engineReading struct {
	row   int
	label string // layer or brain, where the metric has one
	value float64
	hist  *buckets
}

// desc is the metric that the reading is of.
func (r *engineReading) desc() *Desc {
	if r.hist != nil {
		return engineFields[r.row].distribution
	}
	return engineFields[r.row].metric
}

// enginePart is the health of a part of the engine.
type enginePart struct {
	name    string
	healthy bool
}

// decodeEngine reads an answer of the named endpoint: JSON, flat or in an
// envelope, or Prometheus text, whatever it is called: the first byte tells.
// Only HTML and an empty answer need the content type, and an empty text is an
// answer without values.
func decodeEngine(endpoint string, r *reply) (*engineAnswer, error) {
	if r.isHTML() {
		return nil, failf(ReasonParse, "%s: the answer is HTML", r.what)
	}
	body := bytes.TrimSpace(bytes.TrimPrefix(r.body, []byte("\ufeff")))
	d := &engineDecoder{endpoint: endpoint}
	switch {
	case len(body) == 0:
		if strings.Contains(r.header.Get("Content-Type"), "json") {
			return nil, failf(ReasonParse, "%s: the answer is empty, which is not JSON", r.what)
		}
	case body[0] == '{', body[0] == '[':
		if !d.json(body) {
			return nil, failf(ReasonParse, "%s: the answer is not valid JSON", r.what)
		}
	default: // also text that a framework calls JSON
		if stats := d.text(body); stats.Samples == 0 && stats.Total() > 0 {
			return nil, failf(ReasonParse, "%s: the answer is neither JSON nor Prometheus text", r.what)
		}
	}
	d.reduce()
	return &d.engineAnswer, nil
}

// engineValue is a value as it stands in the answer, in base units.
type engineValue struct {
	row   int
	label string
	// series tells values of the same row and label apart: the labels of a
	// text sample, the position of a JSON field.
	series string
	value  float64
	adds   bool // series add up to the whole: counters in text
	bad    bool // rejected and counted; what it is part of has no value either
}

type engineDecoder struct {
	engineAnswer
	endpoint string
	values   []engineValue
	over     bool // some values are left out

	// JSON: what is left, the keys that lead here and the brain we are in.
	rest  []byte
	path  [][]byte
	brain string
}

// add notes a value of a field, in the unit of the source.
func (d *engineDecoder) add(row int, label, series string, v float64, adds bool) {
	f := &engineFields[row]
	base, why, ok := f.base(v)
	switch {
	case len(f.metric.Labels) > 0 && label == "": // of which layer?
		d.rejected[rejectAmbiguous]++
	case len(d.values) >= maxEngineValues:
		d.rejected[rejectLimit]++
		d.over = true
	case !ok:
		d.rejected[why]++
		if adds {
			d.values = append(d.values, engineValue{row: row, label: label, series: series, adds: true, bad: true})
		}
	default:
		if d.values == nil {
			d.values = make([]engineValue, 0, 16)
		}
		d.values = append(d.values, engineValue{row: row, label: label, series: series, value: base, adds: adds})
	}
}

// reduce makes one reading of the values of each row and label. Counters of
// several series in text are summed, or left out if one of them could not be
// used: a sum that falls for a moment looks like a restart. A gauge with several
// series that differ has no one value: it is rejected as ambiguous.
func (d *engineDecoder) reduce() {
	same := func(a, b engineValue) int {
		return cmp.Or(cmp.Compare(a.row, b.row), strings.Compare(a.label, b.label))
	}
	if !slices.IsSortedFunc(d.values, same) {
		slices.SortStableFunc(d.values, same)
	}
	labels, row := 0, -1
	for rest := d.values; len(rest) > 0; {
		n := 1
		for n < len(rest) && same(rest[0], rest[n]) == 0 {
			n++
		}
		group := rest[:n]
		rest = rest[n:]
		if group[0].row != row {
			labels, row = 0, group[0].row
		}
		if labels++; labels > maxEngineLabels {
			d.rejected[rejectLimit]++
			continue
		}
		if group[0].adds && (d.over || slices.ContainsFunc(group, func(v engineValue) bool { return v.bad })) {
			continue
		}
		v, ok := one(group)
		if !ok {
			d.rejected[rejectAmbiguous]++
			continue
		}
		d.readings = append(d.readings, engineReading{row: row, label: group[0].label, value: v})
	}
}

// one returns the value that a group of values of one field comes to.
func one(group []engineValue) (float64, bool) {
	if len(group) > 1 { // a series that is there twice: the last one counts
		bySeries := func(a, b engineValue) int { return strings.Compare(a.series, b.series) }
		slices.SortStableFunc(group, bySeries)
		kept := group[:0]
		for i := range group {
			if i+1 == len(group) || group[i].series != group[i+1].series {
				kept = append(kept, group[i])
			}
		}
		group = kept
	}
	v := group[0].value
	for _, g := range group[1:] {
		switch {
		case g.adds:
			v += g.value
		case g.value != v:
			return 0, false
		}
	}
	return v, true
}

// row returns which of a name's rows holds in this place; known says whether there are any.
func (d *engineDecoder) row(rows []int) (row int, known bool) {
	if rows == nil {
		return -1, false
	}
	for _, i := range rows {
		if engineFields[i].within == nil {
			return i, true
		}
	}
	for at := max(len(d.path)-2, -1); at >= -1; at-- {
		section := d.endpoint
		if at >= 0 {
			section = string(d.path[at])
		}
		for _, i := range rows {
			if slices.Contains(engineFields[i].within, section) {
				return i, true
			}
		}
	}
	return -1, true
}

// text reads Prometheus text.
func (d *engineDecoder) text(raw []byte) promtext.Stats {
	var (
		hists promtext.Histograms
		means map[int]*engineMean
	)
	stats := promtext.Parse(raw, func(s *promtext.Sample) {
		row, part, known := d.textRow(s)
		switch {
		case !known:
		case row < 0:
			d.rejected[rejectAmbiguous]++
		case hists.Add(s), part:
		case s.Type == promtext.Summary, s.Label("quantile") != "":
			if means == nil {
				means = map[int]*engineMean{}
			}
			if means[row] == nil {
				means[row] = &engineMean{}
			}
			means[row].add(s)
		default:
			f := &engineFields[row]
			label := ""
			if len(f.metric.Labels) > 0 {
				label = s.Label(f.metric.Labels[0])
			}
			d.add(row, label, series(s), s.Value, f.metric.TypeName() == "counter")
		}
	})
	d.rejected[rejectSyntax] += stats.Total()
	d.histograms(&hists)
	for row := range engineFields { // in the table's order
		if m := means[row]; m != nil && m.count > 0 {
			d.add(row, "", "", m.sum/m.count, false)
		}
	}
	return stats
}

// engineMean is the sum and count of a summary, over all its series.
type engineMean struct{ sum, count float64 }

func (m *engineMean) add(s *promtext.Sample) {
	switch {
	case strings.HasSuffix(s.Name, "_sum"):
		m.sum += s.Value
	case strings.HasSuffix(s.Name, "_count"):
		m.count += s.Value
	}
}

// textRow finds the row of a sample by its family, with or without _total. A
// histogram without a TYPE line shows only by the suffixes of its parts.
func (d *engineDecoder) textRow(s *promtext.Sample) (row int, part, known bool) {
	if row, known = d.row(engineByName[s.Family]); known {
		return row, false, true
	}
	if base, ok := strings.CutSuffix(s.Family, "_total"); ok {
		row, known = d.row(engineByName[base])
		return row, false, known
	}
	if s.Type != promtext.Untyped {
		return -1, false, false
	}
	for _, suffix := range [...]string{"_bucket", "_sum", "_count"} {
		if base, ok := strings.CutSuffix(s.Name, suffix); ok {
			row, known = d.row(engineByName[base])
			return row, true, known && row >= 0 && engineFields[row].distribution != nil
		}
	}
	return -1, false, false
}

// series tells a sample from others of its family.
func series(s *promtext.Sample) string {
	if len(s.Labels) == 0 {
		return ""
	}
	var b strings.Builder
	for _, l := range s.Labels {
		b.WriteString(l.Name)
		b.WriteByte(0xff) // never in a label
		b.WriteString(l.Value)
		b.WriteByte(0xff)
	}
	return b.String()
}

// histograms takes the histograms of the text: those of a row that wants the
// distribution as one, of others the mean. Several of one family are added up
// if their bounds are the same.
func (d *engineDecoder) histograms(hists *promtext.Histograms) {
	all, rejected := hists.All()
	d.rejected[rejectInconsistent] += rejected
	if rejected > 0 {
		return // a sum without it would look like a restart
	}
	for len(all) > 0 {
		b := &buckets{count: all[0].Count, sum: all[0].Sum, bounds: all[0].Bounds, counts: all[0].Counts}
		family, clash := all[0].Family, false
		rest := all[:0]
		for _, h := range all[1:] {
			switch {
			case h.Family != family:
				rest = append(rest, h)
			case !slices.Equal(h.Bounds, b.bounds):
				clash = true
			default:
				b.count, b.sum = b.count+h.Count, b.sum+h.Sum
				for i := range h.Counts {
					b.counts[i] += h.Counts[i]
				}
			}
		}
		all = rest
		d.histogram(family, b, clash)
	}
}

func (d *engineDecoder) histogram(family string, b *buckets, clash bool) {
	row, _ := d.row(engineByName[family])
	if row < 0 {
		return
	}
	f := &engineFields[row]
	switch {
	case clash:
		d.rejected[rejectAmbiguous]++
	case b.sum < 0:
		d.rejected[rejectRange]++
	case f.distribution == nil:
		if b.count > 0 {
			d.add(row, "", "", b.sum/float64(b.count), false)
		}
	default:
		if f.div != 0 {
			b.sum /= f.div
			for i := range b.bounds {
				b.bounds[i] /= f.div
			}
		}
		d.readings = append(d.readings, engineReading{row: row, hist: b})
	}
}

// json walks a JSON text and takes every known field wherever it stands, but
// not inside arrays: an array is a history or a list, not the engine's state.
// The brains are the exception. It reports whether the text is valid.
func (d *engineDecoder) json(raw []byte) bool {
	if !json.Valid(raw) {
		return false
	}
	d.rest = raw
	d.path = make([][]byte, 0, 8)
	d.value()
	return true
}

// value takes the value at the front of the rest, which is valid JSON.
func (d *engineDecoder) value() {
	switch d.next() {
	case '{':
		d.rest = d.rest[1:]
		for d.next() != '}' {
			key := d.str()
			d.next() // the colon
			d.rest = d.rest[1:]
			d.path = append(d.path, key)
			d.value()
			d.path = d.path[:len(d.path)-1]
			if d.next() == ',' {
				d.rest = d.rest[1:]
			}
		}
		d.rest = d.rest[1:]
	case '[':
		d.array()
	case '"':
		d.stringLeaf(d.str())
	default:
		word := d.word()
		switch word[0] {
		case 'n': // null: absent
		case 't', 'f':
			d.boolLeaf(word[0] == 't')
		default:
			d.numberLeaf(word)
		}
	}
}

// next skips white space and returns the byte at the front.
func (d *engineDecoder) next() byte {
	for d.rest[0] == ' ' || d.rest[0] == '\t' || d.rest[0] == '\n' || d.rest[0] == '\r' {
		d.rest = d.rest[1:]
	}
	return d.rest[0]
}

// str takes the string at the front.
func (d *engineDecoder) str() []byte {
	escaped := false
	for i := 1; ; i++ {
		switch d.rest[i] {
		case '\\':
			escaped = true
			i++
		case '"':
			raw := d.rest[:i+1]
			d.rest = d.rest[i+1:]
			if !escaped {
				return raw[1:i]
			}
			var s string
			_ = json.Unmarshal(raw, &s) // it is valid
			return []byte(s)
		}
	}
}

// word takes the number or literal at the front.
func (d *engineDecoder) word() []byte {
	i := bytes.IndexAny(d.rest, ",]} \t\r\n")
	if i < 0 {
		i = len(d.rest)
	}
	w := d.rest[:i]
	d.rest = d.rest[i:]
	return w
}

// array skips an array, or walks that of the brains.
func (d *engineDecoder) array() {
	start, depth := d.rest, 0
	for ok := true; ok; ok = depth > 0 {
		switch d.rest[0] {
		case '"':
			d.str()
			continue
		case '[', '{':
			depth++
		case ']', '}':
			depth--
		}
		d.rest = d.rest[1:]
	}
	if n := len(d.path); n > 0 && string(d.path[n-1]) == "brains" && d.brain == "" {
		after := d.rest
		d.brains(start[:len(start)-len(after)])
		d.rest = after
	}
}

// brains walks the array of /api/v1/brain/status.
func (d *engineDecoder) brains(raw []byte) {
	var elements []json.RawMessage
	_ = json.Unmarshal(raw, &elements)
	for _, e := range elements {
		var b struct{ Type, Status string }
		if json.Unmarshal(e, &b) != nil || b.Type == "" {
			continue
		}
		if b.Status != "" {
			d.part(b.Type, engineWord(b.Status, enginePartWords))
		}
		d.brain, d.rest = b.Type, e
		d.value()
		d.brain = ""
	}
}

// inEnvelope reports whether we are at the top of the answer or of its data.
func (d *engineDecoder) inEnvelope() bool {
	return len(d.path) == 1 || len(d.path) == 2 && string(d.path[0]) == "data"
}

// isPart returns the name of the component whose status the leaf is:
// components: {NAME: "healthy"} or components: {NAME: {status: "healthy"}}.
func (d *engineDecoder) isPart() (string, bool) {
	n := len(d.path)
	switch {
	case n >= 2 && string(d.path[n-2]) == "components":
		return string(d.path[n-1]), true
	case n >= 3 && string(d.path[n-3]) == "components" && string(d.path[n-1]) == "status":
		return string(d.path[n-2]), true
	}
	return "", false
}

func (d *engineDecoder) part(name string, healthy bool) {
	switch {
	case name == "": // of what?
		d.rejected[rejectAmbiguous]++
	case len(d.parts) >= maxEngineParts:
		d.rejected[rejectLimit]++
	default:
		d.parts = append(d.parts, enginePart{name, healthy})
	}
}

func (d *engineDecoder) stringLeaf(s []byte) {
	if len(d.path) == 0 {
		return
	}
	if name, ok := d.isPart(); ok {
		d.part(name, engineWord(string(s), enginePartWords))
		return
	}
	switch key := d.path[len(d.path)-1]; {
	case d.inEnvelope() && string(key) == "status":
		if d.status == nil || len(d.path) == 2 { // that of data is the engine's, the other may be the answer's
			d.status = s
		}
	case d.inEnvelope() && string(key) == "version":
		d.version = string(s)
	case d.inEnvelope() && string(key) == "overall_status":
		d.part("brains", engineWord(string(s), enginePartWords))
	case len(d.path) == 2 && string(d.path[0]) == "error" && string(key) == "code":
		d.code = string(s)
	default:
		d.notANumber()
	}
}

func (d *engineDecoder) boolLeaf(v bool) {
	if len(d.path) == 0 {
		return
	}
	if name, ok := d.isPart(); ok {
		d.part(name, v)
		return
	}
	switch key := d.path[len(d.path)-1]; {
	case len(d.path) == 1 && string(key) == "success":
		d.failed = !v
	case d.inEnvelope() && string(key) == "status":
		d.stringLeaf([]byte(map[bool]string{true: "up", false: "false"}[v]))
	default:
		d.notANumber()
	}
}

// notANumber counts a known field whose value is something else.
func (d *engineDecoder) notANumber() {
	if row, _, ok := d.field(); ok && row >= 0 {
		d.rejected[rejectNotANumber]++
	}
}

func (d *engineDecoder) numberLeaf(word []byte) {
	if len(d.path) == 0 {
		return
	}
	row, label, ok := d.field()
	if !ok {
		return
	}
	if row < 0 {
		d.rejected[rejectAmbiguous]++
		return
	}
	v, err := strconv.ParseFloat(string(word), 64)
	if err != nil { // 1e999
		d.rejected[rejectNotFinite]++
		return
	}
	d.add(row, label, strconv.Itoa(len(d.values)), v, false)
}

// field returns the row of the leaf and its label. The value of a metric by
// layer is an object of layers.
func (d *engineDecoder) field() (row int, label string, known bool) {
	n := len(d.path)
	if row, known = d.row(engineByName[string(d.path[n-1])]); known {
		return row, d.brain, true
	}
	if n >= 2 {
		row, known = d.row(engineByName[string(d.path[n-2])])
		if known && row >= 0 && slices.Contains(engineFields[row].metric.Labels, "layer") {
			return row, string(d.path[n-1]), true
		}
	}
	return -1, "", false
}
